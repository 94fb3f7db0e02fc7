"""A person removed from archive, recent answers, appeals, segments not shipped yet, monitored days, and from rounds.

Rows are found by the keyed digests of `people.py`. Feedback, and most of what the monitor keeps, have none and go by
their events' ids, and so first: what finds them must still be there if this is broken off and begun again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.serving.records.log_shipping import LOCK
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.segments import DAMAGED, OPEN, SEALED, sealed_segments
from cluster import storage
from cluster.storage import StoredFile

_BY_DIGEST = ("decisions", "shadow", "rejudged", "evidence", "explanations", "appeals", "reversals")
_BY_EVENT = "feedback"


@dataclass
class Found:
    """How many rows of somebody lie where."""

    archive: int = 0
    segments: int = 0
    open_segments: int = 0
    """Lines of segments that are being written: nobody else may touch those until they are sealed."""
    recent: int = 0
    appeals: int = 0
    """Cases, whole."""
    relabelled: int = 0
    """Events of labelled sets and of rounds in which people label, with their tasks and answers."""
    monitored: int = 0
    """Rows of days that the monitor keeps, and mentions in its reports."""
    event_ids: set[str] = field(default_factory=set)

    @property
    def rows(self) -> int:
        """All of them."""
        shipped = self.archive + self.segments + self.open_segments
        return shipped + self.recent + self.appeals + self.relabelled + self.monitored


class Remembers(Protocol):
    """What finds events by people's digests, and can forget them."""

    def about(self, digests: Collection[str], *, remove: bool) -> list[str]:
        """Give the events of which something holds one of the digests; with `remove`, that goes."""
        ...


class NamesEvents(Protocol):
    """What holds rows of events, and nothing of whom they are about."""

    def of_events(self, event_ids: Collection[str], digests: Collection[str], *, remove: bool) -> int:
        """Count the rows of events, or of people where it knows any; with `remove`, they go."""
        ...


@dataclass(frozen=True)
class Places:
    """What is searched."""

    archive_url: str
    log_folder: Path | None = None
    """`data_dir/log` of this machine."""
    recent: Remembers | None = None
    appeals: Remembers | None = None
    rounds: Remembers | None = None
    """Folders of rounds and labelled sets."""
    monitored: NamesEvents | None = None
    """Folders of the monitor's output."""


def forget(places: Places, digests: Collection[str]) -> tuple[Found, Found]:
    """Remove somebody; give what was there, and what is left. Safe to repeat, and to break off."""
    before = find(places, digests)
    _pass(places, digests, before.event_ids, remove=True)
    return before, find(places, digests)


def find(places: Places, digests: Collection[str]) -> Found:
    """Count what there is of somebody, event by event."""
    known = _pass(places, digests, (), remove=False).event_ids
    return _pass(places, digests, known, remove=False)


def _pass(places: Places, digests: Collection[str], event_ids: Collection[str], *, remove: bool) -> Found:
    """Go through all places once, feedback first; with `remove`, what is found goes."""
    found = Found()
    if places.monitored is not None:
        found.monitored = places.monitored.of_events(event_ids, digests, remove=remove)
    quoted = [json.dumps(event_id, ensure_ascii=False) for event_id in event_ids]
    for log in (_BY_EVENT, *_BY_DIGEST):
        marks = quoted if log == _BY_EVENT else list(digests)
        if places.log_folder is not None and marks and (places.log_folder / log).is_dir():
            _search_segments(places.log_folder / log, [mark.encode() for mark in marks], found, remove)
        search = _of_events(event_ids) if log == _BY_EVENT else _of_people(digests)
        _search_log(storage.join_url(places.archive_url, log), search, found, remove)
        if log == _BY_EVENT:
            recent, appeals, relabelled = (
                store.about(digests, remove=remove) if store is not None else []
                for store in (places.recent, places.appeals, places.rounds)
            )
            found.recent += len(recent)
            found.appeals += len(appeals)
            found.relabelled += len(relabelled)
            found.event_ids.update(recent, appeals, relabelled)
    return found


@dataclass(frozen=True)
class _Search:
    """What tells somebody's rows from others'."""

    columns: tuple[str, ...]
    """The only ones that are looked at: events are most of a log."""
    matches: Callable[[pa.Table], pa.ChunkedArray]


def _of_people(digests: Collection[str]) -> _Search:
    """Rows with one of the digests, those that did not fit the columns among them."""
    wanted = pa.array(sorted(digests), pa.string())
    columns = tuple(f"{role}_digest" for role in ROLES)

    def matches(table: pa.Table) -> pa.ChunkedArray:
        masks = [pc.is_in(table[name], wanted) for name in columns]
        masks += [pc.fill_null(pc.match_substring(table["unread"], digest), False) for digest in digests]
        return _any(masks)

    return _Search((*columns, "unread", "event_id"), matches)


def _of_events(event_ids: Collection[str]) -> _Search:
    wanted = pa.array(sorted(event_ids), pa.string())
    return _Search(("event_id",), lambda table: pc.is_in(table["event_id"], wanted))


def _any(masks: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    first, *others = masks
    for mask in others:
        first = pc.or_(first, mask)
    return first


def _search_log(url: str, search: _Search, found: Found, remove: bool) -> None:
    """Search a log's files, and those that came or were written anew meanwhile: a compaction puts files into others."""
    searched: set[StoredFile] = set()
    while fresh := set(storage.list_files(url, suffix=".parquet")) - searched:
        for one in sorted(fresh, key=lambda file: file.url):
            with suppress(FileNotFoundError):
                _search_file(one.url, search, found, remove)
        searched |= fresh


def _search_file(url: str, search: _Search, found: Found, remove: bool) -> None:
    file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(url)))
    keys = file.read(columns=list(search.columns))
    mask = search.matches(keys)
    count = pc.sum(mask).as_py() or 0
    if not count:
        return
    found.archive += count
    found.event_ids.update(name for name in keys["event_id"].filter(mask).to_pylist() if name is not None)
    if remove:
        # An empty file stays: a shipper that was killed before it removed the segment would create a missing one anew.
        storage.write_bytes(url, _without(file, mask))


def _without(file: pq.ParquetFile, mask: pa.ChunkedArray) -> bytes:
    """Write a file anew without some rows, a row group at a time: a day may be more than a machine holds."""
    sink, place = pa.BufferOutputStream(), 0
    with pq.ParquetWriter(sink, file.schema_arrow, compression="zstd") as writer:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            writer.write_table(rows.filter(pc.invert(mask.slice(place, len(rows)))))
            place += len(rows)
    return sink.getvalue().to_pybytes()


def _search_segments(folder: Path, marks: list[bytes], found: Found, remove: bool) -> None:
    with _no_shipping(folder):
        sealed_segments(folder)
        for path in sorted(folder.glob("*-*")):
            if path.suffix not in (OPEN, SEALED, DAMAGED):
                continue
            lines = path.read_bytes().split(b"\n")
            theirs = [line for line in lines if any(mark in line for mark in marks)]
            found.event_ids.update(_event_ids(theirs))
            if path.suffix == OPEN:
                found.open_segments += len(theirs)
                continue
            found.segments += len(theirs)
            if remove and theirs:
                gone = set(theirs)
                storage.write_bytes(str(path), b"\n".join(line for line in lines if line not in gone))


def _event_ids(lines: list[bytes]) -> Iterator[str]:
    for line in lines:
        try:
            yield json.loads(line[line.index(b"{") :])["event_id"]
        except (ValueError, LookupError):  # a damaged line: it goes by its digest alone
            continue


@contextmanager
def _no_shipping(folder: Path) -> Iterator[None]:
    """Keep the shipper away: a segment that it has read would be shipped with what is removed here."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
