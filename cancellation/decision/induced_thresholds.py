"""From which score on a verdict says *induced*: where of the cases that it then accuses the promised share is right.

The likeliest class errs least often, but to accuse a seller wrongly costs more than to miss one, and people read
verdicts that no penalty follows: they promise the same precision. The score is the lowest of a grid at which
labelled cases show it; unlike of a penalty's threshold, nothing is proven of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cancellation.decision.thresholds import ThresholdSettings


@dataclass(frozen=True)
class InducedThreshold:
    """What labelled cases say of one market's verdicts."""

    threshold: float | None
    """None: the likeliest class is right often enough."""
    cases: int
    """Cases that are accused so."""
    precision: float | None
    """Share of them that were induced; None without any."""
    pooled: bool
    """Whether the cases are those of all markets, as this one has too few."""


def find_induced_thresholds(
    probabilities: np.ndarray,
    induced: np.ndarray,
    markets: Sequence[str],
    known: Sequence[str],
    settings: ThresholdSettings,
    weights: np.ndarray | None = None,
) -> dict[str, InducedThreshold]:
    """Choose for each of the `known` markets, by its own cases or, where these accuse too seldom, by all.

    Args:
        probabilities: Calibrated, of the classes that each event's market has, (n, 3), *induced* first.
        induced: True where the label is induced, (n,).
        markets: Of each event, n.
        known: Markets that want a threshold.
        settings: Has the precision, the grid and the fewest cases.
        weights: How many cancellations each event stands for, (n,); None: all alike.
    """
    said = probabilities.argmax(axis=1) == 0
    weights = np.ones(len(induced)) if weights is None else weights
    codes = np.asarray(markets)
    everywhere = _choose(probabilities[said, 0], induced[said], weights[said], settings, pooled=True)
    found = {}
    for market in known:
        own = said & (codes == market)
        alone = own.sum() >= settings.min_cases
        found[market] = (
            _choose(probabilities[own, 0], induced[own], weights[own], settings, pooled=False) if alone else everywhere
        )
    return found


def _choose(
    scores: np.ndarray, induced: np.ndarray, weights: np.ndarray, settings: ThresholdSettings, *, pooled: bool
) -> InducedThreshold:
    def share(above: np.ndarray) -> float | None:
        return float(np.average(induced[above], weights=weights[above])) if above.any() else None

    # What is punished is called induced too.
    grid = [threshold for threshold in settings.induced_grid if threshold <= settings.penalty_grid[-1]]
    candidates: list[float | None] = [None, *grid]
    for threshold in candidates:
        above = scores > (-np.inf if threshold is None else threshold)
        precision = share(above)
        if precision is None or precision >= settings.min_precision:
            break
    return InducedThreshold(threshold, int(above.sum()), precision, pooled)
