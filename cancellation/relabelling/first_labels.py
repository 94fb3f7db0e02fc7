"""Which cancellations of a market without labels people label first: 60 % by chance, 40 % of those that look induced.

Flagged cases are what a penalty's precision is proven on, and a sample by chance holds few. Both parts together are a
stratified sample: flagged and other cancellations, each drawn by chance inside its stratum, so that a case stands for
as many of its stratum as were not drawn. That is its `sampling_weight`, by which a proof and a calibration count it
(cancellation/decision/thresholds.py), and a training's loss.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import Field

from cancellation.decision.policy import Policy
from cancellation.decision.rules import judge as judge_by_rules
from cancellation.decision.thresholds import ThresholdSettings, cases_needed
from cancellation.decision.verdicts import market_probabilities
from cancellation.events.event import Event
from cancellation.events.files import find_event_shards, read_event_rows
from cancellation.model.verdict_model import VerdictModel
from cancellation.relabelling.cases import Case
from cluster.settings import Settings
from cluster.statistics.temperature import class_probabilities

_SHARD_BYTES = 2**24
_BATCH = 256
Flag = Callable[[Sequence[Event]], list[bool]]
"""Events -> which of them look induced."""


class FirstSettings(Settings):
    """How many, and which."""

    random_fraction: float = Field(default=0.6, gt=0, le=1)
    """Share of the sample that is drawn by chance from all cancellations."""

    flag_above: float = Field(default=0.5, ge=0, lt=1)
    """Calibrated score above which the model, where there is one, flags a cancellation; the rules flag by verdict."""

    expected_precision: float = Field(default=0.95, gt=0, le=1)
    """Of the penalties to come, by which the sample is sized: the closer to what has to be proven, the more cases."""

    punished_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the flagged cases that are expected above a penalty threshold."""

    fit_fraction: float = Field(default=0.25, ge=0, lt=1)
    """Share of the labels on which jobs.cancellation_calibrate fits a temperature: they prove nothing."""

    min_labels: int = Field(default=0, ge=0)
    """At least so many in all; jobs.cancellation_new_market starts from 5,000."""

    thresholds: ThresholdSettings = ThresholdSettings()
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Size:
    """How many cancellations to label, and why."""

    events: int
    """Different cancellations that there are."""
    flagged: int
    flagged_needed: int
    """Flagged ones that have to be labelled for the proof."""
    labels: int
    by_chance: int
    enriched: int

    def as_dict(self) -> dict[str, int]:
        """As JSON types."""
        return asdict(self)


def flag_by_rules(events: Sequence[Event]) -> list[bool]:
    """Flag what the rules hold for induced."""
    return [judge_by_rules(event).verdict == "induced" for event in events]


def flag_by_model(model: VerdictModel, above: float, policy: Policy) -> Flag:
    """Flag what a model gives a calibrated score above a number, by the classes that the event's market knows."""

    def flag(events: Sequence[Event]) -> list[bool]:
        scores = model.score([model.encoder.encode(event) for event in events])
        probabilities = class_probabilities(scores.logits, model.temperature)
        return [bool(one > above) for one in market_probabilities(probabilities, events, policy)[:, 0]]

    return flag


def size_sample(events: int, flagged: int, settings: FirstSettings) -> Size:
    """Count the cancellations to label, so that their flagged ones prove the promise with its power.

    Raises:
        ValueError: If no number proves it, or there are fewer cancellations than that; how many are missing is said.
    """
    cases = cases_needed(settings.expected_precision, settings.thresholds)
    if cases is None:
        raise ValueError(
            f"first.expected_precision {settings.expected_precision}: no number of cases proves "
            f"{settings.thresholds.min_precision} at that precision; a better model would, or a lower promise"
        )
    cases = max(cases, settings.thresholds.min_cases)
    needed = math.ceil(cases / settings.punished_share / (1 - settings.fit_fraction))
    by_chance = flagged / events if events else 0.0
    share = settings.random_fraction * by_chance + (1 - settings.random_fraction)
    labels = max(math.ceil(needed / share) if share else events + 1, settings.min_labels)
    random_part = math.ceil(settings.random_fraction * labels)
    if labels > events or needed > flagged:
        raise ValueError(
            f"input: {labels:,} cancellations, {needed:,} of them flagged, are expected for a proof, found {events:,} "
            f"and {flagged:,}; give a longer period"
        )
    enriched = min(labels - random_part, flagged - round(random_part * by_chance))
    return Size(events, flagged, needed, random_part + enriched, random_part, enriched)


def draw_first(url: str, market: str, flag: Flag, settings: FirstSettings) -> tuple[list[Case], Size]:
    """Draw the sample in two passes over the events, of which only ids stay in memory.

    Raises:
        ValueError: If the input cannot be read, is of other markets, or is too small.
    """
    order: dict[str, int] = {}
    flagged: set[str] = set()
    for batch in _batches(url):
        for event, found in zip(batch, flag(batch), strict=True):
            if event.market != market:
                raise ValueError(f"{url}: events of {market} alone are expected, found {event.market} too")
            if event.event_id not in order and found:
                flagged.add(event.event_id)
            order[event.event_id] = _chance(event.event_id, settings.seed)
    size = size_sample(len(order), len(flagged), settings)
    by_chance = sorted(order, key=order.__getitem__)
    first = by_chance[: size.by_chance]
    rest = [name for name in by_chance[size.by_chance :] if name in flagged][: size.enriched]
    drawn = [*first, *rest]
    weights = _weights(drawn, flagged, len(order))
    cases: dict[str, Case] = {}
    for batch in _batches(url):
        for event in batch:
            if event.event_id in weights and event.event_id not in cases:
                cases[event.event_id] = Case(event, "first", 1, None, sampling_weight=weights[event.event_id])
    mixed = sorted(cases, key=lambda name: _chance(name, settings.seed + 1))  # so that nobody sees which were flagged
    ranked = [replace(cases[name], rank=rank) for rank, name in enumerate(mixed, 1)]
    return ranked, replace(size, labels=len(drawn), enriched=len(rest))


def _weights(drawn: Sequence[str], flagged: set[str], events: int) -> dict[str, float]:
    """Stratum by stratum the cancellations that there are over those drawn, 1 on average."""
    num_flagged = sum(name in flagged for name in drawn)
    of_flagged = len(flagged) / num_flagged if num_flagged else 0.0
    of_others = (events - len(flagged)) / max(1, len(drawn) - num_flagged)
    mean = events / len(drawn)
    return {name: (of_flagged if name in flagged else of_others) / mean for name in drawn}


def _batches(url: str) -> Iterator[list[Event]]:
    batch: list[Event] = []
    for shard in find_event_shards(url, shard_bytes=_SHARD_BYTES):
        for row in read_event_rows(shard):
            if row.event is None:
                raise ValueError(f"{row.place}: {row.error}; correct it, or leave it out")
            batch.append(row.event)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _chance(event_id: str, seed: int) -> int:
    digest = hashlib.sha256(f"first labels/{seed}/{event_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def first_lines(size: dict[str, Any], market: str) -> list[str]:
    """Say what was drawn, and why so many."""
    return [
        f"{market}: {size['events']:,} cancellations, {size['flagged']:,} of them flagged",
        f"{size['labels']:,} to label: {size['by_chance']:,} by chance, {size['enriched']:,} more of the flagged; a "
        f"proof needs {size['flagged_needed']:,} flagged ones among them",
    ]
