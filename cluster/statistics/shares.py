"""Shares of judged cases with exact bounds, where cases of one group (a seller, a query) may be alike."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, t


def lower_bound(correct: int, cases: int, *, confidence: float) -> float:
    """Give the one-sided Clopper-Pearson lower bound of a share; 0 without cases."""
    return float(beta.ppf(1.0 - confidence, correct, cases - correct + 1)) if correct else 0.0


def upper_bound(correct: float, cases: float, *, confidence: float) -> float:
    """Give the one-sided Clopper-Pearson upper bound of a share; 1 without cases."""
    return float(beta.ppf(confidence, correct + 1, cases - correct)) if correct < cases else 1.0


def clustered_lower_bound(
    correct: np.ndarray, groups: np.ndarray, *, confidence: float, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Give the lower bound of a share where cases of one group may be alike, and how many independent cases they are.

    Clopper and Pearson's bound at the effective number of cases (Korn and Graubard 1998): as many independent ones as
    would vary as much as groups' means do. Without an error there is nothing to see of that, and each group counts
    as one case.

    Args:
        correct: True where a case was right, (n,).
        groups: The group's number, from 0, (n,).
        confidence: One-sided.
        weights: How many cases each stands for, (n,), as where some kinds were drawn more often; None: all alike.
    """
    one = np.ones(len(correct)) if weights is None else weights
    sizes = np.bincount(groups, one)
    sizes, hits = sizes[sizes > 0], np.bincount(groups, one * correct)[sizes > 0]
    cases, num_groups, total = len(correct), len(sizes), one.sum()
    share = float((one * correct).sum() / total) if cases else 0.0
    # Groups that count unlike are worth as many alike ones as have the same variance (Kish 1965).
    alike = num_groups if weights is None else int(total**2 / (sizes**2).sum() + 1e-9) if cases else 0
    if (num_groups == cases and weights is None) or correct.all() or not correct.any() or num_groups < 2:
        return lower_bound(int(share * alike + 1e-9), alike, confidence=confidence), alike
    variance = num_groups / (num_groups - 1) * ((hits - share * sizes) ** 2).sum() / total**2
    few = t.ppf(confidence, cases - 1) / t.ppf(confidence, num_groups - 1)
    effective = min(cases, share * (1 - share) / max(variance, 1e-12) * few**2)
    return float(beta.ppf(1.0 - confidence, share * effective, (1 - share) * effective + 1)), effective


def clustered_interval(correct: np.ndarray, groups: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Give both ends of a share's interval, cases and groups as in `clustered_lower_bound`, n >= 1."""
    side = (1 + confidence) / 2
    low, above = (clustered_lower_bound(one, groups, confidence=side)[0] for one in (correct, ~correct))
    return low, 1.0 - above
