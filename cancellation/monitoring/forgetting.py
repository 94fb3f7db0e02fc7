"""A person removed from the monitor's output: kept days (decisions, texts, reviews, shadows' flips) and reports.

What is kept here names events, and only a decision's seller, by digest: the rest goes by events that other places know
(archive, recent answers, appeals, rounds), and before those: what finds them must still be there if this is broken off
and begun again.
Figures stay as they were measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage

_ID = re.compile(r"<code>([^<]*)</code>")
_REMOVED = "<code>removed</code>"


@dataclass
class MonitoredDays:
    """Folders that `jobs.cancellation_monitor` writes to."""

    urls: Sequence[str]
    damaged: set[str] = field(default_factory=set)
    """Files that cannot be read, so that nobody can say whom they hold; known after `of_events`."""
    _known: set[str] = field(default_factory=set)
    """Events that were asked for: the next search looks for these too, which nothing else may know any more."""

    def of_events(self, event_ids: Collection[str], digests: Collection[str], *, remove: bool) -> int:
        """Count the rows, and mentions in reports, of events and of sellers' digests; with `remove`, they go."""
        self._known.update(event_ids)
        self.damaged.clear()
        if not (self._known or digests):
            return 0
        files = [file.url for url in self.urls for file in storage.list_files(url)]
        return sum(self._search(url, digests, remove) for url in files)

    def _search(self, url: str, digests: Collection[str], remove: bool) -> int:
        search = _SEARCHES.get(url.rpartition(".")[2])
        if search is None:
            return 0
        content = storage.read_bytes(url)
        try:
            count, rest = search(content, {*self._known, *digests})
        except (pa.ArrowException, OSError, ValueError):
            self.damaged.add(url)
            return 0
        if remove and count:
            storage.write_bytes(url, rest)
        return count


def _search_table(content: bytes, ids: Collection[str]) -> tuple[int, bytes]:
    table = pq.read_table(pa.BufferReader(content))
    if "event_id" not in table.column_names:
        return 0, content
    wanted = pa.array(sorted(ids), pa.string())
    theirs = pc.is_in(table["event_id"], wanted)
    if "seller_digest" in table.column_names:  # also of events that the archive does not know any more
        theirs = pc.or_(theirs, pc.is_in(table["seller_digest"], wanted))
    count = pc.sum(theirs).as_py() or 0
    if not count:
        return 0, content
    sink = pa.BufferOutputStream()
    pq.write_table(table.filter(pc.invert(theirs)), sink, compression="zstd")
    return count, sink.getvalue().to_pybytes()


def _search_json(content: bytes, ids: Collection[str]) -> tuple[int, bytes]:
    """Search lists of events, such as reviews, and of events' ids."""
    count = 0

    def rest(value: Any, of_ids: bool = False) -> Any:
        nonlocal count
        if isinstance(value, dict):
            return {name: rest(one, name == "event_ids") for name, one in value.items()}
        if not isinstance(value, list):
            return value
        named = [one if of_ids else one.get("event_id") if isinstance(one, dict) else None for one in value]
        kept = [one for one, name in zip(value, named, strict=True) if name not in ids]
        count += len(value) - len(kept)
        return [rest(one) for one in kept]

    found = rest(json.loads(content))
    return count, json.dumps(found, separators=(",", ":")).encode() if count else content


def _search_page(content: bytes, ids: Collection[str]) -> tuple[int, bytes]:
    count = 0

    def rest(found: re.Match[str]) -> str:
        nonlocal count
        theirs = unescape(found[1]) in ids
        count += theirs
        return _REMOVED if theirs else found[0]

    found = _ID.sub(rest, content.decode()).encode()
    return count, found


_SEARCHES = {"parquet": _search_table, "json": _search_json, "html": _search_page}
