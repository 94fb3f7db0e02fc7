"""Ask the same again, and the same in other clothes: how far a judge stays by its word, with intervals over events."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from pydantic import Field

from cancellation.comparison.approaches import Judge
from cancellation.consistency.alikeness import Alikeness, Said, alikeness
from cancellation.consistency.perturbations import KINDS, perturb
from cancellation.events.event import Event
from cancellation.events.factors import VERDICTS
from cancellation.llm.backend import BackendError, Usage
from cancellation.llm.judging import judge
from cancellation.llm.labelling import Labeller
from cluster.endpoint.ledger import RequestLedger
from cluster.settings import Settings
from cluster.statistics.bootstrap import Figure, GroupBootstrap, summarise


class ConsistencySettings(Settings):
    """How often what is asked."""

    num_events: int = Field(default=50, ge=1)
    """Events of the input, spread evenly over it."""

    runs: int = Field(default=50, ge=2)
    """Answers of the language model to each, each with a seed of its own."""

    perturbations: int = Field(default=50, ge=len(KINDS))
    """Neutral variants of each event for the test of invariance."""

    resamples: int = Field(default=1000, ge=20)
    """Bootstrap samples of each interval."""

    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Repeated:
    """A language model's answers to the same questions."""

    figures: dict[str, Figure]
    """By name of `Alikeness`, mean over events."""
    usage: Usage
    answers: int
    failed: int


@dataclass(frozen=True)
class Invariance:
    """A judge's verdicts of events in other clothes."""

    flip_rate: Figure
    """Share of variants with another verdict than the event itself."""
    largest_change: float | None
    """Of the probability of induced, over all variants; None: the judge gives verdicts without probability."""
    by_kind: dict[str, tuple[float, float | None]]
    """Flip rate and largest change of each kind."""


def sample_events(events: Sequence[Event], count: int) -> list[Event]:
    """Take some, spread evenly.

    Raises:
        ValueError: If there are none.
    """
    if not events:
        raise ValueError("input: expected events, found none that could be read")
    places = np.linspace(0, len(events) - 1, min(count, len(events))).round().astype(int)
    return [events[place] for place in np.unique(places)]


def ask_repeatedly(
    events: Sequence[Event], labeller: Labeller, settings: ConsistencySettings, *, parallel: int, ledger: RequestLedger
) -> Repeated:
    """Ask the model about each event many times; what was answered before a crash is not asked again.

    Raises:
        RuntimeError: If no event has two answers to compare.
    """
    keys = [(place, run) for place in range(len(events)) for run in range(settings.runs)]

    def one(key: tuple[int, int]) -> dict[str, Any]:
        return _ask(events[key[0]], key, labeller, settings, ledger)

    with ThreadPoolExecutor(parallel) as pool:
        answers = list(pool.map(one, keys))
    said: dict[int, list[Said]] = {}
    for (place, _), answer in zip(keys, answers, strict=True):
        if "error" not in answer:
            one_said = Said(answer["verdict"], frozenset(answer["factors"]), answer["reasoning"] or "")
            said.setdefault(place, []).append(one_said)
    found = [alikeness(some) for some in said.values() if len(some) > 1]
    failed = sum("error" in answer for answer in answers)
    if not found:
        raise RuntimeError(f"{failed:,} of {len(answers):,} requests failed: no event has two answers to compare")
    figures = {field.name: _mean([getattr(one, field.name) for one in found], settings) for field in fields(Alikeness)}
    return Repeated(figures, sum((Usage(**answer["usage"]) for answer in answers), Usage()), len(answers), failed)


def _ask(
    event: Event, key: tuple[int, int], labeller: Labeller, settings: ConsistencySettings, ledger: RequestLedger
) -> dict[str, Any]:
    name = f"{key[0]:05d}-{key[1]:04d}"
    if (known := ledger.begin(name)) is not None:
        return known
    judging = labeller.settings.judging
    sampling = judging.sampling.model_copy(update={"seed": judging.sampling.seed + key[1]})
    try:
        judged = judge(labeller.backend, labeller.prompt(event), judging.model_copy(update={"sampling": sampling}))
    except BackendError as error:
        found: dict[str, Any] = {"error": str(error), "usage": asdict(error.usage)}
    except RuntimeError:
        ledger.abandon(name)
        raise
    else:
        answer = judged.answer
        found = {"verdict": answer.verdict, "factors": answer.factors, "reasoning": answer.reasoning}
        found["usage"] = asdict(judged.usage)
    ledger.finish(name, found)
    return found


def measure_invariance(events: Sequence[Event], judge: Judge, settings: ConsistencySettings) -> Invariance:
    """Judge each event alone, then its neutral variants."""
    flips: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    changes: dict[str, float | None] = dict.fromkeys(KINDS, 0.0)
    per_event = []
    for event in events:
        verdict, score = _verdict(judge, [event], 0)
        others = [one for one in events if one is not event]
        mine: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for one in perturb(event, others, settings.perturbations, seed=settings.seed):
            found, changed = _verdict(judge, one.batch, one.place)
            mine[one.kind].append(float(found != verdict))
            largest = changes[one.kind]
            known = largest is not None and score is not None and changed is not None
            changes[one.kind] = max(largest, abs(changed - score)) if known else None
        for kind, values in mine.items():
            flips[kind].append(values)
        per_event.append(float(np.mean([value for values in mine.values() for value in values])))
    by_kind = {
        kind: (float(np.mean([value for values in rows for value in values])), changes[kind])
        for kind, rows in flips.items()
    }
    known = [change for change in changes.values() if change is not None]
    return Invariance(_mean(per_event, settings), max(known) if len(known) == len(changes) else None, by_kind)


def _verdict(judge: Judge, batch: Sequence[Event], place: int) -> tuple[int, float | None]:
    found = judge.judge(batch)
    probabilities = found.probabilities[place]
    score = float(probabilities[VERDICTS.index("induced")]) if found.ranked else None
    return int(probabilities.argmax()), score


def _mean(values: Sequence[float], settings: ConsistencySettings) -> Figure:
    """Mean over events, with an interval by drawing events."""
    weights = GroupBootstrap(np.arange(len(values)), samples=settings.resamples, seed=settings.seed).weights()
    return summarise(weights @ np.array(values) / weights.sum(axis=1))
