"""Whether a probability means what it says: predictions in bins, and their distance from what was so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Bin = TypeVar("Bin")


def bin_rows(predicted: np.ndarray, observed: np.ndarray, *, num_bins: int) -> np.ndarray:
    """What each row adds to the bin of its prediction.

    Args:
        predicted: Probabilities, (n,).
        observed: True where it was so, (n,).
        num_bins: Bins of equal width over [0, 1]; each but the last ends before the next begins.

    Returns:
        Rows, sum of what was predicted, sum of what was so: float (n, num_bins, 3).
    """
    content = np.stack([np.ones(len(predicted)), predicted, observed], axis=1)
    return np.eye(num_bins)[_places(predicted, num_bins)][:, :, None] * content[:, None, :]


def fill_bins(
    predicted: np.ndarray, observed: np.ndarray, *, num_bins: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Sum `bin_rows` over the rows, each as often as its weight says, (num_bins, 3), without holding them all."""
    places = _places(predicted, num_bins)
    one = np.ones(len(predicted)) if weights is None else weights
    columns = (one, one * predicted, one * observed)
    return np.stack([np.bincount(places, weights=column, minlength=num_bins) for column in columns], axis=1)


def _places(predicted: np.ndarray, num_bins: int) -> np.ndarray:
    return np.minimum((predicted * num_bins).astype(int), num_bins - 1)


def expected_calibration_error(bins: np.ndarray) -> np.ndarray:
    """Mean distance of predicted from observed, weighted by rows; bins (..., num_bins, 3); NaN without rows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1) / bins[..., 0].sum(axis=-1)


def reliability_bins(
    bins: np.ndarray, make: Callable[[float, float, int, float | None, float | None], Bin]
) -> tuple[Bin, ...]:
    """Give the points of a reliability plot.

    Args:
        bins: Of one set of rows, (num_bins, 3).
        make: Start, stop, rows, mean prediction and share that was so -> a point; the last two None in an empty bin.
    """
    return tuple(
        make(
            number / len(bins),
            (number + 1) / len(bins),
            int(rows),
            float(predicted / rows) if rows else None,
            float(observed / rows) if rows else None,
        )
        for number, (rows, predicted, observed) in enumerate(bins)
    )
