"""What is logged of appeals: each entry of a case, and each reversal of an action, for those who carried it out.

An entry's row is whole: what the case is about stands in each, so that a day can be read without the days before. A
reversal holds no text of anybody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cancellation.serving.records.people import ROLES

_ABOUT = [
    pa.field("appeal_id", pa.string()),
    pa.field("event_id", pa.string()),
    pa.field("market", pa.string()),
    pa.field("received_at", pa.timestamp("us", tz="UTC")),
    pa.field("decided_at", pa.timestamp("us", tz="UTC")),
    pa.field("verdict", pa.string()),
    pa.field("action", pa.string()),
    pa.field("model_version", pa.string()),
    pa.field("policy_version", pa.string()),
    *(pa.field(f"{role}_digest", pa.string()) for role in ROLES),
]
_UNREAD = pa.field("unread", pa.string())
APPEAL_SCHEMA = pa.schema(
    [
        *_ABOUT,
        pa.field("round", pa.int32()),
        pa.field("state", pa.string()),
        pa.field("author", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("label", pa.string()),
        pa.field("deadline", pa.timestamp("us", tz="UTC")),
        pa.field("event", pa.string()),
        pa.field("caller", pa.string()),
        _UNREAD,
    ]
)
"""One row per entry: `received_at` is the entry's instant, `decided_at` and what follows are the appealed decision's.
`event` is the event as it was logged, in rows whose state is overturned only. `unread` is a record that did not fit."""

REVERSAL_SCHEMA = pa.schema([*_ABOUT, pa.field("reviewer", pa.string()), pa.field("caller", pa.string()), _UNREAD])
"""One row per action to be reversed, of the appeal that was granted; an `appeal_id` read before is the same again."""

_INSTANTS = ("received_at", "decided_at", "deadline")


def appeal_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Write records as a table of `APPEAL_SCHEMA`, row for row: one that does not fit is kept as JSON."""
    return pa.concat_tables([_table(record, APPEAL_SCHEMA) for record in records])


def reversal_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Write records as a table of `REVERSAL_SCHEMA`, as `appeal_table`."""
    return pa.concat_tables([_table(record, REVERSAL_SCHEMA) for record in records])


def _table(record: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    try:
        people, event = record["people"], record.get("event")
        row = {
            **record,
            **{name: datetime.fromtimestamp(record[name], UTC) for name in _INSTANTS if name in record},
            **{f"{role}_digest": people[role] for role in ROLES},
            "event": None if event is None else json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        }
        return pa.Table.from_pylist([row], schema=schema)
    except (pa.ArrowException, LookupError, TypeError, ValueError, OSError):
        keys = {name: str(record[name]) for name in ("event_id", "market") if record.get(name) is not None}
        return pa.Table.from_pylist([{**keys, "unread": json.dumps(record)}], schema=schema)
