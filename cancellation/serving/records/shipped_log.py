"""The shipped log, as the monitor and people read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from functools import partial, reduce
from operator import and_
from typing import IO, Any, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from s3fs.utils import FileExpired

from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cluster import storage
from cluster.storage import StoredFile
from cluster.storage_failures import named_failures

_FOLDER = re.compile(r"/day=(\d{4}-\d\d-\d\d)/[^/]+$")
_PARALLEL_READS, _WHOLE_BYTES = 8, 8 * 2**20
_ResultT = TypeVar("_ResultT")
COMPACTED = "day-"
"""How the name of a file begins that was put together; no segment's does."""
REPLACES = b"replaces"
"""In a file's schema: names of files, as JSON, whose rows are in it."""
_DAY_SECONDS = 86_400.0
_LISTINGS = 5
"""Of a log at most, while a compaction takes files away that were listed."""


def read_log(
    output_url: str,
    *,
    market: str | None = None,
    start: float | None = None,
    end: float | None = None,
    columns: Sequence[str] = tuple(DECISION_SCHEMA.names),
    where: pc.Expression | None = None,
) -> pa.Table:
    """Read decisions as a table of `DECISION_SCHEMA`, in order of `received_at`.

    Only what is asked for is held in memory, and a file of each reader: a day may have ten million rows.

    Args:
        output_url: Where the shipper writes.
        market: Only this one's.
        start: Epoch seconds of the first instant of receipt that is wanted.
        end: Epoch seconds of the first that is not.
        columns: The only ones to read: events and features are most of a log.
        where: The only rows that are wanted, by any column; None: all.

    Raises:
        ValueError: If one is no column of it.
    """
    if unknown := sorted({*columns} - {*DECISION_SCHEMA.names}):
        raise ValueError(
            f"columns: expected some of {', '.join(DECISION_SCHEMA.names)}, found {', '.join(unknown)}; "
            "take the day from received_at"
        )
    read = list(dict.fromkeys([*columns, "received_at"]))
    url = storage.join_url(output_url, f"market={market}") if market else output_url
    wanted = [] if where is None else [where]
    wanted += [] if start is None else [pc.field("received_at") >= _instant(start)]
    wanted += [] if end is None else [pc.field("received_at") < _instant(end)]
    rows = reduce(and_, wanted) if wanted else None
    live = _read_live(url, partial(_read, columns=read, rows=rows), lambda file: _may_hold(file, start, end))
    table = pa.concat_tables([DECISION_SCHEMA.empty_table().select(read), *live], promote_options="default")
    return table.sort_by("received_at").select(list(columns))


def find_rows(output_url: str, event_id: str, *, market: str, day: date) -> pa.Table:
    """Find an event's decisions of a day, file by file, as a table of `DECISION_SCHEMA` in order of `received_at`."""
    folder = storage.join_url(output_url, f"market={market}", f"day={day}")
    live = [table for table in _read_live(folder, partial(_read_event, event_id=event_id)) if table.num_rows]
    return pa.concat_tables([DECISION_SCHEMA.empty_table(), *live], promote_options="default").sort_by("received_at")


def _read_live(
    url: str, read: Callable[[StoredFile], pa.Table], wanted: Callable[[str], bool] = lambda _: True
) -> list[pa.Table]:
    """Read a log's wanted files but those that another replaces; from the start where one went while it was read."""

    def read_all() -> list[pa.Table]:
        files = [file for file in storage.list_files(url, suffix=".parquet") if wanted(file.url)]
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            tables = list(pool.map(read, files))
        replaced = replaced_names(table.schema for table in tables)
        names = [file.url.rpartition("/")[2] for file in files]
        return [table for name, table in zip(names, tables, strict=True) if name not in replaced]

    return with_fresh_listing(read_all)


def with_fresh_listing(work: Callable[[], _ResultT]) -> _ResultT:
    """Do what lists files and reads them; from the listing on again where one went meanwhile, as by a compaction.

    Raises:
        FileNotFoundError: If that happens time after time.
    """
    for _ in range(_LISTINGS - 1):
        with suppress(FileNotFoundError):
            return work()
    return work()


def live_files(files: Sequence[StoredFile]) -> list[StoredFile]:
    """Leave out, of a folder's files, those that another replaces: a compaction was broken off, or is under way.

    Raises:
        FileNotFoundError: If one has gone meanwhile.
    """
    if len(files) < 2:  # what a compaction leaves: it replaces nothing that lies there
        return list(files)
    compacted = [file for file in files if file.url.rpartition("/")[2].startswith(COMPACTED)]
    replaced = set[str]().union(*map(_replaced_by, compacted))
    return [file for file in files if file.url.rpartition("/")[2] not in replaced]


def _replaced_by(file: StoredFile) -> set[str]:
    """None where it is damaged, as whoever reads it says by name; first it is fetched whole, as a network may fail."""
    if file.size_bytes > _WHOLE_BYTES:
        with suppress(pa.ArrowException, OSError), _opened(file) as stored:
            return replaced_names([pq.read_schema(stored)])
    content = storage.read_bytes(file.url)
    with suppress(pa.ArrowException, OSError):
        return replaced_names([pq.read_schema(pa.BufferReader(content))])
    return set()


def replaced_names(schemas: Iterable[pa.Schema]) -> set[str]:
    """Name the files whose rows stand in one of these as well: it was made of them, and they have not gone yet."""
    return {name for schema in schemas for name in json.loads((schema.metadata or {}).get(REPLACES, b"[]"))}


def find_decision(archive_url: str, event_id: str, *, market: str, day: date) -> dict[str, Any]:
    """Find what an appeal is about, in the archive alone: the decision, its evidence, the policy of that day.

    Args:
        archive_url: Where the endpoint ships (`serving.output`).
        event_id: The event's.
        market: Its market.
        day: On which it was judged, in UTC.

    Raises:
        ValueError: If there is no such decision.
    """
    decisions = storage.join_url(archive_url, "decisions")
    rows = find_rows(decisions, event_id, market=market, day=day).to_pylist()
    if not rows:
        raise ValueError(f"archive {decisions}: expected a decision on that event in {market} on {day}, found none")
    evidence = storage.join_url(archive_url, "evidence")
    made = find_rows(evidence, event_id, market=market, day=day).to_pylist()
    explained = {row["received_at"]: row["decision_factors"] for row in made}
    policy = policy_url(archive_url, rows[0]["policy_version"].partition("+")[0])
    return {
        "decision": rows[0],
        "later": [{**row, "explained": explained.get(row["received_at"])} for row in rows[1:]],
        "explained": explained.get(rows[0]["received_at"]),
        "policy": storage.read_bytes(policy).decode() if storage.exists(policy) else None,
    }


def day_start(day: date) -> float:
    """Give the first instant of a day in UTC (epoch seconds)."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def policy_url(archive_url: str, version: str) -> str:
    """Give the place of a policy file in the archive, by its version without what was killed in it."""
    return storage.join_url(archive_url, "policies", f"{quote(version, safe='')}.toml")


def _read(file: StoredFile, columns: list[str], rows: pc.Expression | None) -> pa.Table:
    with _opened(file) as stored:
        # What an earlier release had no column for is null.
        there = set(pq.read_schema(stored).names)
        stored.seek(0)
        return pq.read_table(stored, columns=[name for name in columns if name in there], filters=rows)


def _read_event(file: StoredFile, event_id: str) -> pa.Table:
    """Read one event's rows; of a file that has none only the ids, and how it came to be."""
    with _opened(file) as stored:
        log = pq.ParquetFile(stored)
        ids = log.read(columns=["event_id"])
        places = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(ids["event_id"], event_id), False)))
        if not len(places):
            return ids.slice(0, 0)
        # A gateway looks decisions up beside its answers: of a day put together, the groups that have the event.
        ends = np.cumsum([log.metadata.row_group(number).num_rows for number in range(log.num_row_groups)])
        rows = log.read_row_groups(sorted(set(np.searchsorted(ends, places, side="right").tolist())))
        return rows.filter(pc.equal(rows["event_id"], event_id))


@contextmanager
def _opened(file: StoredFile) -> Iterator[pa.BufferReader | IO[bytes]]:
    """A small file whole, in one request; of a large one what is asked for."""
    if file.size_bytes <= _WHOLE_BYTES:
        yield pa.BufferReader(storage.read_bytes(file.url))
        return
    filesystem, path = storage.open_filesystem(file.url)
    with named_failures(file.url), filesystem.open(path, "rb", cache_type="none") as stored:
        try:
            yield stored
        except FileExpired:  # written anew while it was read: whoever lists again finds it
            raise FileNotFoundError(file.url) from None


def _may_hold(url: str, start: float | None, end: float | None) -> bool:
    found = _FOLDER.search(url)
    if found is None:
        return False
    first = day_start(date.fromisoformat(found[1]))
    return (start is None or first + _DAY_SECONDS > start) and (end is None or first < end)


def _instant(seconds: float) -> pa.Scalar:
    return pa.scalar(datetime.fromtimestamp(seconds, UTC), pa.timestamp("us", tz="UTC"))
