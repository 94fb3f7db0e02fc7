"""Fine-tuning from files to files: read the pairs, train, keep the adapter, judge it on what was held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cluster.models.files import ModelFiles, fetch_model, resolve_model
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from cluster.training.train import TrainerSettings
from relevance.engines.label_model import load_tokenizer, open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import EvaluationPairs, read_evaluation_pairs
from relevance.evaluation.predictions import ask_model
from relevance.evaluation.report import report_evaluation
from relevance.evaluation.run import judge
from relevance.finetuning.crossvalidation import cross_validate
from relevance.finetuning.finetune import FinetunedAdapter, FinetuningSettings, finetune
from relevance.finetuning.pairs import WeakPairs, read_weak_pairs
from relevance.prompting.prompts import PROMPT_FILE, PromptEncoder, PromptSettings, load_prompt_settings


class Recipe(Settings):
    """How an adapter is trained and judged."""

    finetuning: FinetuningSettings = FinetuningSettings()
    trainer: TrainerSettings = TrainerSettings()
    engine: EngineSettings = EngineSettings()
    """Judges the adapter, as it would score."""

    evaluation: EvaluationSettings = EvaluationSettings()


class FinetuneSource(Recipe):
    """What is trained, on which labels."""

    base: str
    """Causal language model: folder, s3:// folder, models:/name@alias of MLflow, or hub id; not quantised."""

    input: str
    """Labelled pairs (parquet, CSV or JSONL; a file or folder, local or s3://), as the evaluation job takes them."""

    weak: str | None = None
    """CSV with the columns query, title, is_substitute (yes or no, noisy), which stretch few labels; see
    `finetuning.teaching`. Of the labelled pairs only query and title are looked at then."""

    output: str
    """Local folder for the adapter."""

    prompt: PromptSettings | None = None
    """The prompt to train on. None: the base's own (prompt.json beside it), else the full guidelines."""

    cache_dir: str = "~/.cache/marketplace-llm"
    """Where remote models are kept on a machine."""


class CrossvalidateSource(FinetuneSource):
    """What is trained, on which labels, and how the labels are folded."""

    num_folds: int = Field(default=5, ge=2)
    """Folds, grouped by query."""

    fold_seed: int = 0
    """The same seed gives the same folds."""


@dataclass(frozen=True)
class FinetuneInputs:
    """What the settings name, found and read."""

    base: ModelFiles
    encoder: PromptEncoder
    pairs: EvaluationPairs
    weak: WeakPairs | None


def read_inputs(source: FinetuneSource) -> FinetuneInputs:
    """Pin the base and read the pairs.

    Raises:
        ValueError: If the model or the pairs are refused.
    """
    base = resolve_model(source.base)
    folder = fetch_model(base, cache_dir=source.cache_dir, weights=False)
    if source.prompt is not None and (folder / PROMPT_FILE).exists() and source.prompt != load_prompt_settings(folder):
        raise ValueError(f"base {base.version} has a {PROMPT_FILE} of its own: leave the prompt's settings out")
    encoder = PromptEncoder(load_tokenizer(folder), source.prompt or load_prompt_settings(folder))
    weak = read_weak_pairs(Path(source.weak)) if source.weak else None
    return FinetuneInputs(base, encoder, read_evaluation_pairs(source.input), weak)


def finetune_and_report(source: FinetuneSource, run: TrackedRun, *, shown: Mapping[str, Any]) -> None:
    """Train an adapter, send it to the run, and judge it by the engine that scores, on the validation pairs.

    Raises:
        ValueError: If the base, the pairs or the settings are refused.
        RuntimeError: If training failed.
    """
    given = read_inputs(source)
    output = Path(source.output)
    run.tags({"base": given.base.version, "data": given.pairs.digest})
    adapter = finetune(
        given.base,
        given.encoder,
        given.pairs,
        given.weak,
        source.finetuning,
        source.trainer,
        run,
        output=output,
        cache_dir=source.cache_dir,
    )
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
        given.base,
        given.encoder,
        given.pairs,
        given.weak,
        source.finetuning,
        source.trainer,
        source.engine,
        run,
        num_folds=source.num_folds,
        seed=source.fold_seed,
        output=output,
        cache_dir=source.cache_dir,
    )
    report_evaluation(judge(pairs, said, source.evaluation), str(output), shown, run)
