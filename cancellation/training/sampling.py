"""Which events an epoch shows: most at random, the rest positives only, with the weights that undo it.

Positives are a quarter of all and teach most; showing them more often and weighing them less gives the same
expected loss with less noise in what they teach, so that scores stay probabilities.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cancellation.events.factors import VERDICTS
from cluster.settings import Settings


class SamplingSettings(Settings):
    """An epoch's draw."""

    random_fraction: float = Field(default=0.6, gt=0, le=1)
    """Share of an epoch drawn from all events; the rest is drawn from the induced ones."""

    class_balance: float = Field(default=0.0, ge=0, le=1)
    """Power of a class's inverse share by which its loss is weighed: 0 leaves probabilities as they are, 1 makes
    classes count alike (and scores need calibration all the more)."""


def draw_epoch(
    labels: np.ndarray, settings: SamplingSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw as many rows as there are labels, and each one's weight; the weights' mean is about 1.

    An event is drawn with probability q = r / N + (1 - r) [positive] / P where uniform draws have p = 1 / N; the
    weight is p / q.
    """
    positives = np.flatnonzero(labels == VERDICTS.index("induced"))
    count = len(labels)
    r = settings.random_fraction if len(positives) else 1.0
    num_random = round(r * count)
    repeats = -(-(count - num_random) // max(len(positives), 1))
    enriched = [rng.permutation(positives) for _ in range(repeats)]
    rows = np.concatenate([rng.permutation(count)[:num_random], *enriched])[:count]
    weights = np.full(count, 1.0 / r)
    if len(positives):
        weights[positives] = 1.0 / (r + (1.0 - r) * count / len(positives))
    if settings.class_balance:
        shares = np.bincount(labels, minlength=len(VERDICTS)) / count
        factors = np.where(shares > 0, np.maximum(shares, 1e-9) ** -settings.class_balance, 0.0)
        weights *= factors[labels] / np.mean(factors[labels])
    order = rng.permutation(count)
    return rows[order], weights[rows[order]].astype(np.float32)
