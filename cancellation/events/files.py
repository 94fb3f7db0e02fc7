"""Events on storage: the files of a backfill, cut into shards, and every row as an event or as what is wrong with it.

JSONL lines are events, or wrap one with its label (`{"event": {…}, "label": …}`); parquet rows are those of
`event_table.EVENT_SCHEMA`, with a `label` column where there are labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from cancellation.events.event import Event, parse_event
from cancellation.events.factors import VERDICTS
from cancellation.events.fields import EventError, decode_json
from cancellation.events.table import EVENT_SCHEMA, batch_rows, event_of_row, plain_number
from cluster.sharded.compression import is_compressed, plain_name
from cluster.sharded.input_files import (
    BYTE_ORDER_MARK,
    JSONL_ENDINGS,
    PARQUET_ENDINGS,
    cut_input,
    cut_row_groups,
    data_files,
    json_lines,
    open_input,
    path_values,
    place_of,
    refuse_missing_column,
    refuse_other_spelling,
    refuse_repeated_column,
    text_lines,
)

ENDINGS = (*JSONL_ENDINGS, *PARQUET_ENDINGS)
"""Of the names that are data, with .gz, .bz2 or .xz behind those of texts."""

_COMPRESSED_BYTES = 16 * 2**20
"""Of text, at least, per shard of a compressed file: each is read from the file's beginning."""
_READ_ROWS = 2048
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class EventShard:
    """A part of one input file: whole lines from one byte to another, or row groups from one to another."""

    name: str
    url: str
    start: int
    end: int
    first_row: int
    """Number of its first line, or row, in the file; counted from 1, as editors do."""
    size_bytes: int
    version: str
    """Of the whole file, as stored."""
    place: str
    """The file's path below the input, by which rows are named: each market's file may have the same name."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of the input: its place (`market=BR/events.jsonl:12`), an event or an error; a label where it has one."""

    place: str
    event: Event | None
    label: str | None = None
    error: str | None = None
    sampling_weight: float | None = None
    """How many cancellations a row of a weighted sample stands for; None: it says nothing of that."""


def find_event_shards(url: str, *, shard_bytes: int) -> list[EventShard]:
    """List the input's files in order and cut each into shards of about a size, at ends of lines or row groups.

    Raises:
        ValueError: If there is no file, or one cannot be read or is no table of events; the file is named.
    """
    pieces = cut_input(url, ENDINGS, lambda _, file: [(file, *part) for part in _cut_file(file.url, shard_bytes)])
    return [
        EventShard(
            f"{number:05d}", file.url, start, end, first_row, file.size_bytes, file.version, place_of(file.url, url)
        )
        for number, (file, start, end, first_row) in enumerate(pieces)
    ]


def passed_over(url: str) -> list[str]:
    """Name what an input holds beside events: files of other endings, and values in paths, which no event takes."""
    files, others = data_files(url, ENDINGS)
    names = sorted({name for file in files for name in path_values(file.url, url)})
    return others + [f"{name}=… in paths (events say it themselves)" for name in names]


def is_table(url: str) -> bool:
    """Tell a parquet file from lines of JSON."""
    return plain_name(url).endswith(PARQUET_ENDINGS)


def read_event_rows(shard: EventShard) -> Iterator[EventRow]:
    """Read a shard; what cannot be read as an event is a row with an error, never an exception.

    Raises:
        ValueError: If the file itself is damaged, naming it.
    """
    if not is_table(shard.url):
        for number, line in enumerate(_lines(shard).removesuffix(b"\n").split(b"\n"), shard.first_row):
            if line.strip():
                yield read_event_line(line, f"{shard.place}:{number}")
        return
    number = shard.first_row
    with open_input(shard.url, "parquet", version=shard.version) as stream:
        parquet, groups = pq.ParquetFile(stream), list(range(shard.start, shard.end))
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, row_groups=groups, use_threads=False):
            for row in batch_rows(batch):
                yield _read(row, f"{shard.place}:{number}", row, event_of_row)
                number += 1


def _lines(shard: EventShard) -> bytes:
    compressed = is_compressed(shard.url)
    with open_input(shard.url, "jsonl", read_ahead=compressed, version=shard.version) as stream:
        stream.seek(shard.start)
        content = stream.read(shard.end - shard.start)
    return content if shard.start else content.removeprefix(BYTE_ORDER_MARK)


def read_event_line(line: bytes, place: str) -> EventRow:
    """Read one line: an event, or an object that wraps one."""
    try:
        value = decode_json(line)
    except EventError as error:
        return EventRow(place, None, error=str(error))
    if isinstance(value, Mapping) and "event" in value:
        return _read(value["event"], place, value, parse_event)
    return _read(value, place, {}, parse_event)


def _read(value: Any, place: str, said: Mapping[str, Any], parse: Any) -> EventRow:
    label, weight = said.get("label"), plain_number(said.get("sampling_weight"))
    if weight is not None and not is_sampling_weight(weight):
        return EventRow(place, None, error="sampling_weight: expected a number above 0, found another value")
    if label is not None and label not in VERDICTS:
        return EventRow(place, None, error=f"label: expected one of {', '.join(VERDICTS)}, found another")
    try:
        return EventRow(place, parse(value), label, sampling_weight=weight)
    except EventError as error:
        return EventRow(place, None, label, str(error))


def error_kind(error: str) -> str:
    """An error without the numbers that make it one of a thousand: `chat[].at: …`."""
    path, separator, problem = error.partition(": ")
    return _INDEX.sub("[]", path) + separator + problem


def is_sampling_weight(value: Any) -> bool:
    """Tell a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def check_columns(url: str, found: list[str], further: Sequence[str]) -> None:
    """Check the columns of a table of events, and the further ones that are read where they are there.

    Raises:
        ValueError: If one is missing, stands there twice or is spelt otherwise; file and column are named.
    """
    for name in (*EVENT_SCHEMA.names, *further):
        refuse_repeated_column(url, name, found)
        refuse_other_spelling(url, name, found)
    for field in EVENT_SCHEMA:
        if not field.nullable:
            refuse_missing_column(url, field.name, found)


def _cut_file(url: str, shard_bytes: int) -> list[tuple[int, int, int]]:
    """Cut one file into (start, end, first row)."""
    return _cut_row_groups(url, shard_bytes) if is_table(url) else _cut_lines(url, shard_bytes)


def _cut_lines(url: str, shard_bytes: int) -> list[tuple[int, int, int]]:
    """Cut behind the line with which a shard has reached its size.

    The file is read once for it, so that every error can name its line.
    """
    parts: list[tuple[int, int, int]] = []
    start = position = 0
    first_row = 1
    if is_compressed(url):
        shard_bytes = max(shard_bytes, _COMPRESSED_BYTES)
    with open_input(url, "jsonl") as stream:
        next(json_lines(url, stream), None)  # says what is no JSON by lines
        stream.seek(0)
        for row, line in enumerate(text_lines(url, stream, keep_mark=True), 1):
            position += len(line)
            if position - start >= shard_bytes:
                parts.append((start, position, first_row))
                start, first_row = position, row + 1
    if position > start:
        parts.append((start, position, first_row))
    return parts


def _cut_row_groups(url: str, shard_bytes: int) -> list[tuple[int, int, int]]:
    with open_input(url, "parquet") as stream:
        parquet = pq.ParquetFile(stream)
        if not parquet.metadata.num_rows:
            return []
        check_columns(url, parquet.schema_arrow.names, ("label", "sampling_weight"))
        parts = cut_row_groups(parquet.metadata, part_bytes=shard_bytes)
    return [(part.start, part.end, part.first_row + 1) for part in parts]
