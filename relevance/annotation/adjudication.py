"""From several people's labels to one per pair, with its history: a majority, or a lead's decision."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cluster import storage
from cluster.settings import Settings
from relevance.annotation.annotation import (
    Annotation,
    PairKey,
    latest_per_annotator,
    pair_at_home,
    round_order,
    show_pair,
)
from relevance.annotation.files import read_rows
from relevance.labels import parse_label

DECISION_COLUMNS = ("query_id", "product_id", "label", "decided_by", "decided_at", "reason")
"""A lead's decision, one per line of a CSV; every field is needed."""


class AdjudicationSettings(Settings):
    """When the people's own labels settle a pair."""

    min_votes: int = Field(default=2, ge=1)
    """Labels by different people that a pair needs."""

    min_support: float = Field(default=0.6, gt=0.5, le=1)
    """Share of them that must be for the same label. Above 0.6, two of three suffice; 1 asks for all."""


@dataclass(frozen=True)
class Decision:
    """A lead's word on a pair. It stands above any majority."""

    query_id: str
    product_id: str
    label: str
    decided_by: str
    decided_at: str
    reason: str

    @property
    def pair(self) -> PairKey:
        return self.query_id, self.product_id


@dataclass(frozen=True)
class Event:
    """Something that happened to a pair's label: who, when, what, why."""

    what: Literal["label", "replaced label", "majority", "decision", "open"]
    by: str
    at: str
    label: str | None
    why: str
    round: str = ""
    guideline_version: str = ""


@dataclass(frozen=True)
class Adjudicated:
    """A pair with what became of its labels."""

    pair: PairKey
    label: str | None
    """None while it is open."""
    method: Literal["majority", "decision", "open"]
    by: str
    """The people of the majority, joined by +, or the lead; empty while open."""
    support: float
    """Share of the votes that are for `label`, or for the most frequent label while open."""
    votes: tuple[Annotation, ...]
    """Everybody's last word."""
    guideline_version: str
    """The newest that a supporting vote was given under; of a decision, the newest of all votes."""
    history: tuple[Event, ...]


def read_decisions(url: str, known: Collection[PairKey]) -> dict[PairKey, Decision]:
    """Read a lead's decisions; lines without a label are still to be decided and passed over.

    Raises:
        ValueError: If a column or a field is missing, a label is none of the four, or a pair is unknown or decided
            twice; the file and the pair are named.
    """
    name = url.rpartition("/")[2]
    try:
        rows = read_rows(storage.read_bytes(url), name, DECISION_COLUMNS)
    except FileNotFoundError:
        raise ValueError(f"{url}: no such file: give the CSV of decisions, or leave `decisions` out") from None
    decisions: dict[PairKey, Decision] = {}
    for row in (row for row in rows if row["label"]):
        pair = pair_at_home((row["query_id"], row["product_id"]), known)
        where = f"{name}: decision on pair {show_pair(pair)}"
        if blank := [column for column in DECISION_COLUMNS if not row[column]]:
            raise ValueError(f"{where}: {', '.join(blank)} is blank: every decision says who, when and why")
        if pair not in known:
            raise ValueError(f"{where}: nobody labelled that pair in these rounds: correct the key")
        if pair in decisions:
            raise ValueError(f"{where}: it stands there twice: keep one")
        try:
            label = parse_label(row["label"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        decisions[pair] = Decision(
            **{column: row[column] for column in DECISION_COLUMNS}
            | {"query_id": pair[0], "product_id": pair[1], "label": label}
        )
    return decisions


def adjudicate(
    annotations: Sequence[Annotation], decisions: Mapping[PairKey, Decision], settings: AdjudicationSettings
) -> list[Adjudicated]:
    """Settle each pair: by a lead's decision where there is one, else by a majority, else it stays open.

    Args:
        annotations: Of all rounds, without gold pairs. A person's later label replaces the earlier one.
        decisions: By pair.
        settings: What counts as a majority.

    Returns:
        One per pair, by key.
    """
    by_pair: dict[PairKey, list[Annotation]] = defaultdict(list)
    for one in annotations:
        by_pair[one.pair].append(one)
    return [_settle(pair, by_pair[pair], decisions.get(pair), settings) for pair in sorted(by_pair)]


def _settle(
    pair: PairKey, annotations: list[Annotation], decision: Decision | None, settings: AdjudicationSettings
) -> Adjudicated:
    votes = sorted(latest_per_annotator(annotations), key=lambda one: one.annotator)
    label, count = Counter(sorted(one.label for one in votes)).most_common(1)[0]
    enough = len(votes) >= settings.min_votes and count / len(votes) >= settings.min_support
    supporters = [one for one in votes if one.label == label]
    last = max(one.annotated_at for one in votes)
    history = _labels(annotations, votes)
    if enough:
        why = f"{count} of {len(votes)} labels"
        history.append(Event("majority", "+".join(one.annotator for one in supporters), last, label, why))
    if decision is not None:
        history.append(Event("decision", decision.decided_by, decision.decided_at, decision.label, decision.reason))
        support = sum(one.label == decision.label for one in votes) / len(votes)
        outcome = decision.label, "decision", decision.decided_by, support, _newest(votes)
    elif enough:
        outcome = label, "majority", "+".join(o.annotator for o in supporters), count / len(votes), _newest(supporters)
    else:
        few = len(votes) < settings.min_votes
        why = f"{len(votes)} labels, {settings.min_votes} needed" if few else f"{count} of {len(votes)} labels at most"
        history.append(Event("open", "", last, None, why))
        outcome = None, "open", "", count / len(votes), _newest(votes)
    label, method, by, support, version = outcome
    return Adjudicated(pair, label, method, by, support, tuple(votes), version, tuple(history))


def _labels(annotations: Sequence[Annotation], votes: Sequence[Annotation]) -> list[Event]:
    ordered = sorted(annotations, key=lambda one: (round_order(one.round), one.annotated_at, one.annotator))
    return [
        Event(
            "label" if one in votes else "replaced label",
            one.annotator,
            one.annotated_at,
            one.label,
            one.comment,
            one.round,
            one.guideline_version,
        )
        for one in ordered
    ]


def _newest(votes: Sequence[Annotation]) -> str:
    return max(votes, key=lambda one: (round_order(one.round), one.guideline_version)).guideline_version
