"""Events at rest: one JSON object per line, or one parquet row with the nested parts as JSON strings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.events.event import LISTS, Event, event_mapping, parse_event
from cancellation.events.fields import EventError, decode_json
from cancellation.events.labelled import LabelledEvent
from cluster.storage import write_bytes

NESTED_COLUMNS = ("order", *LISTS, "seller_history")
"""Columns that hold JSON; null where the event has no such part."""

EVENT_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("event_id", "market", "order_id", "buyer_id", "seller_id", "cancelled_at")
        ),
        pa.field("buyer_reason", pa.string()),
        *(pa.field(name, pa.string(), nullable=name != "order") for name in NESTED_COLUMNS),
    ]
)

LABEL_SCHEMA = pa.schema(
    [
        pa.field("label", pa.string()),
        pa.field("label_factors", pa.list_(pa.string())),
        pa.field("true_label", pa.string()),
        pa.field("cause", pa.string()),
        pa.field("lang", pa.string()),
    ]
)
"""What a simulated event has beside the event itself."""


_NO_VALUE = object()
_NONE_SAID = "bytes that are not UTF-8, or a time outside of the years 1 to 9999 or of an unknown zone"


def event_row(event: Event, *, utc_offset_hours: float = 0) -> dict[str, str | None]:
    """Write an event as a row of `EVENT_SCHEMA`."""
    mapping = event_mapping(event, utc_offset_hours)
    row = {name: mapping.get(name) for name in EVENT_SCHEMA.names}
    row.update((name, _json(row[name])) for name in NESTED_COLUMNS if row[name] is not None)
    return row


def batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Give a batch's rows; what Python has no value for is left to `event_of_row`, which refuses that row alone.

    Such are texts that are not UTF-8, which parquet does not check, and times beyond the year 9999, as milliseconds
    make them that are taken for seconds.
    """
    try:
        return batch.to_pylist()
    except (OverflowError, ValueError):
        columns = [[_value(scalar) for scalar in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return _NO_VALUE


def event_of_row(row: Mapping[str, Any]) -> Event:
    """Parse a row of `EVENT_SCHEMA`; columns beyond it are left alone.

    Raises:
        EventError: If the event is refused.
    """
    values = [(name, row[name]) for name in EVENT_SCHEMA.names if row.get(name) is not None]
    for name, value in values:
        if value is _NO_VALUE:
            raise EventError(name, _NONE_SAID)
    return parse_event(
        {
            name: decode_json(value) if name in NESTED_COLUMNS and isinstance(value, str) else _written(value)
            for name, value in values
        }
    )


def _written(value: Any) -> Any:
    """Write what a table holds as such, in columns or in structs, as events have it.

    A struct has all its fields in every row: one that is null was not sent. In JSON a null is as the sender wrote it,
    and refused where the contract has none.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [_written(plain_number(one)) for one in value]
    if isinstance(value, dict):
        return {name: _written(plain_number(one)) for name, one in value.items() if one is not None}
    return value


def plain_number(value: Any) -> Any:
    """Make a number of a decimal, the one that JSON makes of the same digits; anything else stays as it is."""
    return float(value) if isinstance(value, Decimal) else value


def labelled_line(labelled: LabelledEvent) -> str:
    """Write a labelled event as one line of JSON, in the form of the reviewed cases."""
    return _json({"event": event_mapping(labelled.event, labelled.utc_offset_hours), **_labels(labelled)})


def labelled_table(events: Iterable[LabelledEvent]) -> pa.Table:
    """Write labelled events as a table: the event's columns, then `LABEL_SCHEMA`."""
    rows = [
        {**event_row(labelled.event, utc_offset_hours=labelled.utc_offset_hours), **_labels(labelled)}
        for labelled in events
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*EVENT_SCHEMA, *LABEL_SCHEMA]))


def write_labelled(url: str, events: Iterable[LabelledEvent]) -> int:
    """Write labelled events to a `.jsonl` or `.parquet` file; give their number.

    Raises:
        ValueError: If the location ends in neither.
    """
    if url.endswith(".parquet"):
        sink = pa.BufferOutputStream()
        table = labelled_table(events)
        pq.write_table(table, sink, compression="zstd", row_group_size=2_000)
        write_bytes(url, sink.getvalue())
        return table.num_rows
    if not url.endswith(".jsonl"):
        raise ValueError(f"output {url}: expected a name that ends in .jsonl or .parquet")
    lines = [labelled_line(labelled) + "\n" for labelled in events]
    write_bytes(url, "".join(lines).encode())
    return len(lines)


def _labels(labelled: LabelledEvent) -> dict[str, Any]:
    return {
        "label": labelled.label,
        "label_factors": list(labelled.factors),
        "true_label": labelled.true_label,
        "cause": labelled.cause,
        "lang": labelled.language,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
