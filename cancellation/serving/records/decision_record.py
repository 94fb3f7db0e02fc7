"""The decision record: all that is to be known later about one answer, and its form as a table's row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cancellation.decision.policy import THRESHOLDS
from cancellation.decision.verdicts import VERDICT_SCHEMA
from cancellation.serving.records.people import ROLES

TIMINGS = ("parse", "encode", "queue", "model", "total")

_TIMINGS = pa.struct([pa.field(name, pa.float32()) for name in TIMINGS])
_SHADOW = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("verdict", pa.string()),
        pa.field("action", pa.string()),
    ]
)

DECISION_SCHEMA = pa.schema(
    [
        *VERDICT_SCHEMA,
        pa.field("received_at", pa.timestamp("us", tz="UTC")),
        pa.field("features", pa.list_(pa.float32())),
        pa.field("feature_digest", pa.string()),
        *(pa.field(f"{name}_threshold", pa.float32()) for name in THRESHOLDS),
        pa.field("state", pa.string()),
        pa.field("timings_ms", _TIMINGS),
        pa.field("shadow", _SHADOW),
        *(pa.field(f"{role}_digest", pa.string()) for role in ROLES),
        pa.field("event", pa.string()),
        pa.field("caller", pa.string()),
        pa.field("fallback_reason", pa.string()),
        pa.field("unread", pa.string()),
    ]
)
"""The verdict's columns, then what it rests on.

`features` in the order of `features.FEATURES`, null where missing; `<role>_digest` says who it is about, keyed;
`event` is JSON, redacted or by reference, with those digests for ids;
`shadow` is what another version said to the same event, in rows of the shadow log only. `unread` is a record, as
JSON, that did not fit these columns and is kept for people: its other columns are null but for keys.
"""

_PLAIN = ("feature_digest", "state", "timings_ms", "shadow", "caller", "fallback_reason")
_MARKET = re.compile(r"[A-Z]{2}")


def decision_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Write decision records as a table of `DECISION_SCHEMA`, row for row: one that does not fit is never lost."""
    try:
        return pa.Table.from_pylist([_row(record) for record in records], schema=DECISION_SCHEMA)
    except (pa.ArrowException, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError):
        if len(records) == 1:
            return pa.Table.from_pylist([_unread(records[0])], schema=DECISION_SCHEMA)
    middle = len(records) // 2
    return pa.concat_tables([decision_table(records[:middle]), decision_table(records[middle:])])


def partition(record: Mapping[str, Any]) -> str:
    """Name the folder of a record: market and day (UTC) on which it was received."""
    market, received_at = record.get("market"), record.get("received_at")
    known = isinstance(market, str) and _MARKET.fullmatch(market) is not None
    timed = isinstance(received_at, int | float) and 0 <= received_at < 2**33
    instant = datetime.fromtimestamp(received_at if timed else 0, UTC)
    return f"market={market if known else 'unknown'}/day={instant:%Y-%m-%d}"


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    verdict, thresholds = record["verdict"], record.get("thresholds") or {}
    event, people = record.get("event"), record.get("people") or {}
    return {
        **verdict,
        "event_id": record["event_id"],
        "market": record["market"],
        "policy_version": record.get("policy_version") or verdict.get("policy_version"),
        "received_at": datetime.fromtimestamp(record["received_at"], UTC),
        "features": record.get("features"),
        **{f"{name}_threshold": thresholds.get(name) for name in THRESHOLDS},
        "event": None if event is None else json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        **{f"{role}_digest": people.get(role) for role in ROLES},
        **{name: record.get(name) for name in _PLAIN},
    }


def _unread(record: Mapping[str, Any]) -> dict[str, Any]:
    keys = {name: str(record[name]) for name in ("event_id", "market") if record.get(name) is not None}
    return {**keys, "unread": json.dumps(record)}
