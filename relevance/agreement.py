"""How far labels agree beyond chance: Krippendorff's alpha, nominal and ordinal.

Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), by the coincidence matrix.
"""

from __future__ import annotations

import numpy as np

from cluster.statistics.bootstrap import GroupBootstrap, interval


def alpha_from_coincidences(coincidences: np.ndarray) -> float:
    """Nominal alpha from a symmetric coincidence matrix, float (k, k).

    Returns:
        1 - observed / expected disagreement; NaN without pairable values, and where all of them are the same label:
        nobody could have disagreed by chance, so nothing says that anybody agreed by more.
    """
    return float(alphas_from_coincidences(coincidences))


def alphas_from_coincidences(coincidences: np.ndarray, *, ordinal: bool = False) -> np.ndarray:
    """Alpha of each of many symmetric coincidence matrices, float (..., k, k), as float (...).

    Ordinal alpha takes the labels' numbers for an order: a disagreement weighs as much as values lie between.
    """
    totals = coincidences.sum(axis=-1)
    n = totals.sum(axis=-1)
    weights = _ordinal_weights(totals) if ordinal else 1 - np.eye(coincidences.shape[-1])
    observed = (coincidences * weights).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * weights).sum(axis=(-2, -1))
    alpha = 1 - observed * (n - 1) / np.where(expected > 0, expected, 1)
    return np.where(expected > 0, alpha, np.nan)


def _ordinal_weights(totals: np.ndarray) -> np.ndarray:
    """Squared number of values between two labels, their own counted half, float (..., k, k)."""
    below = totals.cumsum(axis=-1) - totals / 2
    return (below[..., :, None] - below[..., None, :]) ** 2


def alpha_from_confusion(confusion: np.ndarray) -> float:
    """Nominal alpha of two raters from their confusion matrix, counts (k, k)."""
    return alpha_from_coincidences(confusion + confusion.T)


def nominal_alpha(ratings: np.ndarray) -> float:
    """Nominal alpha of any number of raters who need not have rated everything.

    Args:
        ratings: Label numbers, int (raters, units), -1 where a rater gave none.

    Returns:
        Alpha; NaN where no unit has two ratings, or only one label occurs among those that have.
    """
    return alpha_from_coincidences(unit_coincidences(ratings).sum(axis=0))


def unit_coincidences(ratings: np.ndarray) -> np.ndarray:
    """What each unit adds to the coincidence matrix, float (units, k, k); `ratings` as of `nominal_alpha`.

    A unit with m ratings adds each ordered pair of them with weight 1 / (m - 1); one with a single rating adds none.
    """
    num_labels = max(int(ratings.max(initial=0)) + 1, 1)
    counts = (ratings[:, :, None] == np.arange(num_labels)).sum(axis=0).astype(float)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(num_labels)
    pairs[:, diagonal, diagonal] -= counts
    return pairs / np.maximum(counts.sum(axis=1) - 1, 1)[:, None, None]


def alpha_interval(
    ratings: np.ndarray, groups: np.ndarray, *, confidence: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of alpha by bootstrap over groups, since the pairs of a query are not independent.

    Args:
        ratings: As of `nominal_alpha`.
        groups: The group (query) of each unit, (units,).
        confidence: Share of resampled values inside the interval.
        samples: Resamplings.
        seed: The same seed gives the same interval.

    Returns:
        Lower and upper end over the resamplings that have an alpha; NaN where none has.
    """
    sums = GroupBootstrap(groups, samples=samples, seed=seed).sums(unit_coincidences(ratings))
    return interval(alphas_from_coincidences(sums[1:]), confidence=confidence)
