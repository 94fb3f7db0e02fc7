"""What a language model said about an event to a reviewer, as a record and as a table's row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cancellation.serving.records.people import ROLES

EXPLANATION_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string()),
        pa.field("market", pa.string()),
        pa.field("received_at", pa.timestamp("us", tz="UTC")),
        pa.field("outcome", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("decision_factors", pa.list_(pa.string())),
        pa.field("reasoning", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("prompt_digest", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("cached_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("seconds_to_verdict", pa.float32()),
        pa.field("seconds", pa.float32()),
        pa.field("event", pa.string()),
        *(pa.field(f"{role}_digest", pa.string()) for role in ROLES),
        pa.field("caller", pa.string()),
        pa.field("unread", pa.string()),
    ]
)
"""`outcome` says how it ended (`answering/explaining.py`); what was not said until then is null. `score` is the
probability of induced, not calibrated; texts and `<role>_digest` stand as in the decision log."""


def explanation_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Write records as a table of `EXPLANATION_SCHEMA`, row for row: one that does not fit is kept as JSON."""
    return pa.concat_tables([pa.Table.from_pylist([_row(record)], schema=EXPLANATION_SCHEMA) for record in records])


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    try:
        event = json.dumps(record["event"], ensure_ascii=False, separators=(",", ":"))
        people = record.get("people") or {}
        digests = {f"{role}_digest": people.get(role) for role in ROLES}
        row = {**record, **digests, "event": event, "received_at": datetime.fromtimestamp(record["received_at"], UTC)}
        pa.Table.from_pylist([row], schema=EXPLANATION_SCHEMA)
    except (pa.ArrowException, LookupError, TypeError, ValueError, OSError):
        return {"unread": json.dumps(record)}
    return row
