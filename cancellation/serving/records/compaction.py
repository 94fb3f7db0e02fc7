"""One file per market and day of the archive instead of one per segment.

The new file names those that it replaces, and is there before they go: `read_log` passes over a file that another
replaces, and whoever is broken off leaves what the next run removes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b

import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.serving.records.shipped_log import COMPACTED, REPLACES, replaced_names
from cluster import storage
from cluster.storage import StoredFile

LOGS = ("decisions", "shadow", "rejudged", "evidence", "feedback", "explanations", "appeals", "reversals")
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1_000, 32 * 2**20
_LISTINGS = 5
_FOLDER = re.compile(r"/day=(\d{4}-\d\d-\d\d)/[^/]+\.parquet$")


@dataclass(frozen=True, slots=True)
class Compacted:
    """What came of it."""

    folders: int
    """Markets and days that were put together."""
    files_before: int
    files_after: int


def compact(archive_url: str, *, before: date) -> Compacted:
    """Put the files of each market and day before one together. Safe to repeat, also when it was broken off."""
    folders = files_before = files_after = 0
    for log in LOGS:
        for folder, files in _folders(storage.join_url(archive_url, log), before).items():
            files_before += len(files)
            files_after += 1
            if len(files) > 1:
                _compact_folder(folder, files)
                folders += 1
    return Compacted(folders, files_before, files_after)


def _folders(log_url: str, before: date) -> dict[str, list[StoredFile]]:
    found = defaultdict(list)
    for file in storage.list_files(log_url, suffix=".parquet"):
        day = _FOLDER.search(file.url)
        if day is not None and date.fromisoformat(day[1]) < before:
            found[file.url.rpartition("/")[0]].append(file)
    return found


def _compact_folder(folder: str, files: Sequence[StoredFile]) -> None:
    for left in reversed(range(_LISTINGS)):
        try:
            return _compact_files(folder, files)
        except FileNotFoundError:  # all of its people were removed meanwhile, or another compaction is at work here
            if not left:
                raise
            files = storage.list_files(folder, suffix=".parquet")
    return None


def _compact_files(folder: str, files: Sequence[StoredFile]) -> None:
    read = {file.url.rpartition("/")[2]: file.version for file in files}
    schemas = {name: _open(folder, name).schema_arrow for name in read}
    replaced = replaced_names(schemas.values())
    live = {name: schema for name, schema in schemas.items() if name not in replaced}
    if len(live) > 1:
        digest = blake2b(json.dumps(sorted(live)).encode(), digest_size=8).hexdigest()
        url = storage.join_url(folder, f"{COMPACTED}{digest}.parquet")
        replaced |= set(live)
        if not storage.create_exclusive(url, _put_together(folder, live, replaced)):
            return  # another compaction is at work here, and removes what it has put together
        # People who were removed from a file after it was read must not stay by what was made of it.
        while changed := _changed(folder, read):
            read |= changed
            try:
                storage.write_bytes(url, _put_together(folder, live, replaced))
            except FileNotFoundError:
                raise RuntimeError(f"{folder}: files went while {url} was made of them; run it again") from None
    storage.remove_files([storage.join_url(folder, name) for name in sorted(replaced & set(schemas))])


def _open(folder: str, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(storage.join_url(folder, name))))


def _changed(folder: str, read: Mapping[str, str]) -> dict[str, str]:
    """Give the versions of files that were written again since they were read, by name."""
    now = {file.url.rpartition("/")[2]: file.version for file in storage.list_files(folder, suffix=".parquet")}
    return {name: version for name, version in now.items() if read.get(name, version) != version}


def _put_together(folder: str, files: Mapping[str, pa.Schema], replaced: Collection[str]) -> bytes:
    """Write rows with the names of all files that they ever stood in: a shipper that was cut off brings one again.

    File by file: a day of a large market is more than a machine holds. Their names are in the order of time.
    """
    whole = pa.unify_schemas([schema.remove_metadata() for schema in files.values()])
    sink, metadata = pa.BufferOutputStream(), {REPLACES: json.dumps(sorted(replaced)).encode()}
    with pq.ParquetWriter(sink, whole.with_metadata(metadata), compression="zstd") as writer:
        for tables in _some_at_once(_open(folder, name) for name in sorted(files)):
            rows = pa.concat_tables([whole.empty_table(), *tables], promote_options="default")
            writer.write_table(rows.unify_dictionaries())
    return sink.getvalue().to_pybytes()


def _some_at_once(files: Iterable[pq.ParquetFile]) -> Iterator[list[pa.Table]]:
    tables, size = [], 0
    for file in files:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            tables.append(pa.Table.from_batches([batch]))
            size += batch.nbytes
            if size >= _BYTES_AT_ONCE:
                yield tables
                tables, size = [], 0
    if tables:
        yield tables
