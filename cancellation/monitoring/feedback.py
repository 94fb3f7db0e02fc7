"""What people said on one day of decisions of that day or before: one review an event, and what does not fit named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa

from cancellation.monitoring.counts import add_up
from cancellation.monitoring.log_files import Damage

FEEDBACK_COLUMNS = (
    "event_id",
    "market",
    "received_at",
    "outcome",
    "label",
    "reviewer",
    "verdict",
    "model_version",
    "source",
    "action",
    "appeal_id",
    "unread",
)


@dataclass(frozen=True)
class Review:
    """A decision that people confirmed or rejected."""

    event_id: str
    market: str
    model_version: str
    source: str
    """Who had answered: model, rules or fallback."""
    verdict: str
    action: str
    right: bool


@dataclass
class FeedbackDay:
    """One day's messages, by when they were received."""

    day: str
    damage: Damage = field(default_factory=Damage)
    """`repeated` counts messages that say again what was said."""
    messages: int = 0
    appeals: dict[str, int] = field(default_factory=dict)
    """By market."""
    unknown: int = 0
    """Messages about events that are in no log of the days that were looked through: not counted further."""
    early: int = 0
    """Messages that are older than the decision they are about: clocks that disagree."""
    contradicting: int = 0
    """Events with another outcome than before. Of one day's outcomes the last stands, else the earlier day's; but a
    verdict that was overturned on appeal is wrong whatever was said before."""
    reviews: list[Review] = field(default_factory=list)
    """In order of receipt."""

    def to_json(self) -> bytes:
        """Write it as `read_feedback` reads it."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def read_feedback(content: bytes) -> FeedbackDay:
    """Read a day's feedback back."""
    value = json.loads(content)
    reviews = [Review(**one) for one in value["reviews"]]
    return FeedbackDay(**{**value, "reviews": reviews, "damage": Damage(**value["damage"])})


def usable_messages(tables: Iterable[pa.Table], day: date, damage: Damage) -> list[dict[str, Any]]:
    """Read messages in order of receipt, those that fit no column or no day counted in `damage`."""
    found = []
    for table in tables:
        for row in table.to_pylist():
            if row["unread"] is not None or None in (row["event_id"], row["received_at"], row["outcome"]):
                damage.unread += 1
            elif row["received_at"].date() != day:
                damage.misplaced += 1
            else:
                found.append(row)
    return sorted(found, key=lambda row: (row["received_at"], row["event_id"]))


def join_feedback(
    day: date,
    messages: Sequence[Mapping[str, Any]],
    decisions: Mapping[str, Mapping[str, Any]],
    *,
    before: Iterable[FeedbackDay],
    damage: Damage,
) -> FeedbackDay:
    """Bring messages and the decisions they are about together.

    Args:
        day: On which they were received.
        messages: In order of receipt.
        decisions: The logged decision of each event that is known.
        before: Earlier days' feedback: an event that was reviewed there is not reviewed again.
        damage: Of the day's feedback log; `repeated` is counted here.
    """
    result = FeedbackDay(str(day), damage, messages=len(messages))
    known = {review.event_id: review.right for earlier in before for review in earlier.reviews}
    said: set[tuple[Any, ...]] = set()
    reviews: dict[str, Review] = {}
    for message in messages:
        content = tuple(message[name] for name in ("event_id", "outcome", "label", "reviewer"))
        told = _told(message)
        decision = decisions.get(message["event_id"]) or (told if message["appeal_id"] is not None else None)
        if content in said:
            damage.repeated += 1
        elif decision is None:
            result.unknown += 1
        else:
            result.early += message["received_at"] < decision.get("received_at", message["received_at"])
            # An event that comes again later is judged anew: what was said is about the decision of then.
            _take(result, reviews, known, message, told or decision)
        said.add(content)
    result.reviews = list(reviews.values())
    return result


def _told(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a message itself says of the decision, which was at hand; appeals come when no log has that any more."""
    named = {name: message[name] for name in ("market", "model_version", "source", "verdict", "action")}
    return None if None in named.values() else named


def _take(
    result: FeedbackDay,
    reviews: dict[str, Review],
    known: Mapping[str, bool],
    message: Mapping[str, Any],
    decision: Mapping[str, Any],
) -> None:
    event_id, market = message["event_id"], decision["market"]
    if message["outcome"] == "appealed":
        add_up(result.appeals, {market: 1})
        return
    right = message["outcome"] == "confirmed" and message["label"] in (None, decision["verdict"])
    overturned = message["appeal_id"] is not None and not right
    if event_id in known:
        result.contradicting += known[event_id] != right
        result.damage.repeated += known[event_id] == right
        if known[event_id] == right or not overturned:
            return
    if (first := reviews.pop(event_id, None)) is not None:
        result.contradicting += first.right != right
        result.damage.repeated += first.right == right
    about = {name: decision[name] for name in ("model_version", "source", "verdict", "action")}
    reviews[event_id] = Review(event_id, market, right=right, **about)
