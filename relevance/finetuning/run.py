"""Fine-tuning from files to files: read the pairs, train, keep the adapter, judge it on what was held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from cluster import storage
from cluster.models.files import fetch_model
from cluster.tracking import TrackedRun
from cluster.training.estimate import Estimated
from relevance.engines.loading import check_engine
from relevance.evaluation.pairs import TIED, shared_queries
from relevance.evaluation.predictions import ask_model
from relevance.evaluation.report import report_evaluation
from relevance.evaluation.run import judge
from relevance.finetuning.crossvalidation import cross_validate
from relevance.finetuning.finetune import FinetunedAdapter, finetune, split_judged
from relevance.finetuning.recipe import FinetuneSource, read_inputs


class CrossvalidateSource(FinetuneSource):
    """What is trained, on which labels, and how the labels are folded."""

    num_folds: int = Field(default=5, ge=2)
    """Folds, grouped by query."""

    fold_seed: int = 0
    """The same seed gives the same folds."""


def finetune_and_report(source: FinetuneSource, run: TrackedRun, *, shown: Mapping[str, Any]) -> None:
    """Train an adapter, send it to the run, and judge it by the engine that scores.

    It is judged on pairs that neither trained it nor chose its checkpoint.

    Raises:
        ValueError: If the base, the pairs or the settings are refused.
        RuntimeError: If training failed.
    """
    given = read_inputs(source, registry_uri=run.address.uri)
    run.tags({"base": given.base.version, "data": given.pairs.digest})
    rest, judged = split_judged(given.pairs.take(given.pairs.labels != TIED), source.finetuning)
    given = replace(given.without(judged) if judged else given, pairs=rest)
    if judged:
        given.refuse_learnt(judged)
        check_engine(source.engine, outputs=[source.output], models=[given.base])
    adapter = finetune(given, source, run, output=source.output, cache_dir=source.cache_dir)
    run.metrics(training_figures(adapter))
    _keep(adapter, run)
    left_out = f", {adapter.num_over_budget:,} over the token budget left out" if adapter.num_over_budget else ""
    given_pairs = f"{len(adapter.training)} pairs{left_out}"
    print(f"adapter  {source.output}, trained in {len(adapter.losses)} steps on {given_pairs}")
    if judged is None:
        print(f"run      {run.where}")
        return
    said = ask_model(judged.rows, adapter.model, source.engine)
    shared = shared_queries(judged, adapter.training)
    evaluation = judge(judged, said, source.evaluation, training=adapter.training, shared_queries=shared)
    report_evaluation(evaluation, storage.join_url(source.output, "evaluation"), shown, run)


def _keep(adapter: FinetunedAdapter, run: TrackedRun) -> None:
    """Send the adapter to the run, from where `runs:/…/adapter` names it."""
    model = adapter.model
    assert model.adapter is not None, "fine-tuning makes an adapter"
    for path in sorted(fetch_model(model.adapter, cache_dir=model.cache_dir).iterdir()):
        if path.is_file():
            run.artifact(f"adapter/{path.name}", path.read_bytes())


def training_figures(adapter: FinetunedAdapter) -> dict[str, float | None]:
    """Flat numbers for a tracked run."""
    return {
        "final_loss": float(np.mean(adapter.losses[-10:])),
        "steps": float(len(adapter.losses)),
        "pairs_over_budget": float(adapter.num_over_budget),
        "best_validation_alpha": max(adapter.alphas, default=None),
    }


def crossvalidate_and_report(source: CrossvalidateSource, run: TrackedRun, *, shown: Mapping[str, Any]) -> None:
    """Judge a way of fine-tuning on every pair, each by an adapter that did not see its query."""
    given = read_inputs(source, registry_uri=run.address.uri)
    check_engine(source.engine, outputs=[source.output], models=[given.base])
    try:
        pairs, said = cross_validate(
            given,
            source,
            run,
            num_folds=source.num_folds,
            seed=source.fold_seed,
            output=source.output,
            cache_dir=source.cache_dir,
        )
    except Estimated as fold:
        raise fold.times(source.num_folds) from None
    evaluation = judge(pairs, said, source.evaluation, shared_queries=0)  # folds keep a query's pairs together
    report_evaluation(evaluation, source.output, shown, run)
