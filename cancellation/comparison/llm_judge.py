"""A language model as one of the approaches: its verdict's probability beside the others' scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field

from cancellation.comparison.figures import Judgements
from cancellation.decision.policy import load_policy
from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.llm.backend import Usage
from cancellation.llm.backends import BackendSettings, open_backend
from cancellation.llm.judging import Judged, judge
from cancellation.llm.labelling import Labeller, LabellingSettings
from cancellation.llm.retrieval import ExampleIndex, SentenceEncoder
from cluster.models.files import ModelName
from cluster.settings import Settings
from cluster.statistics.temperature import class_probabilities


class LlmRowSettings(Settings):
    """Which language model stands in the table."""

    backend: BackendSettings = BackendSettings()
    labelling: LabellingSettings = LabellingSettings()
    adapter: ModelName | None = None
    """LoRA adapter of the row `LLM fine-tuned`, from `jobs.cancellation_llm_finetune`; local models only."""

    num_candidates: int = Field(default=500, ge=10)
    """Training events among which the few-shot rows find their examples."""


def open_llm_judge(
    settings: LlmRowSettings, changes: Mapping[str, Any], candidates: Iterable[Example], *, cache_dir: str
) -> LlmJudge:
    """Open the model with what its row changes.

    Raises:
        ValueError: If the fine-tuned row has no adapter, or its model is not a local one.
    """
    backend, labelling = settings.backend, settings.labelling
    if changes.get("adapter"):
        if settings.adapter is None or backend.kind != "local":
            raise ValueError(
                "comparison.llm.adapter: expected an adapter beside a local model for the row LLM fine-tuned; make one "
                "with jobs.cancellation_llm_finetune, or leave the row out"
            )
        local = backend.local.model_copy(update={"adapter": settings.adapter})
        backend = backend.model_copy(update={"local": local})
    if changes.get("reflect"):
        judging = labelling.judging.model_copy(update={"reflect": True})
        labelling = labelling.model_copy(update={"judging": judging})
    index = None
    if changes.get("few_shot"):
        encoder = SentenceEncoder(labelling.retrieval, cache_dir=cache_dir)
        index = ExampleIndex(list(islice(candidates, settings.num_candidates)), encoder)
    labeller = Labeller(open_backend(backend, cache_dir=cache_dir), labelling, load_policy(), index)
    return LlmJudge(labeller, parallel=backend.parallel)


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
        factors = np.array([one.factor_probabilities for one in found]).reshape(-1, len(FACTORS))
        known = [one.answer.log_probabilities for one in found]
        if None in known:  # beside made-up ones a probability would rank events by chance
            verdicts = np.array([VERDICTS.index(one.answer.verdict) for one in found], int)
            return Judgements(np.eye(len(VERDICTS))[verdicts], factors, ranked=False)
        logits = np.array(known).reshape(-1, len(VERDICTS))
        return Judgements(class_probabilities(logits, self._labeller.settings.temperature), factors)

    @property
    def usage(self) -> Usage:
        """What all answers took together."""
        return sum((one.usage for one in self.judged), Usage())
