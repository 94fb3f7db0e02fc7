"""One file per market and day of the archive instead of one per segment.

The new file names those that it replaces, and is there before they go: `read_log` passes over a file that another
replaces, and whoever is broken off leaves what the next run removes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b

import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.serving.records.shipped_log import REPLACES, replaced_names
from cluster import storage

LOGS = ("decisions", "shadow", "rejudged", "evidence", "feedback", "explanations", "appeals", "reversals")
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
        for folder, urls in _folders(storage.join_url(archive_url, log), before).items():
            files_before += len(urls)
            files_after += 1
            if len(urls) > 1:
                _compact_folder(folder, urls)
                folders += 1
    return Compacted(folders, files_before, files_after)


def _folders(log_url: str, before: date) -> dict[str, list[str]]:
    found = defaultdict(list)
    for file in storage.list_files(log_url, suffix=".parquet"):
        day = _FOLDER.search(file.url)
        if day is not None and date.fromisoformat(day[1]) < before:
            found[file.url.rpartition("/")[0]].append(file.url)
    return found


def _compact_folder(folder: str, urls: Sequence[str]) -> None:
    tables = {url.rpartition("/")[2]: pq.read_table(pa.BufferReader(storage.read_bytes(url))) for url in urls}
    replaced = replaced_names(tables.values())
    live = {name: table for name, table in tables.items() if name not in replaced}
    if len(live) > 1:
        name = f"day-{blake2b(json.dumps(sorted(live)).encode(), digest_size=8).hexdigest()}.parquet"
        replaced |= set(live)
        storage.create_exclusive(storage.join_url(folder, name), _put_together(live, replaced))
    storage.remove_files([storage.join_url(folder, name) for name in sorted(replaced & set(tables))])


def _put_together(tables: dict[str, pa.Table], replaced: Collection[str]) -> bytes:
    """Write rows with the names of all files that they ever stood in: a shipper that was cut off brings one again."""
    table = pa.concat_tables(tables.values(), promote_options="default").unify_dictionaries().combine_chunks()
    table = table.sort_by("received_at").replace_schema_metadata({REPLACES: json.dumps(sorted(replaced)).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
