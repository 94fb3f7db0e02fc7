"""How far labels agree beyond chance: Krippendorff's alpha, nominal.

Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), by the coincidence matrix.
"""

from __future__ import annotations

import numpy as np


def alpha_from_coincidences(coincidences: np.ndarray) -> float:
    """Nominal alpha from a symmetric coincidence matrix, float (k, k).

    Returns:
        1 - observed / expected disagreement; 1.0 where all values are the same label, NaN without pairable values.
    """
    totals = coincidences.sum(axis=1)
    n = totals.sum()
    if n <= 1:
        return float("nan")
    observed = n - np.trace(coincidences)
    expected = (n * n - (totals**2).sum()) / (n - 1)
    return float(1 - observed / expected) if expected else 1.0


def alpha_from_confusion(confusion: np.ndarray) -> float:
    """Nominal alpha of two raters from their confusion matrix, counts (k, k)."""
    return alpha_from_coincidences(confusion + confusion.T)
