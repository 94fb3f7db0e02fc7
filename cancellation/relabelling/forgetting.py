"""A person removed from rounds: tasks, answers, labels that came of them, cases; files are known by what they hold.

A task and an answer name an event and not whom it is about, so they go first: what finds them (the event, in cases and
labelled rows) must still be there if this is broken off and begun again. What a round or a report says of itself is
counted anew each time, from what it once had and what is left.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.relabelling.cases import CASES, FORGOTTEN
from cancellation.relabelling.correction import REPORT, report_files
from cancellation.serving.records.people import ROLES, PersonKey
from cluster import storage
from cluster.commit import SUCCESS

_HEAD_BYTES = 16
_WITHOUT_CASES = ("config.xml", "procedure.html", "report.html")
"""Files of rounds that are no data; the last is rendered anew from its report."""

Event = Mapping[str, Any]


@dataclass
class Rounds:
    """Folders that rounds, exports of their answers, labels that came of them and labelled sets lie in."""

    urls: Sequence[str]
    key: PersonKey
    passed_over: set[str] = field(default_factory=set)
    """Files of a form that is not searched; known after `about`."""
    _known: set[str] = field(default_factory=set)
    """Events that were found: the next search looks for tasks of these too, whose cases may be gone."""

    def about(self, digests: Collection[str], *, remove: bool) -> list[str]:
        """Give the events of which something here is about somebody; with `remove`, that goes.

        An event of a labelled set has people's ids, one from the endpoint's archive already their digests.
        """
        wanted = frozenset(digests)

        def theirs(event: Event) -> bool:
            names = [(role, event[f"{role}_id"]) for role in ROLES if isinstance(event.get(f"{role}_id"), str)]
            return any(name in wanted or self.key.digest(role, name) in wanted for role, name in names)

        events, others, folders = self._files()
        found = {url: ids for url in events if (ids := _search_events(url, theirs))}
        here = {event_id for ids in found.values() for event_id in ids}
        self._known |= here
        for url in others:
            here |= self._search_tasks(url, remove=remove)
        if remove:
            for folder in folders:
                _update_counts(folder, self._known)
            for url in found:
                _search_events(url, theirs, remove=True)
            for folder in folders:  # also where nothing was found: whoever removed it may have been killed before this
                _update_counts(folder, ())
        return sorted(here)

    def _search_tasks(self, url: str, *, remove: bool) -> set[str]:
        """Find, or remove, tasks of Label Studio and exports of them with what people answered."""
        try:
            tasks = json.loads(storage.read_bytes(url))
        except ValueError:
            self.passed_over.add(url)
            return set()
        asked = [_asked(task) if isinstance(task, dict) else "" for task in tasks]
        found = self._known.intersection(asked)
        if remove and found:
            kept = [task for task, name in zip(tasks, asked, strict=True) if name not in found]
            storage.write_bytes(url, json.dumps(kept, ensure_ascii=False, indent=1).encode())
        return found

    def _files(self) -> tuple[list[str], list[str], list[str]]:
        """List the files that may hold events, those that may hold tasks, and folders of finished work."""
        events, tasks, folders = [], [], []
        for root in self.urls:
            files = [file for file in storage.list_files(root) if file.size_bytes]
            heads = storage.read_ranges(
                [file.url for file in files], [0] * len(files), [min(file.size_bytes, _HEAD_BYTES) for file in files]
            )
            for file, head in zip(files, heads, strict=True):
                name = file.url.rpartition("/")[2]
                if name == SUCCESS:
                    folders.append(file.url.removesuffix(f"/{SUCCESS}"))
                elif head.startswith(b"PAR1") or head.lstrip().startswith(b"{"):
                    events.append(file.url)
                elif head.lstrip().startswith(b"["):
                    tasks.append(file.url)
                elif name not in _WITHOUT_CASES:
                    self.passed_over.add(file.url)
        return events, tasks, folders


def _search_events(url: str, theirs: Callable[[Event], bool], *, remove: bool = False) -> set[str]:
    content = storage.read_bytes(url)
    search = _search_table if content.startswith(b"PAR1") else _search_lines
    found, rest = search(content, theirs)
    if remove and found:
        storage.write_bytes(url, rest())
    return found


def _search_table(content: bytes, theirs: Callable[[Event], bool]) -> tuple[set[str], Callable[[], bytes]]:
    file = pq.ParquetFile(io.BytesIO(content))
    names = file.schema_arrow.names
    of_people = [name for name in ("event_id", *(f"{role}_id" for role in ROLES)) if name in names]
    table = file.read(columns=["event"] if "event" in names else of_people)
    rows = [_read_object(row["event"] or "{}") if "event" in row else row for row in table.to_pylist()]
    mask = [theirs(row) for row in rows]

    def rest() -> bytes:
        sink = io.BytesIO()
        kept = file.read().filter(pa.array([not one for one in mask], pa.bool_()))
        most = max(1, *(file.metadata.row_group(place).num_rows for place in range(file.num_row_groups)))
        pq.write_table(kept, sink, compression="zstd", row_group_size=most)
        return sink.getvalue()

    return {_event_id(row) for row, one in zip(rows, mask, strict=True) if one}, rest


def _search_lines(content: bytes, theirs: Callable[[Event], bool]) -> tuple[set[str], Callable[[], bytes]]:
    lines = content.split(b"\n")
    rows = [_read_object(line) for line in lines]
    events = [row["event"] if isinstance(row.get("event"), dict) else row for row in rows]
    mask = [theirs(event) for event in events]
    found = {_event_id(event) for event, one in zip(events, mask, strict=True) if one}
    return found, lambda: b"\n".join(line for line, one in zip(lines, mask, strict=True) if not one)


def _read_object(text: str | bytes) -> dict[str, Any]:
    """Read a line; one that is no whole object, such as of an indented file, is nobody's."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _event_id(event: Event) -> str:
    return str(event.get("event_id"))


def _asked(task: Mapping[str, Any]) -> str:
    data = task.get("data")
    return _event_id(data if isinstance(data, dict) else task)


def _update_counts(folder: str, gone: Collection[str]) -> None:
    """Write into a round, or a report, how many of its cases or labels are not there any more."""
    manifest = _read_object(storage.read_bytes(storage.join_url(folder, SUCCESS)))
    if "procedure_digest" in manifest:
        cases = pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join_url(folder, CASES))))
        forgotten = sum(manifest["asked"].values()) - cases.num_rows
        if forgotten != manifest.get(FORGOTTEN, 0):
            for name in ("run.json", SUCCESS):
                written = _read_object(storage.read_bytes(storage.join_url(folder, name)))
                _write(folder, name, {**written, FORGOTTEN: forgotten})
    elif "rows" in (report := manifest.get("report", {})):
        present = sum(storage.read_bytes(storage.join_url(folder, name)).count(b"\n") for name in report["rows"])
        changed = {**report, FORGOTTEN: sum(report["rows"].values()) - present}
        if "cases" in report:
            named = report["cases"].items()
            changed["cases"] = {kind: [one for one in some if one["event_id"] not in gone] for kind, some in named}
        if changed != {FORGOTTEN: 0, **report}:
            if storage.exists(storage.join_url(folder, REPORT)):
                for name, content in report_files(changed).items():
                    storage.write_bytes(storage.join_url(folder, name), content)
            _write(folder, SUCCESS, {**manifest, "report": changed})


def _write(folder: str, name: str, content: Mapping[str, Any]) -> None:
    storage.write_bytes(storage.join_url(folder, name), json.dumps(content, indent=1).encode())
