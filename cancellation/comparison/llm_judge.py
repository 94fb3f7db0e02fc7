"""A language model as one of the approaches: its verdict's probability beside the others' scores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cancellation.comparison.figures import Judgements
from cancellation.events.event import Event
from cancellation.events.factors import FACTORS
from cancellation.llm.backend import Usage
from cancellation.llm.judging import Judged, judge
from cancellation.llm.labelling import Labeller
from cluster.statistics.temperature import class_probabilities


class LlmJudge:
    """Asks a labeller's backend about every event; what each answer took is kept for the table."""

    def __init__(self, labeller: Labeller, *, parallel: int = 1) -> None:
        self._labeller, self._parallel = labeller, parallel
        self.judged: list[Judged] = []
        """Of all events so far."""

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order.

        Raises:
            BackendError: If one gets no answer.
        """
        settings = self._labeller.settings.judging

        def one(event: Event) -> Judged:
            return judge(self._labeller.backend, self._labeller.prompt(event), settings)

        with ThreadPoolExecutor(self._parallel) as pool:
            found = list(pool.map(one, events))
        self.judged += found
        logits = np.array([one.answer.logits for one in found]).reshape(-1, 3)
        factors = np.array([one.factor_probabilities for one in found]).reshape(-1, len(FACTORS))
        return Judgements(class_probabilities(logits, 1.0), factors)

    @property
    def usage(self) -> Usage:
        """What all answers took together."""
        return sum((one.usage for one in self.judged), Usage())
