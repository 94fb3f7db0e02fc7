"""A language model as one of the approaches: its verdict's probability beside the others' scores.

What it answered is kept (`kept_answers.py`), so that nothing is paid twice, however often a table is made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field

from cancellation.comparison.figures import Judgements
from cancellation.comparison.kept_answers import KeptAnswers, answerer, paid_before, question_key
from cancellation.decision.policy import load_policy
from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.llm.backends import BackendSettings, open_backend, pin_backend
from cancellation.llm.labelling import Labeller, LabellingSettings
from cancellation.llm.retrieval import ExampleIndex, sentence_embedding
from cluster.endpoint.purse import Purse
from cluster.models.files import ModelName, resolve_model
from cluster.settings import Settings
from cluster.statistics.temperature import class_probabilities

_TAKEN = ("prompt_tokens", "completion_tokens", "cost_usd", "seconds_to_verdict", "seconds")


class LlmRowSettings(Settings):
    """Which language model stands in the table."""

    backend: BackendSettings = BackendSettings()
    labelling: LabellingSettings = LabellingSettings()
    adapter: ModelName | None = None
    """LoRA adapter of the row `LLM fine-tuned`, from `jobs.cancellation_llm_finetune`; local models only."""

    num_candidates: int = Field(default=500, ge=10)
    """Training events among which the few-shot rows find their examples."""

    max_failed_fraction: float = Field(default=0.05, ge=0, le=1)
    """Give a row up when a larger share of a set's events got no usable answer. The others count as `inconclusive`."""


def settings_of_row(settings: LlmRowSettings, changes: Mapping[str, Any]) -> tuple[BackendSettings, LabellingSettings]:
    """Apply what a row changes.

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
    return backend, labelling


def open_llm_judge(
    settings: LlmRowSettings,
    changes: Mapping[str, Any],
    candidates: Iterable[Example],
    *,
    answers: str,
    timed_on: str,
    cache_dir: str,
    registry_uri: str | None = None,
) -> LlmJudge:
    """Open the model with what its row changes.

    Args:
        settings: Of all rows.
        changes: Of this one.
        candidates: Events that a few-shot row may show.
        answers: Folder of the answers of all rows, this run's and earlier ones': they share one budget.
        timed_on: The processor's name; answers of a model in this process are timed on each anew.
        cache_dir: For copies of remote models.
        registry_uri: Where `models:/` names are looked up.

    Raises:
        ValueError: If the fine-tuned row has no adapter, or its model is not a local one.
    """
    backend, labelling = settings_of_row(settings, changes)
    index = None
    if changes.get("few_shot"):
        encoder = resolve_model(labelling.retrieval.encoder, registry_uri=registry_uri)
        embed = sentence_embedding(labelling.retrieval, encoder, cache_dir=cache_dir)
        index = ExampleIndex(list(islice(candidates, settings.num_candidates)), embed)
    purse = Purse(backend.endpoint.budget_usd, spent_usd=paid_before(answers))
    model = pin_backend(backend, registry_uri=registry_uri)
    labeller = Labeller(open_backend(backend, model, cache_dir=cache_dir, purse=purse), labelling, load_policy(), index)
    who = answerer(backend, model)
    if backend.kind == "local":
        who |= {"threads": backend.local.num_threads, "processor": timed_on}
    ask_again = labelling.ask_again or not backend.is_paid_per_request
    kept = KeptAnswers(answers, who, labelling.judging, ask_again=ask_again, parallel=backend.parallel)
    return LlmJudge(labeller, kept, max_failed_fraction=settings.max_failed_fraction)


class LlmJudge:
    """Asks a labeller's backend about every event; what each answer took is kept for the table."""

    def __init__(self, labeller: Labeller, kept: KeptAnswers, *, max_failed_fraction: float = 1.0) -> None:
        """Take a labeller, and what its backend has answered; more events without an answer than that end a judging."""
        self._labeller, self._kept, self._max_failed_fraction = labeller, kept, max_failed_fraction
        self.taken: list[dict[str, Any]] = []
        """Of all answers so far: tokens, USD, and seconds to the verdict and to the end."""

    def judge(self, events: Sequence[Event]) -> Judgements:
        """Judge events, in their order; one without a usable answer is `inconclusive`, since nothing follows from it.

        Raises:
            BudgetSpentError: If the budget holds no further request.
            OutageError: If the server gives no answers any more.
            RuntimeError: If too many events got no usable answer.
        """
        keys = [question_key(self._labeller, event) for event in events]
        answers = self._kept.ask({key: (event, self._labeller) for key, event in zip(keys, events, strict=True)})
        found = [{"error": None, **answers[key]} for key in keys]
        good = [row for row in found if row["error"] is None]
        self._refuse_failed([row["error"] for row in found if row["error"] is not None], len(found))
        self.taken += [{name: row[name] for name in _TAKEN} for row in good]
        named = [[float(code in (row.get("label_factors") or ())) for code in FACTORS] for row in found]
        factors = np.array(named).reshape(-1, len(FACTORS))
        answered = np.array([row["error"] is None for row in found], bool)
        said = np.array([VERDICTS.index(row.get("label", "inconclusive")) for row in found], int)
        probabilities = np.eye(len(VERDICTS))[said]
        ranked = all(row["logits"] is not None for row in good)
        if ranked and good:  # beside made-up ones a probability would rank events by chance
            logits = np.array([row["logits"] for row in good])
            probabilities[answered] = class_probabilities(logits, self._labeller.settings.temperature)
        return Judgements(probabilities, factors, ranked=ranked, answered=answered)

    def _refuse_failed(self, errors: Sequence[str], total: int) -> None:
        if len(errors) > self._max_failed_fraction * total:
            raise RuntimeError(
                f"{len(errors):,} of {total:,} events got no usable answer, first: {errors[0]}; see to it and run "
                "again, what is answered stays answered; or raise comparison.llm.max_failed_fraction"
            )
