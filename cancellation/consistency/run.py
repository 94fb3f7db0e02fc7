"""Ask the same again, and the same in other clothes: how far a judge stays by its word, with intervals over events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from pydantic import Field

from cancellation.comparison.approaches import Judge
from cancellation.comparison.kept_answers import KeptAnswers, question_key
from cancellation.comparison.llm_judge import LlmJudge
from cancellation.consistency.alikeness import Alikeness, Said, alikeness
from cancellation.consistency.perturbations import KINDS, perturb
from cancellation.events.event import Event
from cancellation.events.factors import VERDICTS
from cancellation.llm.backend import Usage
from cancellation.llm.labelling import Labeller
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
    by_kind: dict[str, tuple[float | None, float | None]]
    """Flip rate and largest change of each kind; None: no answer, or no probability."""
    unanswered: int = 0
    """Questions without a usable answer, left out."""


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
    events: Sequence[Event], labeller: Labeller, kept: KeptAnswers, settings: ConsistencySettings
) -> Repeated:
    """Ask the model about each event many times; what was answered before a crash is not asked again.

    Events of which the model is shown the same are one question.

    Raises:
        BudgetSpentError: If the budget holds no further request.
        RuntimeError: If the server gives no answers any more, or no event has two answers to compare.
    """
    first = labeller.settings.judging.sampling.seed
    seeded = [labeller.seeded(first + run) for run in range(settings.runs)]
    questions = {question_key(labeller, event): event for event in events}
    asked = {f"{key}-{run:04d}": (event, one) for key, event in questions.items() for run, one in enumerate(seeded)}
    answers = kept.ask(asked)
    said: dict[str, list[Said]] = {}
    for name, answer in answers.items():
        if answer.get("error") is None:
            factors = answer["label_factors"]
            known = None if factors is None else frozenset(factors)
            said.setdefault(name.rpartition("-")[0], []).append(Said(answer["label"], known, answer["reasoning"]))
    found = [alikeness(some) for some in said.values() if len(some) > 1]
    failed = sum(answer.get("error") is not None for answer in answers.values())
    if not found:
        raise RuntimeError(f"{failed:,} of {len(answers):,} requests failed: no event has two answers to compare")
    figures = {field.name: _mean([getattr(one, field.name) for one in found], settings) for field in fields(Alikeness)}
    usage = Usage(
        *(sum(answer[name] for answer in answers.values()) for name in _USAGE),
        estimated=any(answer["cost_estimated"] for answer in answers.values()),
    )
    return Repeated(figures, usage, len(answers), failed)


_USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")


def measure_invariance(events: Sequence[Event], judge: Judge, settings: ConsistencySettings) -> Invariance:
    """Judge each event alone, then its neutral variants.

    Raises:
        RuntimeError: If no event and variant of it both got a verdict.
    """
    flips: dict[str, list[float]] = {kind: [] for kind in KINDS}
    changes: dict[str, list[float | None]] = {kind: [] for kind in KINDS}
    per_event, unanswered = [], 0
    for event in events:
        own = _verdict(judge, [event], 0)
        if own is None:
            unanswered += 1
            continue
        others = [one for one in events if one is not event]
        mine = []
        for one in perturb(event, others, settings.perturbations, seed=settings.seed):
            found = _verdict(judge, one.batch, one.place)
            if found is None:
                unanswered += 1
                continue
            mine.append(float(found[0] != own[0]))
            flips[one.kind].append(mine[-1])
            known = found[1] is not None and own[1] is not None
            changes[one.kind].append(abs(found[1] - own[1]) if known else None)
        per_event += [float(np.mean(mine))] if mine else []
    if not per_event:
        raise RuntimeError(f"{unanswered:,} questions got no answer: no event has a variant to be compared with")
    by_kind = {kind: (float(np.mean(flips[kind])) if flips[kind] else None, _largest(changes[kind])) for kind in KINDS}
    largest = _largest([change for some in changes.values() for change in some])
    return Invariance(_mean(per_event, settings), largest, by_kind, unanswered)


def _largest(changes: Sequence[float | None]) -> float | None:
    """The largest of them; None where any is not known, which may have been it."""
    known = [change for change in changes if change is not None]
    return max(known) if known and len(known) == len(changes) else None


def _verdict(judge: Judge, batch: Sequence[Event], place: int) -> tuple[int, float | None] | None:
    """Class and probability of induced of the event at a place; None: no answer."""
    if isinstance(judge, LlmJudge):  # it looks at each event alone, so its neighbours would be paid for nothing
        batch, place = [batch[place]], 0
    found = judge.judge(batch)
    if found.answered is not None and not found.answered[place]:
        return None
    probabilities = found.probabilities[place]
    score = float(probabilities[VERDICTS.index("induced")]) if found.ranked else None
    return int(found.verdicts[place]), score


def _mean(values: Sequence[float | None], settings: ConsistencySettings) -> Figure:
    """Mean over the events that have a value, with an interval by drawing events."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return Figure(None, missing="not read of the answers")
    weights = GroupBootstrap(np.arange(len(known)), samples=settings.resamples, seed=settings.seed).weights()
    return summarise(weights @ known / weights.sum(axis=1))
