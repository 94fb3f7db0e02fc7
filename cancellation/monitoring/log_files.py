"""A day's files of one of the archive's logs, streamed: what cannot be read is named and never half counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.storage import StoredFile

_READ_AHEAD = 4
"""Files on their way at once; with a segment's 16 MiB each they bound the memory."""


@dataclass
class Damage:
    """What of a log is not in the counts."""

    files: list[str] = field(default_factory=list)
    """Files that cannot be read, as when they were cut off, by their place below the log."""
    unread: int = 0
    """Records that did not fit the log's columns when they were written."""
    misplaced: int = 0
    """Records whose instant is not of the day whose folder they are in."""
    repeated: int = 0
    """Records of an event that an earlier one of that day is of."""


def day_files(log_url: str, day: date) -> list[StoredFile]:
    """List the files of a day over all markets, in order of market, hour and time."""
    filesystem, path = storage.open_filesystem(log_url)
    try:
        entries = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return []
    markets = sorted({entry.rstrip("/").rpartition("/")[2] for entry in entries})
    folders = [storage.join_url(log_url, market, f"day={day}") for market in markets if market.startswith("market=")]
    return [file for folder in folders for file in storage.list_files(folder, suffix=".parquet")]


def stream_tables(
    files: Sequence[StoredFile], schema: pa.Schema, damage: Damage, *, columns: Sequence[str], rows: int = 8192
) -> Iterator[pa.Table]:
    """Read files one after the other, in tables of about so many rows; a damaged file is noted in `damage`.

    A column that a file lacks, since it was written before there was one, is null. Dictionaries come as plain texts.
    """
    wanted = pa.schema([_plain(schema.field(name)) for name in columns])
    gathered: list[pa.Table] = []
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for file, content in _ahead(pool, files, storage.read_bytes):
            try:
                stored = pq.ParquetFile(pa.BufferReader(content))
                there = [name for name in columns if name in stored.schema_arrow.names]
                gathered.append(_as(stored.read(columns=there), wanted))
            except (pa.ArrowException, OSError):
                damage.files.append("/".join(file.url.split("/")[-4:]))
                continue
            if sum(table.num_rows for table in gathered) >= rows:
                yield pa.concat_tables(gathered)
                gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def _ahead(
    pool: ThreadPoolExecutor, files: Sequence[StoredFile], read: Callable[[str], bytes]
) -> Iterator[tuple[StoredFile, bytes]]:
    waiting: deque[tuple[StoredFile, Future[bytes]]] = deque()
    for file in files:
        waiting.append((file, pool.submit(read, file.url)))
        if len(waiting) > _READ_AHEAD:
            first, content = waiting.popleft()
            yield first, content.result()
    for first, content in waiting:
        yield first, content.result()


def _plain(column: pa.Field) -> pa.Field:
    return column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[column.name].cast(column.type) if column.name in table.column_names else pa.nulls(len(table), column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)
