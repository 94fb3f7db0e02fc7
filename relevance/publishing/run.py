"""One run of the publishing job: build, judge, compare, register, and move the champion or say why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster import storage
from cluster.models.files import ModelName, fetch_model
from cluster.models.publishing import Decision, ReleaseSettings, publish_folder
from cluster.models.registry import ModelRegistry
from cluster.placement import run_placed
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.statistics.bootstrap import Figure
from cluster.tracking import TrackedRun
from relevance.engines.label_model import LabelModel, open_label_model
from relevance.engines.loading import check_engine
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import EvaluationPairs, read_evaluation_pairs, refuse_overlap
from relevance.evaluation.predictions import Predictions, ask_model
from relevance.evaluation.report import report_evaluation
from relevance.evaluation.run import Evaluation, judge
from relevance.publishing.model_card import CARD, write_card
from relevance.publishing.steps import (
    BuiltModel,
    PublishingSettings,
    QuantizationEffect,
    ask_built,
    build_model,
    count_learnt,
    decide,
    measure_quantization,
    paired_difference,
)


class PublishSource(ReleaseSettings):
    """What is published, on which evidence, and under which name."""

    base: ModelName | None = None
    """Causal language model: folder, s3:// folder, models:/name@alias of MLflow, or hub id. Needed unless rolling
    back."""

    adapter: ModelName | None = None
    """LoRA adapter to merge into the base, named like a model or runs:/id/adapter; null: the base is what is
    published."""

    input: InputUrl | None = None
    """Labelled pairs that decide, none of which the model has learnt from. Needed unless rolling back."""

    train: InputUrl | None = None
    """Pairs that the model learnt from: checked for shared queries, and what the baselines learn from."""

    allow_overlap: bool = False
    """Go on although `train` shares queries with `input`; such a version becomes champion by force alone."""

    output: OutputUrl = "var/published"
    """Folder in which the model is built, local or s3://: merged/, published/ and the evaluation."""

    name: str = Field(default="relevance", pattern=r"^[^/:@]+$")
    """Registered model in MLflow."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    gpu_hour_price: float = Field(default=0.0, ge=0)
    """For `--estimate`, in dollars; 0: no cost is printed."""


@dataclass(frozen=True)
class Candidate:
    """A built model with all that was found out about it."""

    built: BuiltModel
    predictions: Predictions
    evaluation: Evaluation
    effect: QuantizationEffect | None


def publish(
    source: PublishSource,
    registry: ModelRegistry,
    run: TrackedRun,
    *,
    publishing: PublishingSettings,
    engine: EngineSettings,
    evaluation: EvaluationSettings,
    shown: Mapping[str, Any],
) -> None:
    """Publish a model.

    Args:
        source: What, and on which evidence.
        registry: Where to.
        run: The MLflow run that keeps the files.
        publishing: How it is built, and the limits.
        engine: The one that will run the model.
        evaluation: How figures are measured.
        shown: The job's settings, as they may be shown.

    Raises:
        ValueError: If a setting is missing, the model or the data is refused, or the champion is gone.
        RuntimeError: If MLflow cannot take the model, or another job moved the champion meanwhile.
    """
    check_source(source)
    present = registry.champion_if_any() if source.force else registry.champion()
    evidence = _read(source)
    pairs = evidence[0]
    base = open_label_model(
        source.base or "", source.adapter, quantization="none", cache_dir=source.cache_dir, registry_uri=registry.uri
    )
    base.check()
    built_as = engine.model_copy(update={"quantization": publishing.quantization})
    check_engine(built_as, outputs=[source.output], models=base.parts)
    candidate = _build(base, source.output, evidence, publishing, engine, evaluation)
    report_evaluation(candidate.evaluation, source.output, shown, run)
    folder = fetch_model(candidate.built.files, cache_dir=source.cache_dir)

    def settle() -> Decision:
        difference = _compare(source, pairs, candidate, present, registry, engine, evaluation)
        run.metrics(_metrics(candidate.evaluation.advantage, candidate.effect, difference))
        return decide(
            candidate.evaluation,
            candidate.effect,
            difference,
            publishing,
            champion=f"{source.name}/{present}" if present else None,
            learnt_queries=count_learnt(pairs, candidate.built),
            force_reason=source.reason if source.force else None,
        )

    def register(decision: Decision, digest: str, run_id: str) -> str:
        card = _card(source, pairs, candidate, folder, decision, engine, digest, shown)
        run.artifact(CARD, card.encode())
        for place in {str(folder), candidate.built.files.source}:
            storage.write_bytes(storage.join_url(place, CARD), card.encode())
        tags = _tags(source, candidate)
        return registry.register(folder, digest, run_id=run_id, card=card, tags=tags)

    done = publish_folder(folder, registry, run, instead_of=present, decide=settle, register=register)
    if done.decision is None:
        print(f"{done.version} has exactly these files and is champion already")
    else:
        _print(source, done.version, candidate, done.decision)


def check_source(source: PublishSource) -> None:
    """Check what settings alone tell.

    Raises:
        ValueError: If base or input is missing, force has no reason, or output is no place to write to.
    """
    for name in ("base", "input"):
        if getattr(source, name) is None:
            raise ValueError(f"{name}: required, give {name}=VALUE (only rollback=true goes without)")
    if source.force and not source.reason:
        raise ValueError("force needs a reason, which is kept with the version: give reason='…'")
    storage.open_filesystem(source.output)


Evidence = tuple[EvaluationPairs, EvaluationPairs | None, int | None]
"""Pairs that judge, pairs that the model learnt from, queries that both have; None: not given, not counted."""


def _read(source: PublishSource) -> Evidence:
    pairs = read_evaluation_pairs(source.input or "")
    if source.train is None:
        return pairs, None, None
    training = read_evaluation_pairs(source.train)
    return pairs, training, refuse_overlap(pairs, training, allow=source.allow_overlap)


def _build(
    model: LabelModel,
    output: str,
    evidence: Evidence,
    publishing: PublishingSettings,
    engine: EngineSettings,
    settings: EvaluationSettings,
) -> Candidate:
    """Build the model, load it with its engine, judge it, and judge what quantisation did."""
    pairs, training, shared = evidence
    built = run_placed(
        build_model,
        model.base,
        model.adapter,
        storage.absolute_url(output),
        publishing,
        cache_dir=model.cache_dir,
        gpus=engine.gpus_per_actor,
        cpus=engine.cpus_per_actor,
    )
    learnt = count_learnt(pairs, built)
    shared = shared or learnt if learnt is not None else shared
    said = ask_built(pairs, built.files, engine, cache_dir=model.cache_dir)
    evaluation = judge(pairs, said, settings, training=training, shared_queries=shared)
    effect = None
    if built.merged is not None and built.quantization != "none":
        plain = ask_built(pairs, built.merged, engine, cache_dir=model.cache_dir)
        effect = measure_quantization(pairs, said, plain, built, settings)
    return Candidate(built, said, evaluation, effect)


def _compare(
    source: PublishSource,
    pairs: EvaluationPairs,
    candidate: Candidate,
    present: str | None,
    registry: ModelRegistry,
    engine: EngineSettings,
    settings: EvaluationSettings,
) -> Figure | None:
    """Ask the champion for the same pairs; None where there is none."""
    if present is None:
        return None
    name = f"models:/{source.name}/{present}"
    try:
        champion = open_label_model(
            name, None, quantization="auto", cache_dir=source.cache_dir, registry_uri=registry.uri
        )
        said = ask_model(pairs.rows, champion, engine.model_copy(update={"quantization": "auto"}))
    except (ValueError, OSError) as error:
        if source.force:
            return None
        raise ValueError(
            f"the champion {source.name}/{present} cannot be loaded to compare with ({error}): bring its files back, "
            "roll back (rollback=true), or publish with force=true and a reason"
        ) from None
    return paired_difference(pairs, candidate.predictions, said, settings)


def _card(
    source: PublishSource,
    pairs: EvaluationPairs,
    candidate: Candidate,
    folder: Path,
    decision: Decision,
    engine: EngineSettings,
    digest: str,
    shown: Mapping[str, Any],
) -> str:
    markets = sorted({market or "unknown" for market in pairs.markets}) if pairs.markets else []
    return write_card(
        candidate.built,
        folder,
        candidate.evaluation,
        candidate.effect,
        decision,
        name=source.name,
        content_digest=digest,
        markets=", ".join(markets) or "the set names no market",
        engine=engine.engine,
        settings=shown,
    )


def _tags(source: PublishSource, candidate: Candidate) -> dict[str, str]:
    return {
        "base": source.base or "",
        "adapter": source.adapter or "none",
        "quantization": candidate.built.quantization,
        "evaluation_data": candidate.evaluation.data_digest,
        "training_data": candidate.evaluation.training_digest or "not given",
        **{name: _short(candidate.evaluation.figures[name]) for name in ("alpha", "f1_exact")},
    }


def _short(figure: Figure) -> str:
    return "missing" if figure.value is None else f"{figure.value:.4f}"


def _metrics(
    advantage: Figure | None, effect: QuantizationEffect | None, difference: Figure | None
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    if advantage:
        found |= {"word_overlap_difference": advantage.value, "word_overlap_difference.low": advantage.low}
    if difference:
        found |= {"champion_difference": difference.value, "champion_difference.low": difference.low}
    if effect:
        found |= {
            "quantization.changed_fraction": effect.changed_fraction,
            "quantization.alpha_difference": effect.alpha_difference.value,
            "quantization.alpha_difference.low": effect.alpha_difference.low,
            "quantization.speed_ratio": effect.speed_ratio,
            "quantization.pairs_per_second": effect.pairs_per_second,
            "quantization.bytes": effect.bytes,
            "quantization.unquantized_bytes": effect.unquantized_bytes,
        }
    return found


def _print(source: PublishSource, version: str, candidate: Candidate, decision: Decision) -> None:
    effect = candidate.effect
    if effect:
        speed = f", {effect.speed_ratio:.2f} times the speed" if effect.speed_ratio else ""
        print(
            f"{candidate.built.quantization}: {effect.changed_fraction:.2%} of the labels changed, {effect.bytes:,} of "
            f"{effect.unquantized_bytes:,} bytes{speed}"
        )
    if decision.champion:
        print(f"{version} is champion: {decision.why}\nscore with model=models:/{source.name}@champion")
    else:
        print(f"{version} stays a challenger: {decision.why}")
