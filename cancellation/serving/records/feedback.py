"""Feedback: what operations found, or a seller objects, after a verdict. Codes only: free text would be people's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from cancellation.events.factors import VERDICTS
from cancellation.events.fields import (
    EventError,
    check_object,
    decode_json,
    read_choice,
    read_market,
    read_stored_identifier,
)

OUTCOMES = ("confirmed", "rejected", "appealed")
"""Operations agree with the verdict, or do not; the seller appeals."""

FEEDBACK_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("market", pa.string()),
        pa.field("received_at", pa.timestamp("us", tz="UTC")),
        pa.field("outcome", pa.string()),
        pa.field("label", pa.string()),
        pa.field("reviewer", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("source", pa.string()),
        pa.field("action", pa.string()),
        pa.field("caller", pa.string()),
        pa.field("appeal_id", pa.string()),
        pa.field("unread", pa.string()),
    ]
)
"""One row per message. `market` and `verdict` are the decision's, or what the message said of it where it was no longer
at hand; `model_version`, `source` and `action` are the decision's. `appeal_id` names the case of appeal that says so.
`unread` is a record, as JSON, that did not fit."""

_REQUIRED = frozenset({"event_id", "outcome"})
_FIELDS = _REQUIRED | {"label", "reviewer", "market", "verdict"}


@dataclass(frozen=True, slots=True)
class Feedback:
    """One message about a verdict. `label` is the right verdict, if known; `reviewer` an id.

    `market` and `verdict` say what it is about, for when the decision is no longer at hand.
    """

    event_id: str
    outcome: str
    label: str | None
    reviewer: str | None
    market: str | None = None
    verdict: str | None = None

    @property
    def subject(self) -> str:
        """Names in hex the event and who speaks about it; an appeal takes back no review, and no review an appeal."""
        return _digest([self.event_id, self.reviewer, self.outcome == "appealed"])

    @property
    def content(self) -> str:
        """Names in hex what is said: what is sent twice in a row is one message."""
        return _digest(asdict(self))


def _digest(content: Any) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def parse_feedback(body: bytes) -> Feedback:
    """Parse and check a message.

    Raises:
        EventError: With the path of the field that is refused.
    """
    value = decode_json(body)
    check_object(value, _FIELDS, _REQUIRED)
    return Feedback(
        read_stored_identifier(value, "event_id"),
        read_choice(value, "outcome", OUTCOMES),
        read_choice(value, "label", VERDICTS) if value.get("label") is not None else None,
        read_stored_identifier(value, "reviewer") if value.get("reviewer") is not None else None,
        read_market(value) if value.get("market") is not None else None,
        read_choice(value, "verdict", VERDICTS) if value.get("verdict") is not None else None,
    )


def check_feedback(feedback: Feedback, decision: Mapping[str, Any] | None) -> None:
    """Refuse a message that contradicts itself or the decision that it is about.

    Raises:
        EventError: With the field that does.
    """
    if decision is not None:
        for name, found in (("market", decision["market"]), ("verdict", decision["verdict"]["verdict"])):
            if getattr(feedback, name) not in (None, found):
                raise EventError(name, f"expected the decision's own {name}, found another")
    verdict = decision["verdict"]["verdict"] if decision else feedback.verdict
    if verdict is None or feedback.label is None:
        return
    if feedback.outcome == "confirmed" and feedback.label != verdict:
        raise EventError("label", "expected the verdict that is confirmed, found another; outcome rejected says so")
    if feedback.outcome == "rejected" and feedback.label == verdict:
        raise EventError("label", "expected another than the verdict that is rejected, found the same")


def feedback_record(
    feedback: Feedback,
    decision: Mapping[str, Any] | None,
    *,
    caller: str,
    received_at: float,
    appeal_id: str | None = None,
) -> dict[str, Any]:
    """Make the record that is written down; `decision` is the one it is about, if at hand."""
    return {
        "event_id": feedback.event_id,
        "market": decision["market"] if decision else feedback.market,
        "received_at": received_at,
        "outcome": feedback.outcome,
        "label": feedback.label,
        "reviewer": feedback.reviewer,
        "verdict": decision["verdict"]["verdict"] if decision else feedback.verdict,
        **{name: decision["verdict"][name] if decision else None for name in ("model_version", "source", "action")},
        "caller": caller,
        "appeal_id": appeal_id,
    }


def feedback_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Write records as a table of `FEEDBACK_SCHEMA`, row for row."""
    rows = []
    for record in records:
        try:
            rows.append({**record, "received_at": datetime.fromtimestamp(record["received_at"], UTC)})
        except (LookupError, TypeError, ValueError, OSError):
            rows.append({"unread": json.dumps(record)})
    return pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)
