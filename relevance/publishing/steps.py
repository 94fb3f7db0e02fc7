"""From an adapter to a version that scoring may use: merge, quantise, check with the engine that runs it, decide."""

from __future__ import annotations

import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from cluster import storage
from cluster.models.causal_model import read_causal_config
from cluster.models.files import WEIGHTS_SUFFIX, ModelFiles, fetch_model, resolve_model
from cluster.models.listing import list_model
from cluster.models.publishing import Decision
from cluster.settings import Settings
from cluster.statistics.bootstrap import Figure
from relevance.engines.label_model import LabelModel
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings, paired_alpha_difference
from relevance.evaluation.pairs import TIED, EvaluationPairs, count_shared
from relevance.evaluation.predictions import Predictions, ask_model
from relevance.evaluation.run import Evaluation
from relevance.weights.checkpoint import save_checkpoint
from relevance.weights.loading import checkpoint_quantization, load_model
from relevance.weights.origin import TRAINING_FILE, learnt_queries, learnt_together, write_learnt_queries
from relevance.weights.quantization import copy_companions, quantize_folder

logger = logging.getLogger(__name__)


class PublishingSettings(Settings):
    """How a model is made ready, and what it has to show."""

    quantization: Literal["int8", "fp8", "none"] = "int8"
    """8-bit weights and activations (compressed-tensors W8A8): `int8` for CPUs and Ampere, `fp8` for Hopper and Ada.
    A base that is 8 bit already is published as it is."""

    unquantized: str | None = None
    """Regular expression found in the names of linear layers to leave alone; see `load_model`."""

    merge_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the merge and of the unquantised model. `auto`: bfloat16 beside a GPU, float32 on a CPU."""

    max_changed_fraction: float = Field(default=0.03, ge=0, le=1)
    """Share of labels that quantisation may change before the version stays a challenger."""

    min_alpha_difference: float = Field(default=-0.005, ge=-1, le=1)
    """What the lower end of the paired difference in alpha, new less champion, has to be above."""

    max_unlabelled_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of the pairs that the version may give no label: no figure counts them. The scoring job's own limit."""

    min_alpha: float = Field(default=0.36, ge=-1, le=1)
    """Alpha that a first champion needs."""

    min_f1_exact: float = Field(default=0.75, ge=0, le=1)
    """F1 of exact against the rest that a first champion needs."""


@dataclass(frozen=True)
class BuiltModel:
    """A model ready to be published."""

    files: ModelFiles
    merged: ModelFiles | None
    """The same weights before quantisation; None where the base came in 8 bits."""
    quantization: str
    adapter_base: str | None
    """What the adapter says that it was trained on."""
    learnt_queries: frozenset[str] | None = None
    """Digests of the queries that the weights have learnt from; None where the adapter, or a base without one, does
    not say."""


@dataclass(frozen=True)
class QuantizationEffect:
    """What 8 bits cost and bring, on the evaluation set, in the engine that will run the model."""

    changed_fraction: float
    """Share of pairs with another label, or with one before or afterwards alone."""
    mean_probability_change: float
    """Of the label that the unquantised model gave."""
    alpha_difference: Figure
    """Quantised less unquantised, paired."""
    speed_ratio: float | None
    """Quantised over unquantised, pairs per second of the engine."""
    pairs_per_second: float | None
    bytes: int
    unquantized_bytes: int


def build_model(
    base: ModelFiles, adapter: ModelFiles | None, output: str, settings: PublishingSettings, *, cache_dir: str
) -> BuiltModel:
    """Merge the adapter into the base and quantise the result, into `output`/merged and `output`/published.

    Folders of these names from an earlier attempt are replaced.

    Raises:
        ValueError: If base and adapter do not belong together.
    """
    base_dir = fetch_model(base, cache_dir=cache_dir)
    adapter_dir = fetch_model(adapter, cache_dir=cache_dir) if adapter else None
    merged_url, published_url = (storage.join_url(output, name) for name in ("merged", "published"))
    checkpoint = checkpoint_quantization(read_causal_config(base_dir), base_dir)
    if checkpoint is not None and adapter_dir is None:
        storage.remove(merged_url)
        with storage.local_folder(published_url, anew=True) as published:
            shutil.copytree(base_dir, published, dirs_exist_ok=True)
        return BuiltModel(resolve_model(published_url), None, checkpoint, None, learnt_queries(base_dir))
    queries = learnt_together(base_dir, adapter_dir)
    with storage.local_folder(merged_url, anew=True) as merged:
        _merge(base_dir, adapter_dir, merged, settings)
        (merged / TRAINING_FILE).unlink(missing_ok=True)
        if queries is not None:
            write_learnt_queries(queries, merged)
        with storage.local_folder(published_url, anew=True) as published:
            _quantize(merged, published, settings)
    built = resolve_model(published_url), resolve_model(merged_url)
    return BuiltModel(*built, settings.quantization, _adapter_base(adapter_dir), queries)


def _quantize(merged: Path, published: Path, settings: PublishingSettings) -> None:
    if settings.quantization == "none":
        shutil.copytree(merged, published, dirs_exist_ok=True)
    else:
        quantize_folder(merged, published, quantization=settings.quantization, unquantized=settings.unquantized)


def count_learnt(pairs: EvaluationPairs, built: BuiltModel) -> int | None:
    """Count the evaluation set's queries that the weights have learnt from; None where they do not say."""
    return count_shared(pairs, built.learnt_queries)


def _merge(base_dir: Path, adapter_dir: Path | None, folder: Path, settings: PublishingSettings) -> None:
    name = settings.merge_dtype
    if name == "auto":
        name = "bfloat16" if torch.cuda.is_available() else "float32"
    dtype = getattr(torch, name)
    logger.info("merging in %s", name)
    model = load_model(base_dir, adapter_dir=adapter_dir, device=torch.device("cpu"), dtype=dtype)
    model.config.dtype = dtype
    save_checkpoint(model, folder)
    copy_companions(base_dir, folder, prompt_from=adapter_dir)


def _adapter_base(adapter_dir: Path | None) -> str | None:
    if adapter_dir is None:
        return None
    return json.loads((adapter_dir / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path")


def ask_built(pairs: EvaluationPairs, built: ModelFiles, engine: EngineSettings, *, cache_dir: str) -> Predictions:
    """Load a built folder as scoring would, and label the evaluation set."""
    model = LabelModel(built, None, quantization="auto", cache_dir=cache_dir)
    return ask_model(pairs.rows, model, engine.model_copy(update={"quantization": "auto"}))


def measure_quantization(
    pairs: EvaluationPairs, quantized: Predictions, plain: Predictions, built: BuiltModel, settings: EvaluationSettings
) -> QuantizationEffect:
    """Compare the published model with itself before quantisation."""
    rows, either = np.flatnonzero(quantized.labelled & plain.labelled), quantized.labelled | plain.labelled
    chosen = plain.labels[rows]
    moved = np.abs(quantized.probabilities[rows, chosen] - plain.probabilities[rows, chosen])
    speeds = [len(rows) / said.engine_seconds if said.engine_seconds else None for said in (quantized, plain)]
    return QuantizationEffect(
        changed_fraction=1 - int((quantized.labels[rows] == chosen).sum()) / either.sum() if either.any() else math.nan,
        mean_probability_change=float(moved.mean()),
        alpha_difference=paired_difference(pairs, quantized, plain, settings),
        speed_ratio=speeds[0] / speeds[1] if speeds[0] and speeds[1] else None,
        pairs_per_second=speeds[0],
        bytes=weight_bytes(built.files),
        unquantized_bytes=weight_bytes(built.merged or built.files),
    )


def paired_difference(
    pairs: EvaluationPairs, new: Predictions, old: Predictions, settings: EvaluationSettings
) -> Figure:
    """Alpha of `new` less alpha of `old` on the pairs that both label and people have settled."""
    rows = (pairs.labels != TIED) & new.labelled & old.labelled
    return paired_alpha_difference(
        pairs.labels[rows],
        new.labels[rows],
        old.labels[rows],
        pairs.groups[rows],
        samples=settings.bootstrap_samples,
        seed=settings.seed,
    )


def weight_bytes(files: ModelFiles) -> int:
    """Bytes of a model's weights."""
    return sum(size for name, size in list_model(files).sizes.items() if name.endswith(WEIGHTS_SUFFIX))


def decide(
    evaluation: Evaluation,
    effect: QuantizationEffect | None,
    difference: Figure | None,
    settings: PublishingSettings,
    *,
    champion: str | None,
    learnt_queries: int | None,
    force_reason: str | None = None,
) -> Decision:
    """Say whether a version becomes champion.

    Args:
        evaluation: Of the version.
        effect: Of its quantisation; None where it came in 8 bits.
        difference: Alpha of the version less that of the champion, paired; None where they were not compared.
        settings: The limits.
        champion: Name of the present champion, None where there is none.
        learnt_queries: Queries of the evaluation set that the version has learnt from, see `count_learnt`.
        force_reason: Publish in spite of every rule, for this reason.
    """
    against = _objections(evaluation, learnt_queries, effect, difference, settings, champion)
    if against and force_reason:
        return Decision(True, f"forced ({force_reason}) although {'; '.join(against)}", force_reason)
    if against:
        return Decision(False, "; ".join(against))
    if champion is None:
        return Decision(True, f"first champion: alpha {evaluation.figures['alpha'].value:.3f} passes")
    assert difference is not None, "a champion without a difference is an objection"
    return Decision(
        True,
        f"alpha less that of {champion} is {difference.value:+.4f}, at least {difference.low:+.4f}, above the limit of "
        f"{settings.min_alpha_difference:+.4f}",
    )


def _objections(
    evaluation: Evaluation,
    seen: int | None,
    effect: QuantizationEffect | None,
    difference: Figure | None,
    settings: PublishingSettings,
    champion: str | None,
) -> list[str]:
    found = []
    if seen or evaluation.shared_queries:
        found.append(f"{seen or evaluation.shared_queries} queries of the evaluation set are in the training set")
    elif seen is None:
        found.append(
            "whether the model has learnt from queries of the evaluation set is not known (no training.json with "
            "training_queries beside the adapter): fine-tune it again, which leaves them there"
        )
    found += _against_word_overlap(evaluation.advantage)
    unlabelled, pairs = evaluation.counts["unlabelled"], evaluation.counts["pairs"]
    if unlabelled > settings.max_unlabelled_fraction * pairs:
        most = f"more than {settings.max_unlabelled_fraction:.2%}"
        found.append(f"{unlabelled:,} of {pairs:,} pairs get no label, {most}: no figure counts them")
    limit = settings.max_changed_fraction
    if effect and not effect.changed_fraction <= limit:  # NaN where no pair was labelled
        found.append(f"quantisation changes {effect.changed_fraction:.2%} of the labels, more than {limit:.2%}")
    if champion is None:
        for name, least in (("alpha", settings.min_alpha), ("f1_exact", settings.min_f1_exact)):
            value = evaluation.figures[name].value
            if value is None or value < least:
                shown = "missing" if value is None else f"{value:.3f}"
                found.append(f"{name} is {shown}, a first champion needs {least:.3f}")
    elif difference is None or difference.low is None:
        why = difference.missing if difference else "they were not compared"
        found.append(f"whether it is as good as {champion} is not known ({why})")
    elif difference.low <= settings.min_alpha_difference:
        found.append(
            f"alpha less that of {champion} is {difference.value:+.4f} and may be as low as {difference.low:+.4f}, the "
            f"limit is {settings.min_alpha_difference:+.4f}"
        )
    return found


def _against_word_overlap(advantage: Figure | None) -> list[str]:
    """A model that does not surely beat what costs nothing is not worth its cost."""
    if advantage is None or advantage.value is None or advantage.low is None:
        why = advantage.missing if advantage else "too few queries to fit it"
        return [f"whether it is better than word overlap is not known ({why})"]
    if not advantage.low > 0:
        return [f"alpha less that of word overlap is {advantage.value:+.4f} and may be as low as {advantage.low:+.4f}"]
    return []
