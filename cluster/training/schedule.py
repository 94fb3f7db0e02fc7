"""The learning rate of a step: a linear rise, then half a cosine down to a floor (Loshchilov & Hutter, 2017)."""

from __future__ import annotations

import math


def warmup_cosine(step: int, total: int, *, warmup_fraction: float, floor: float) -> float:
    """Give the factor of the peak rate at a step, counted from 0 of `total`; in (0, 1], `floor` at the end."""
    warm_up = max(round(total * warmup_fraction), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    done = min((step - warm_up) / max(total - warm_up, 1), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
