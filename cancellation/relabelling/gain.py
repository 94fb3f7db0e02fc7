"""What better labels are worth: every judge taught before and after, on a test that none of them had a say in.

The test is drawn by chance and looked at again whole, whatever models say of it. A test corrected only where one model
contradicts it would forgive that model's errors and nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cancellation.events.examples import Example
from cancellation.events.factors import VERDICTS
from cancellation.relabelling.judges import Workshop
from cluster.statistics.bootstrap import Figure, GroupBootstrap, summarise

_RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """One judge's accuracy on the corrected test."""

    kind: str
    before: Figure
    """Taught on the labels as they were."""
    after: Figure
    """Taught on the corrected ones."""
    change: Figure
    """Of the same events, with its 95 % interval over sellers."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def measure_gains(
    before: Sequence[Example], after: Sequence[Example], tests: Sequence[Example], workshop: Workshop
) -> list[Gain]:
    """Teach every judge that can be taught twice, and judge the tests.

    Args:
        before: Events to teach, with their labels as they were.
        after: The same with the corrected ones, and whatever came in beside them.
        tests: Events of other sellers, with settled labels.
        workshop: Trains.
    """
    if not tests:
        return []
    labels = np.array([VERDICTS.index(one.label) for one in tests])
    events = [one.event for one in tests]
    draws = GroupBootstrap(np.array([event.seller_id for event in events]), samples=_RESAMPLES, seed=0)
    gains = []
    for kind in workshop.settings.trained:
        said = [workshop.teach(kind, taught, name)(events) for taught, name in ((before, "before"), (after, "after"))]
        right = [(one.argmax(axis=1) == labels).astype(float) for one in said]
        sums = [draws.sums(one) / draws.sums(np.ones(len(labels))) for one in (*right, right[1] - right[0])]
        gains.append(Gain(kind, *(summarise(one) for one in sums)))
    return gains
