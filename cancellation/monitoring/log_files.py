"""A day's files of one of the archive's logs, streamed: what cannot be read is named and never half counted."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.serving.records.shipped_log import live_files
from cluster import storage
from cluster.storage import StoredFile
from cluster.storage_failures import named_failures

_READ_AHEAD = 4
"""Files on their way at once, which bound the memory: of a compacted one, a market's day, some columns are read."""

_WHOLE_BYTES = 2 * 2**20

_ROWS_AT_ONCE = 4096


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

    def add(self, other: Damage) -> None:
        """Take another part's damage in."""
        self.files += other.files
        self.unread += other.unread
        self.misplaced += other.misplaced
        self.repeated += other.repeated


def day_files(log_url: str, day: date) -> list[StoredFile]:
    """List the files of a day over all markets, in order of market, hour and time, but those that another replaces.

    A compaction may take them away before they are read (`with_fresh_listing`).
    """
    filesystem, path = storage.open_filesystem(log_url)
    try:
        with named_failures(log_url):
            entries = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return []
    markets = sorted({entry.rstrip("/").rpartition("/")[2] for entry in entries})
    folders = [storage.join_url(log_url, market, f"day={day}") for market in markets if market.startswith("market=")]
    return [file for folder in folders for file in live_files(storage.list_files(folder, suffix=".parquet"))]


def stream_tables(
    files: Sequence[StoredFile], schema: pa.Schema, damage: Damage, *, columns: Sequence[str], rows: int = 8192
) -> Iterator[pa.Table]:
    """Read files one after the other, in tables of about so many rows; a damaged file is noted in `damage`.

    A column that a file lacks, since it was written before there was one, is null. Dictionaries come as plain texts.
    """
    wanted = pa.schema([_plain(schema.field(name)) for name in columns])
    gathered: list[pa.Table] = []
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for file, table in _ahead(pool, files, lambda file: _read(file, wanted)):
            if table is None:
                damage.files.append("/".join(file.url.split("/")[-4:]))
                continue
            gathered.append(table)
            if sum(table.num_rows for table in gathered) >= rows:
                yield from _cut(gathered, rows)
                gathered = []
    if gathered:
        yield from _cut(gathered, rows)


def find_rows(
    files: Sequence[StoredFile], schema: pa.Schema, event_ids: Sequence[str], *, columns: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Find the first row of each event in some columns, `event_id` among them; a damaged file has none.

    However large a file is, only some of its rows are in memory at once: a column of events is most of a log.
    """
    wanted, ids = pa.schema([_plain(schema.field(name)) for name in columns]), pa.array(sorted(event_ids), pa.string())
    found: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        for _, table in _ahead(pool, files, lambda file: _read(file, wanted, ids)):
            for row in table.to_pylist() if table is not None else ():
                found.setdefault(row["event_id"], row)
    return found


def _read(file: StoredFile, wanted: pa.Schema, ids: pa.Array | None = None) -> pa.Table | None:
    """Read the wanted columns of a file, or of its rows of some events, before any is counted; None if it is damaged.

    A small file is fetched in one request. Of a large one, such as a compacted day, the other columns stay where they
    are: the events themselves are most of it. What fails so is fetched whole before it is called damaged, as an
    outside system's trouble must not be taken for it.
    """
    if file.size_bytes > _WHOLE_BYTES:
        filesystem, path = storage.open_filesystem(file.url)
        with contextlib.suppress(pa.ArrowException, OSError), filesystem.open(path, "rb") as source:
            return _columns(source, wanted, ids)
    content = storage.read_bytes(file.url)
    with contextlib.suppress(pa.ArrowException, OSError):
        return _columns(pa.BufferReader(content), wanted, ids)
    return None


def _columns(source: Any, wanted: pa.Schema, ids: pa.Array | None) -> pa.Table:
    stored = pq.ParquetFile(source)
    there = [name for name in wanted.names if name in stored.schema_arrow.names]
    if ids is None:
        return _as(stored.read(columns=there), wanted)
    batches = stored.iter_batches(_ROWS_AT_ONCE, columns=there)
    chosen = [pa.table(batch).filter(pc.is_in(batch["event_id"], ids)) for batch in batches]
    return pa.concat_tables([wanted.empty_table(), *(_as(table, wanted) for table in chosen if len(table))])


def _cut(tables: Sequence[pa.Table], rows: int) -> Iterator[pa.Table]:
    whole = pa.concat_tables(tables)
    for start in range(0, whole.num_rows, rows):
        yield whole.slice(start, rows)


def _ahead(
    pool: ThreadPoolExecutor, files: Sequence[StoredFile], read: Callable[[StoredFile], pa.Table | None]
) -> Iterator[tuple[StoredFile, pa.Table | None]]:
    waiting: deque[tuple[StoredFile, Future[pa.Table | None]]] = deque()
    for file in files:
        # A large one waits until no other is in memory.
        while len(waiting) >= (1 if file.size_bytes > _WHOLE_BYTES else _READ_AHEAD):
            first, table = waiting.popleft()
            yield first, table.result()
        waiting.append((file, pool.submit(read, file)))
    for first, table in waiting:
        yield first, table.result()


def _plain(column: pa.Field) -> pa.Field:
    return column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[column.name].cast(column.type) if column.name in table.column_names else pa.nulls(len(table), column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)
