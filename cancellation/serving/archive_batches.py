"""Decisions of the archive taken up again by a batch job: read, encoded as they were, written once.

What a job makes of them lies in a folder of its own beside `decisions/`, in the form of the decision log.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.contact_data.logged_event import is_by_reference
from cancellation.decision.policy import THRESHOLDS
from cancellation.decision.verdicts import verdicts_of_table
from cancellation.serving.records.decision_record import decision_table, partition
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.shipped_log import day_start, read_log
from cluster.storage import create_exclusive, join_url

_ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision as it is on record."""

    row: Mapping[str, Any]
    """Of `DECISION_SCHEMA`."""
    verdict: Mapping[str, Any]
    """In the contract's form."""


@dataclass(frozen=True, slots=True)
class Due:
    """Decisions that a job has to take up."""

    table: pa.Table
    """Of `DECISION_SCHEMA`, a row each."""
    done_before: int
    without_event: int
    """Their chats were logged by reference: there is nothing to read."""

    def batches(self) -> Iterator[list[Recorded]]:
        """Cut them into a few at a time."""
        for place in range(0, self.table.num_rows, _ROWS_AT_ONCE):
            rows = self.table.slice(place, _ROWS_AT_ONCE)
            yield [Recorded(*pair) for pair in zip(rows.to_pylist(), verdicts_of_table(rows), strict=True)]


def find_due(archive_url: str, folder: str, first: date, last: date, wanted: pc.Expression) -> Due:
    """Find the `wanted` decisions of some days (UTC, both included) that are not in a job's folder yet."""
    start, end = day_start(first), day_start(last + timedelta(days=1))
    table = _once(read_log(join_url(archive_url, "decisions"), start=start, end=end, where=wanted))
    done = read_log(join_url(archive_url, folder), start=start, end=end, columns=["event_id", "received_at"])
    before = set(_names(done))
    due = table.filter(pa.array([name not in before for name in _names(table)], pa.bool_()))
    readable = due.filter(pa.array([_has_texts(event) for event in due["event"].to_pylist()], pa.bool_()))
    return Due(readable, table.num_rows - due.num_rows, due.num_rows - readable.num_rows)


def record_of(decision: Recorded, verdict: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Write a decision record with another verdict: what it rests on and whom it is about stay as they were."""
    row = decision.row
    kept = ("event_id", "market", "features", "feature_digest", "caller", "state", "fallback_reason")
    return {
        **{name: row[name] for name in kept},
        "received_at": row["received_at"].timestamp(),
        "verdict": verdict,
        "thresholds": {name: row[f"{name}_threshold"] for name in THRESHOLDS},
        "event": json.loads(row["event"]),
        "people": {role: row[f"{role}_digest"] for role in ROLES},
        **more,
    }


def write_records(archive_url: str, folder: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write decision records below a folder of the archive; the same ones again change nothing."""
    places = defaultdict(list)
    for record in records:
        places[partition(record)].append(record)
    for place, found in sorted(places.items()):
        ids = "\n".join(sorted(f"{record['event_id']} {record['received_at']}" for record in found))
        sink = pa.BufferOutputStream()
        pq.write_table(decision_table(found), sink, compression="zstd")
        name = f"{blake2b(ids.encode(), digest_size=8).hexdigest()}.parquet"
        create_exclusive(join_url(archive_url, folder, place, name), sink.getvalue().to_pybytes())


def _names(table: pa.Table) -> Iterator[tuple[str, datetime]]:
    """Name each decision: an event that comes again later gets one of its own, maybe on the same day."""
    return zip(table["event_id"].to_pylist(), table["received_at"].to_pylist(), strict=True)


def _once(table: pa.Table) -> pa.Table:
    """Drop a decision's further lines: a log may hold it twice, word for word."""
    places = {name: place for place, name in enumerate(_names(table))}
    return table.take(pa.array(sorted(places.values()), pa.int64()))


def _has_texts(event: str | None) -> bool:
    return event is not None and not is_by_reference(json.loads(event))
