"""How far counts moved from what they were: the size of a move, and whether chance alone explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import kolmogorov
from scipy.stats import norm
from scipy.stats import t as student

MIN_DAYS = 7
"""Earlier days from which on one may say what is usual."""

_PSEUDO_COUNT = 0.5
"""What an empty bin is taken for, so that its logarithm exists."""


def population_stability(counts: np.ndarray, reference: np.ndarray) -> float:
    """Give the population stability index (PSI) of two sets of counts over the same bins, less what chance gives.

    By custom below 0.1 nothing happened and above 0.2 something did. Two samples of one population have an index of
    about (bins - 1)(1/n + 1/m): that is taken off, so that few rows do not look like drift; never below 0.

    Args:
        counts: Of now, (bins,).
        reference: Of before, (bins,); NaN is returned where either is empty.
    """
    now, before = float(counts.sum()), float(reference.sum())
    if not now or not before:
        return math.nan
    used = (counts > 0) | (reference > 0)
    bins = int(used.sum())
    p = (counts[used] + _PSEUDO_COUNT) / (now + _PSEUDO_COUNT * bins)
    q = (reference[used] + _PSEUDO_COUNT) / (before + _PSEUDO_COUNT * bins)
    chance = (bins - 1) * (1 / now + 1 / before)
    return max(0.0, float(((p - q) * np.log(p / q)).sum()) - chance)


def kolmogorov_smirnov(counts: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Compare two samples by the largest distance of their distributions at the bins' edges.

    The distance over all values is never smaller, so that the p-value errs on the side of "nothing happened".

    Args:
        counts: Of now, (bins,) in order.
        reference: Of before, likewise.

    Returns:
        Distance in [0, 1] and p-value (asymptotic); (0, 1) where either is empty.
    """
    now, before = float(counts.sum()), float(reference.sum())
    if not now or not before:
        return 0.0, 1.0
    distance = float(np.abs(counts.cumsum() / now - reference.cumsum() / before).max())
    return distance, float(kolmogorov(distance * math.sqrt(now * before / (now + before))))


def share_difference(count: int, total: int, count_before: int, total_before: int) -> float:
    """Give the p-value (two-sided, pooled) of two shares being the same; 1 where either is of nothing."""
    if not total or not total_before:
        return 1.0
    pooled = (count + count_before) / (total + total_before)
    variance = pooled * (1 - pooled) * (1 / total + 1 / total_before)
    if variance <= 0:
        return 1.0
    z = (count / total - count_before / total_before) / math.sqrt(variance)
    return float(2 * norm.sf(abs(z)))


def holm(p_values: Sequence[float], *, level: float) -> np.ndarray:
    """Tell which of several tests reject (Holm 1979): the chance of even one false rejection is at most `level`."""
    found = np.asarray(p_values, float)
    order = np.argsort(found, kind="stable")
    passes = found[order] <= level / (len(found) - np.arange(len(found)))
    rejected = np.zeros(len(found), bool)
    rejected[order] = np.logical_and.accumulate(passes)
    return rejected


def share_shift(count: int, total: int, before: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Compare a share with earlier days', which differ from day to day by more than chance alone.

    How much more is measured on those days (overdispersion, never taken below none), so that a restless share has to
    move further than a steady one; with few days to measure it on, further still (Student's t).

    Args:
        count: Of now.
        total: Of which.
        before: (count, total) of each earlier day; days without rows are left out.

    Returns:
        The share before (NaN without any) and the p-value, two-sided; 1 with fewer than `MIN_DAYS` to compare with.
    """
    days = [(k, n) for k, n in before if n]
    all_counts, all_totals = sum(k for k, _ in days), sum(n for _, n in days)
    share = all_counts / all_totals if all_totals else math.nan
    if not total or len(days) < MIN_DAYS:
        return share, 1.0
    # An unseen event is not impossible: half a case tempers a share of 0 or 1.
    tempered = (all_counts + 0.5) / (all_totals + 1)
    unit = tempered * (1 - tempered)
    spread = max(1.0, sum((k - n * share) ** 2 / (n * unit) for k, n in days) / (len(days) - 1))
    score = (count / total - share) / math.sqrt(spread * unit * (1 / total + 1 / all_totals))
    return share, float(2 * student.sf(abs(score), len(days) - 1))


def size_shift(value: float, before: Sequence[float], *, least_variance: float = 0.0) -> tuple[float, float]:
    """Compare a positive number, such as a day's traffic, with earlier days' on a scale of ratios.

    Args:
        value: Of now.
        before: Of each earlier day; those that are not above 0 are left out.
        least_variance: Of the logarithm, by chance alone: 1/n for a count.

    Returns:
        The geometric mean before (NaN without any) and the p-value of belonging to those days; 1 with fewer than
        `MIN_DAYS`, and 0 for a value of 0.
    """
    logs = np.log([one for one in before if one > 0])
    usual = float(np.exp(logs.mean())) if len(logs) else math.nan
    if len(logs) < MIN_DAYS:
        return usual, 1.0
    if value <= 0:
        return usual, 0.0
    variance = max(float(logs.var(ddof=1)), least_variance, 1e-6)
    score = (math.log(value) - float(logs.mean())) / math.sqrt(variance * (1 + 1 / len(logs)))
    return usual, float(2 * student.sf(abs(score), len(logs) - 1))
