"""Fine-tuning from files to files: read the pairs, train, keep the adapter, judge it on what was held back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cluster.tracking import TrackedRun
from relevance.engines.label_model import open_label_model
from relevance.evaluation.predictions import ask_model
from relevance.evaluation.report import report_evaluation
from relevance.evaluation.run import judge
from relevance.finetuning.crossvalidation import cross_validate
from relevance.finetuning.finetune import FinetunedAdapter, finetune
from relevance.finetuning.recipe import FinetuneSource, read_inputs


class CrossvalidateSource(FinetuneSource):
    """What is trained, on which labels, and how the labels are folded."""

    num_folds: int = Field(default=5, ge=2)
    """Folds, grouped by query."""

    fold_seed: int = 0
    """The same seed gives the same folds."""


def finetune_and_report(source: FinetuneSource, run: TrackedRun, *, shown: Mapping[str, Any]) -> None:
    """Train an adapter, send it to the run, and judge it by the engine that scores, on the validation pairs.

    Raises:
        ValueError: If the base, the pairs or the settings are refused.
        RuntimeError: If training failed.
    """
    given = read_inputs(source)
    output = Path(source.output)
    run.tags({"base": given.base.version, "data": given.pairs.digest})
    adapter = finetune(given, source, run, output=output, cache_dir=source.cache_dir)
    run.metrics(training_figures(adapter))
    for path in sorted(output.iterdir()):
        if path.is_file():
            run.artifact(f"adapter/{path.name}", path.read_bytes())
    print(f"adapter  {source.output}, trained in {len(adapter.losses)} steps on {len(adapter.training)} pairs")
    if adapter.validation is None:
        print(f"run      {run.where}")
        return
    model = open_label_model(given.base.source, str(output), quantization="none", cache_dir=source.cache_dir)
    said = ask_model(adapter.validation.rows, model, source.engine)
    judged = judge(adapter.validation, said, source.evaluation, training=adapter.training, shared_queries=0)
    report_evaluation(judged, str(output / "evaluation"), shown, run)


def training_figures(adapter: FinetunedAdapter) -> dict[str, float | None]:
    """Flat numbers for a tracked run."""
    return {
        "final_loss": float(np.mean(adapter.losses[-10:])),
        "steps": float(len(adapter.losses)),
        "best_validation_alpha": max(adapter.alphas, default=None),
    }


def crossvalidate_and_report(source: CrossvalidateSource, run: TrackedRun, *, shown: Mapping[str, Any]) -> None:
    """Judge a way of fine-tuning on every pair, each by an adapter that did not see its query."""
    given = read_inputs(source)
    output = Path(source.output)
    pairs, said = cross_validate(
        given,
        source,
        run,
        num_folds=source.num_folds,
        seed=source.fold_seed,
        output=output,
        cache_dir=source.cache_dir,
    )
    report_evaluation(judge(pairs, said, source.evaluation), str(output), shown, run)
