"""Train or find every approach, measure it on events that none has seen, and keep what is done.

A row's result is a file named by everything that it depends on: resubmitted, only what is missing is made.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from cancellation.comparison.approaches import (
    APPROACHES,
    BY_DEFAULT,
    NAMES,
    TEXT,
    Approach,
    Judge,
    NetworkJudge,
    RulesJudge,
    TreesJudge,
    collect_inputs,
    network_settings,
)
from cancellation.comparison.figures import Truth, compare
from cancellation.comparison.judging_speed import PriceSettings, Speed, answering_speed, measure_speed, processor_name
from cancellation.comparison.kept_answers import answerer
from cancellation.comparison.learners import TreeSettings
from cancellation.comparison.llm_judge import LlmJudge, LlmRowSettings, open_llm_judge, settings_of_row
from cancellation.comparison.sets import read_set, taught_by, training_examples, versions
from cancellation.decision.policy import load_policy, named_by_content
from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.llm.backends import learnt_by_adapter, pin_backend
from cancellation.llm.prompt import prompt_digest
from cancellation.model.learnt import learnt_by, refuse_taught
from cancellation.model.verdict_model import VerdictModel, load_verdict_model
from cancellation.simulation.simulator import SimulationSettings, Split
from cancellation.training.labelled_source import simulated_examples
from cancellation.training.run import TrainingSettings, contents_read, train_model
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.places import InputUrl
from cluster.provenance import code_digest, digest_of
from cluster.settings import Settings
from cluster.tracking import TrackedRun, TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings

logger = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("test_wordings", "test_tactics")
RANKED_BY = "recall_at_precision_95"
_STACKING_SEED = 5_000_011
BATCH = 32
ANSWERS = "answers"
"""Folder of what language models answered, beside the results."""


class ComparisonSettings(Settings):
    """What is compared, on what."""

    approaches: tuple[str, ...] = BY_DEFAULT
    """Rows of the table, by name; those of language models have to be named, since each event costs seconds."""

    pretrained: ModelName | None = None
    """Text encoder from `jobs.cancellation_pretrain`; null: every network starts from a random one."""

    shipped: ModelName = "cancellation/small_model"
    """The exported model of the row `shipped`, as it is."""

    num_events: int = Field(default=4000, ge=0)
    """Simulated events of each held-out set; their labels have no noise. 0: none, `sets` alone."""

    seed: int = Field(default=9000, ge=9000)
    """Of the held-out events. Seeds from 9000 on belong to evaluation: nothing may train or calibrate on them."""

    sets: dict[str, InputUrl] = Field(default_factory=dict)
    """Labelled events of one's own by a name for the table: a .jsonl or .parquet file or a folder of them."""

    stacking_events: int = Field(default=10_000, ge=100)
    """Simulated training events for the trees beside the text model, which never saw them."""

    resamples: int = Field(default=500, ge=20)
    """Bootstrap samples of each interval."""

    tree_events: int = Field(default=100_000, ge=100)
    """At most so many of the training events for the trees on the features, which learn in one piece of memory."""

    speed_events: int = Field(default=300, ge=0)
    """Events for latency and throughput, on one core; 0: not measured. Speeds belong to a processor: on another one
    they are measured anew, of the same models."""

    price: PriceSettings = PriceSettings()
    trees: TreeSettings = TreeSettings()
    llm: LlmRowSettings = LlmRowSettings()

    @field_validator("sets")
    @classmethod
    def _named_apart(cls, sets: dict[str, str]) -> dict[str, str]:
        if taken := sorted(set(sets) & set(SPLITS)):
            raise ValueError(f"{', '.join(taken)}: the name of a simulated set; choose another")
        if odd := [name for name in sets if not re.fullmatch(r"[\w .-]+", name)]:
            raise ValueError(
                f"{', '.join(odd)}: expected a name of letters, digits, blanks, _ . and -, as MLflow takes it"
            )
        return sets

    def unused(self) -> set[str]:
        """Models of kinds of rows that are not in the table."""
        return {"llm", "shipped"} - {one.kind for one in APPROACHES if one.name in self.approaches}

    @model_validator(mode="after")
    def _something_to_judge(self) -> ComparisonSettings:
        if not (self.num_events or self.sets):
            raise ValueError("num_events is 0 and sets names no file: nothing is left to judge approaches by")
        return self

    @field_validator("approaches")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(NAMES)):
            raise ValueError(f"{', '.join(unknown)}: no such approach; expected some of {'; '.join(NAMES)}")
        return names


@dataclass(frozen=True)
class Result:
    """One row: how well an approach judges."""

    approach: str
    meaning: str
    sets: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    """By set and metric: value, low, high."""
    resampled: Mapping[str, Sequence[float]]
    """By set: bootstrap samples of `RANKED_BY`, of the same events in every row."""
    seconds: float
    """Training and judging together; what was reused costs nothing."""
    speed: Speed | None = None
    num_events: Mapping[str, int] = field(default_factory=dict)
    """By set."""
    unanswered: int = 0
    """Events of all sets without a usable answer of a language model; they count as `inconclusive`."""


@dataclass(frozen=True)
class Comparison:
    """Everything that a row is made with."""

    settings: ComparisonSettings
    base: TrainingSettings
    trainer: TrainerSettings
    tracking: TrackingSettings
    output: Path
    cache_dir: str

    @cached_property
    def taught(self) -> np.ndarray:
        """Numbers of the labelled events that the rows trained here learn from."""
        settings = self.base.model_copy(update={"encoder": self.settings.pretrained or self.base.encoder})
        return taught_by(settings, cache_dir=self.cache_dir, registry_uri=self.tracking.uri)


def run_comparison(comparison: Comparison, parent: TrackedRun) -> list[Result]:
    """Make every row that is not there yet; each is a child of the tracked run."""
    sets = held_out_sets(comparison.settings)
    results, named = [], [one for one in APPROACHES if one.name in comparison.settings.approaches]
    # All first: the model that the last row lacks is missed before the others have taken hours.
    for approach, (figures, speeds) in [(one, _paths(comparison, one)) for one in named]:
        if figures.exists() and (speeds.exists() or not comparison.settings.speed_events):
            logger.info("%s: reused", approach.name)
        else:
            name = comparison.tracking.experiment or "cancellation_compare"
            tracking = comparison.tracking.model_copy(update={"experiment": name})
            with tracked_run(approach.name, comparison.base, tracking) as child:
                child.tags({"mlflow.parentRunId": parent.run_id or "", "approach": approach.name})
                _make_row(comparison, approach, sets, child)
                child.metrics(row_figures(_read_row(figures, speeds)))
        results.append(_read_row(figures, speeds))
    return results


def held_out_sets(settings: ComparisonSettings) -> dict[str, list[Example]]:
    """Draw the held-out events, and read the sets that are named.

    Raises:
        ValueError: As `read_set`.
    """
    sets = {}
    for number, split in enumerate(SPLITS if settings.num_events else ()):
        simulation = SimulationSettings(num_events=settings.num_events, split=split, label_noise=0.0)
        sets[split] = list(simulated_examples(simulation, settings.seed + number, range(settings.num_events)))
    for name, place in settings.sets.items():
        sets[name] = read_set(name, place)
    return sets


def row_figures(result: Result) -> dict[str, float | None]:
    """Give a row's numbers under the names that they have in MLflow."""
    figures: dict[str, float | None] = {
        f"{name}.{metric}": figure["value"] for name, found in result.sets.items() for metric, figure in found.items()
    }
    return figures | {"seconds": result.seconds} | (asdict(result.speed) if result.speed else {})


def _make_row(
    comparison: Comparison, approach: Approach, sets: Mapping[str, Sequence[Example]], run: TrackedRun
) -> None:
    """Write an approach's figures and its speed here, whichever is not there."""
    started, settings = time.monotonic(), comparison.settings
    figures, speeds = _paths(comparison, approach)
    learnt = _learnt_by(comparison, approach)
    for name, examples in sets.items():
        refuse_taught(f"comparison.sets.{name}", _events(examples), learnt, model=f"of the row {approach.name}")
    judge = _BUILDERS[approach.kind](comparison, approach, run)
    if not figures.exists():
        judged = {name: judge.judge(_events(examples)) for name, examples in sets.items()}
        found = {
            name: compare(judged[name], _truth(examples), resamples=settings.resamples)
            for name, examples in sets.items()
        }
        by_set = {name: {metric: one.as_dict() for metric, one in row.items()} for name, row in found.items()}
        resampled = {name: row[RANKED_BY].samples for name, row in found.items()}
        row = Result(approach.name, approach.meaning, by_set, resampled, time.monotonic() - started)
        counts, missing = {name: len(sets[name]) for name in sets}, sum(one.num_unanswered for one in judged.values())
        _write(figures, asdict(replace(row, unanswered=missing, num_events=counts)))
    if settings.speed_events and not speeds.exists():
        events = _events(next(iter(sets.values()))[: settings.speed_events])
        if isinstance(judge, LlmJudge):
            if not judge.taken:  # else each answer was timed when it was given; what is kept is not asked for again
                judge.judge(events)
            if not judge.taken:
                raise RuntimeError(
                    f"row {approach.name}: no event got a usable answer, so there is nothing to time; see to "
                    "the model, or leave the row out"
                )
            backend, _ = settings_of_row(settings.llm, approach.changes)
            speed = answering_speed(judge.taken, backend, settings.price)
        else:
            speed = measure_speed(judge, events, batch=BATCH, price=settings.price)
        _write(speeds, asdict(speed))


def _learnt_by(comparison: Comparison, approach: Approach) -> np.ndarray | None:
    """Read which events a row learns from, or its model has learnt from elsewhere; None where nobody knows."""
    settings = comparison.settings
    if approach.kind in ("network", "stacked", "trees"):
        return comparison.taught
    if approach.kind == "shipped":
        files = resolve_model(settings.shipped, registry_uri=comparison.tracking.uri)
        return learnt_by(fetch_model(files, cache_dir=comparison.cache_dir))
    if approach.kind == "llm":
        backend, _ = settings_of_row(settings.llm, approach.changes)
        pinned = pin_backend(backend, registry_uri=comparison.tracking.uri)
        return learnt_by_adapter(pinned, cache_dir=comparison.cache_dir)
    return None


def _events(examples: Sequence[Example]) -> list[Event]:
    return [example.event for example in examples]


def _truth(examples: Sequence[Example]) -> Truth:
    labels, factors = [e.label for e in examples], [e.factors for e in examples]
    weights = np.array([e.sampling_weight or 1.0 for e in examples])
    return Truth.of(labels, factors, [e.event.market for e in examples], weights)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _read_row(figures: Path, speeds: Path) -> Result:
    row = Result(**json.loads(figures.read_text(encoding="utf-8")))
    return replace(row, speed=Speed(**json.loads(speeds.read_text(encoding="utf-8")))) if speeds.exists() else row


def _build_rules(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    return RulesJudge()


def _build_trees(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    examples = islice(training_examples(comparison.base.events), comparison.settings.tree_events)
    return TreesJudge(comparison.settings.trees, collect_inputs(examples), policy=load_policy())


def _build_stacked(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    text = _trained(comparison, approach, run)
    events, count = comparison.base.events, comparison.settings.stacking_events
    examples = simulated_examples(events.simulation, _STACKING_SEED + events.seed, range(count))
    return TreesJudge(comparison.settings.trees, collect_inputs(examples, text), text, policy=load_policy())


def _build_network(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    return NetworkJudge(_trained(comparison, approach, run), load_policy())


def _build_shipped(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    files = resolve_model(comparison.settings.shipped, registry_uri=comparison.tracking.uri)
    return NetworkJudge(load_verdict_model(fetch_model(files, cache_dir=comparison.cache_dir)), load_policy())


def _build_llm(comparison: Comparison, approach: Approach, run: TrackedRun) -> Judge:
    return open_llm_judge(
        comparison.settings.llm,
        approach.changes,
        training_examples(comparison.base.events),
        answers=str((comparison.output / ANSWERS).absolute()),
        timed_on=processor_name(),
        cache_dir=comparison.cache_dir,
        registry_uri=comparison.tracking.uri,
    )


_BUILDERS: dict[str, Callable[[Comparison, Approach, TrackedRun], Judge]] = {
    "rules": _build_rules,
    "trees": _build_trees,
    "stacked": _build_stacked,
    "network": _build_network,
    "shipped": _build_shipped,
    "llm": _build_llm,
}


def _network_settings(comparison: Comparison, approach: Approach) -> TrainingSettings:
    """Of an approach's network; the stacked trees' is the text model of its own row."""
    network = TEXT if approach.kind == "stacked" else approach
    return network_settings(network, comparison.base, pretrained=comparison.settings.pretrained)


def _trained(comparison: Comparison, approach: Approach, run: TrackedRun) -> VerdictModel:
    """Train a network, or find it trained under the same settings, on events and from weights of the same contents."""
    settings = _network_settings(comparison, approach)
    learnt = digest_of([settings.model_dump(mode="json"), contents_read(settings, comparison.tracking.uri)])
    folder = comparison.output / "models" / f"{settings.name}-{learnt[:8]}"
    done = folder / "history.json"
    if not done.exists():
        trained = train_model(settings, comparison.trainer, run, output=folder, cache_dir=comparison.cache_dir)
        done.write_text(json.dumps(trained.history), encoding="utf-8")
    return load_verdict_model(folder)


def _llm_depends_on(comparison: Comparison, approach: Approach) -> dict[str, Any]:
    """What a language model's figures are a function of: neither its budget nor its prices nor its pace."""
    settings = comparison.settings.llm
    backend, labelling = settings_of_row(settings, approach.changes)
    found = {
        "answerer": answerer(backend, pin_backend(backend, registry_uri=comparison.tracking.uri)),
        "prompt": prompt_digest(labelling.prompt),
        "labelling": labelling.model_dump(mode="json", include={"judging", "temperature"}),
        "max_failed_fraction": settings.max_failed_fraction,
    }
    if approach.changes.get("few_shot"):
        found["retrieval"] = labelling.retrieval.model_dump(mode="json", exclude={"examples", "encoder"})
        found["encoder"] = resolve_model(labelling.retrieval.encoder, registry_uri=comparison.tracking.uri).digest
        found["candidates"] = settings.num_candidates
    return found


_NOT_IN_FIGURES = {"approaches", "speed_events", "price", "llm", "sets"}


def _paths(comparison: Comparison, approach: Approach) -> tuple[Path, Path]:
    """Of an approach's figures, and of its speed on this processor."""
    depends_on: dict[str, Any] = {
        "approach": asdict(approach),
        "code": code_digest("cancellation", "cluster.statistics"),
        "base": comparison.base.model_dump(mode="json"),
        "settings": comparison.settings.model_dump(mode="json", exclude=_NOT_IN_FIGURES),
        "policy": named_by_content(load_policy(), "shipped").version,
    }
    depends_on["sets"] = {name: versions(place) for name, place in comparison.settings.sets.items()}
    if approach.kind in ("network", "stacked"):
        depends_on["learnt"] = contents_read(_network_settings(comparison, approach), comparison.tracking.uri)
    elif approach.kind == "trees" or approach.changes.get("few_shot"):
        depends_on["learnt"] = contents_read(comparison.base, comparison.tracking.uri)
    if approach.kind == "llm":
        depends_on["llm"] = _llm_depends_on(comparison, approach)
    if approach.kind == "shipped":
        depends_on["model"] = resolve_model(comparison.settings.shipped, registry_uri=comparison.tracking.uri).digest
    name = approach.name.replace(", ", "-").replace(" ", "-")
    timed = comparison.settings.model_dump(mode="json", include={"speed_events", "price"})
    if approach.kind == "llm":
        timed |= comparison.settings.llm.backend.local.model_dump(include={"num_threads", "hour_usd"})
        timed["parallel"] = comparison.settings.llm.backend.parallel
    speed = digest_of([depends_on, timed, processor_name()])
    return (
        comparison.output / "results" / f"{name}-{digest_of(depends_on)[:8]}.json",
        comparison.output / "speeds" / f"{name}-{speed[:8]}.json",
    )
