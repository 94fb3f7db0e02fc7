"""Figures with their intervals, by drawing whole groups of rows anew a few thousand times.

A figure is a function of sums over rows. The sums are taken of each draw at once, and the same function gives the
observed figure and, from the draws, its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK_VALUES = 2**22
_MIN_DEFINED_FRACTION = 0.5
"""An interval over fewer draws than this share would be one of the lucky draws."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval."""

    value: float | None
    """None: it cannot be measured on these rows."""
    low: float | None = None
    high: float | None = None
    missing: str | None = None
    """Why there is no value, or no interval."""


class GroupBootstrap:
    """Draws of whole groups with replacement, since the rows of a group are not independent of each other."""

    def __init__(self, groups: np.ndarray, *, samples: int, seed: int) -> None:
        _, self._group_of_row = np.unique(groups, return_inverse=True)
        self.num_groups = int(self._group_of_row.max(initial=-1)) + 1
        self._samples, self._seed = samples, seed

    def sums(self, per_row: np.ndarray) -> np.ndarray:
        """Sum rows over the data and over every draw.

        Args:
            per_row: What each row adds, (n, ...). The draws are the same in every call.

        Returns:
            float64 (1 + samples, ...), the observed sums first.
        """
        per_group = np.zeros((self.num_groups, *per_row.shape[1:]))
        np.add.at(per_group, self._group_of_row, per_row)
        flat = per_group.reshape(self.num_groups, math.prod(per_row.shape[1:]))
        drawn = [flat.sum(axis=0, keepdims=True), *(weights @ flat for weights in self._draws())]
        return np.concatenate(drawn).reshape(-1, *per_row.shape[1:])

    def weights(self) -> np.ndarray:
        """How often each row is in the data, once, and in every draw: float64 (1 + samples, n).

        For figures that are no function of sums, such as those that need an order of the rows.
        """
        drawn = np.concatenate(list(self._draws()))[:, self._group_of_row]
        return np.concatenate([np.ones((1, len(self._group_of_row))), drawn])

    def _draws(self) -> Iterator[np.ndarray]:
        """How often each draw has each group, float64 (some, groups), in pieces that fit the memory."""
        if not self.num_groups:
            yield np.zeros((self._samples, 0))
            return
        chooser = np.random.default_rng(self._seed)
        equal = np.full(self.num_groups, 1 / self.num_groups)
        step = max(1, _CHUNK_VALUES // self.num_groups)
        for start in range(0, self._samples, step):
            size = min(step, self._samples - start)
            yield chooser.multinomial(self.num_groups, equal, size=size).astype(np.float64)


def summarise(
    values: np.ndarray,
    *,
    missing: str = "undefined on these rows",
    too_few: str = "too few groups for an interval",
) -> Figure:
    """Read a figure from its observed value and the resampled ones.

    Args:
        values: The observed one first, then one of every draw; NaN where it is undefined.
        missing: Why there is no value, if it is undefined.
        too_few: Why there is no interval, if it is undefined in most of the draws.
    """
    observed, drawn = float(values[0]), values[1:]
    if math.isnan(observed):
        return Figure(None, missing=missing)
    if np.isfinite(drawn).mean() < _MIN_DEFINED_FRACTION:
        return Figure(observed, missing=too_few)
    return Figure(observed, *interval(drawn))


def interval(drawn: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper end of what the draws give, those that are NaN left out; NaN where all are."""
    if not np.isfinite(drawn).any():
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def pooled(several: Sequence[np.ndarray], *, too_few: str = "too few groups for an interval") -> Figure:
    """Sum several measurements up (of other seeds, say): the mean, with the interval of all their draws together.

    The mean of intervals' ends would say nothing of how far the measurements lie apart.

    Args:
        several: Each as `summarise` takes it; one whose observed value is undefined leaves the mean undefined.
        too_few: Why there is no interval, if it is undefined in most of the draws.
    """
    mean = np.mean([values[0] for values in several])
    drawn = np.concatenate([values[1:] for values in several])
    return summarise(np.concatenate([[mean], drawn]), missing="undefined in one of them", too_few=too_few)
