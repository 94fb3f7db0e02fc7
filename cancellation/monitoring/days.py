"""The counts of each day, kept below `days/` so that a month is compared without reading a month of logs.

    days/2026-11-22/decisions.json      counts
    days/2026-11-22/decisions.parquet   each decision in a few columns: which events are behind a figure
    days/2026-11-22/feedback.json       what people said on that day

Each file says what it was made from. It is made again if that has changed, as when hours came late, and only then: a
day may be run as often as one likes and is never counted twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.features.profile import FeatureProfile
from cancellation.monitoring.counts import DECISION_COLUMNS, SLIM_COLUMNS, DayCounts, DecisionCounter, read_counts
from cancellation.monitoring.feedback import (
    FEEDBACK_COLUMNS,
    FeedbackDay,
    join_feedback,
    read_feedback,
    usable_messages,
)
from cancellation.monitoring.log_files import Damage, day_files, stream_tables
from cancellation.monitoring.shadow import SHADOW_COLUMNS, ShadowCounter
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.feedback import FEEDBACK_SCHEMA
from cluster import storage
from cluster.storage import listing_digest

_FORM = 2
"""Raise it when other things are counted, or counted otherwise: kept days are then made again."""

_SLIM_SCHEMA = pa.schema(
    [
        column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in (DECISION_SCHEMA.field(name) for name in SLIM_COLUMNS)
    ]
)


class Days:
    """The kept days of one archive, below a folder of its own."""

    def __init__(self, archive_url: str, output_url: str, profile: FeatureProfile | None) -> None:
        self._archive, self._output, self._profile = archive_url.rstrip("/"), output_url.rstrip("/"), profile

    def complete(self, day: date, num_before: int) -> tuple[list[DayCounts], list[FeedbackDay]]:
        """Bring a day and those before it up to date; give the counts of those that the archive knows, oldest first.

        The day itself is always among them, and always last.
        """
        window = [day - timedelta(days=back) for back in range(num_before, -1, -1)]
        stamps: dict[date, str] = {}
        decisions: list[DayCounts] = []
        feedback: list[FeedbackDay] = []
        for one in window:
            files, shadow = (day_files(self._log(name), one) for name in ("decisions", "shadow"))
            if files or shadow or one == day:
                stamps[one] = _digest(listing_digest(files), listing_digest(shadow), self._reference())
                decisions.append(self._decisions(one, files, shadow, stamps[one]))
            messages = day_files(self._log("feedback"), one)
            if messages or one == day:
                stamp = _digest(listing_digest(messages), sorted((str(key), value) for key, value in stamps.items()))
                feedback.append(self._feedback(one, messages, stamps, feedback, stamp))
        return decisions, feedback

    def events_url(self, day: date) -> str:
        """Where the day's decisions are kept in a few columns."""
        return self._url(day, "decisions.parquet")

    def all_feedback(self, until: date) -> Iterator[FeedbackDay]:
        """Give the feedback of every kept day up to one, oldest first, however long ago."""
        for file in storage.list_files(storage.join_url(self._output, "days"), suffix="/feedback.json"):
            if file.url.rsplit("/", 2)[-2] <= str(until):
                yield read_feedback(_content(storage.read_bytes(file.url)))

    def _decisions(self, day: date, files: Sequence[Any], shadow: Sequence[Any], stamp: str) -> DayCounts:
        if (kept := self._kept(day, "decisions.json", stamp)) is not None:
            return read_counts(kept)
        counter = DecisionCounter(day, self._profile)
        damage = counter.counts.damage
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "decisions.parquet"
            with pq.ParquetWriter(path, _SLIM_SCHEMA, compression="zstd") as slim:
                for table in stream_tables(files, DECISION_SCHEMA, damage, columns=DECISION_COLUMNS):
                    slim.write_table(counter.add(table).select(SLIM_COLUMNS).cast(_SLIM_SCHEMA))
            storage.write_bytes(self.events_url(day), path.read_bytes())
        shadows = ShadowCounter(counter.counts)
        for table in stream_tables(shadow, DECISION_SCHEMA, shadows.damage, columns=SHADOW_COLUMNS):
            shadows.add(table)
        damage.files += [f"shadow/{name}" for name in shadows.damage.files]
        damage.unread += shadows.damage.unread
        self._keep(day, "decisions.json", stamp, counter.counts.to_json())
        return counter.counts

    def _feedback(
        self, day: date, files: Sequence[Any], known: Iterable[date], before: Sequence[FeedbackDay], stamp: str
    ) -> FeedbackDay:
        if (kept := self._kept(day, "feedback.json", stamp)) is not None:
            return read_feedback(kept)
        damage = Damage()
        tables = stream_tables(files, FEEDBACK_SCHEMA, damage, columns=FEEDBACK_COLUMNS)
        messages = usable_messages(tables, day, damage)
        decisions = self._find({message["event_id"] for message in messages}, known)
        result = join_feedback(day, messages, decisions, before=before, damage=damage)
        self._keep(day, "feedback.json", stamp, result.to_json())
        return result

    def _find(self, event_ids: set[str], days: Iterable[date]) -> dict[str, dict[str, Any]]:
        """Find the first decision on each event in the kept days."""
        found: dict[str, dict[str, Any]] = {}
        wanted = pa.array(sorted(event_ids), pa.string())
        for day in days if event_ids else ():
            content = pa.BufferReader(storage.read_bytes(self.events_url(day)))
            for batch in pq.ParquetFile(content).iter_batches():
                for row in batch.filter(pc.is_in(batch["event_id"], wanted)).to_pylist():
                    found.setdefault(row["event_id"], row)
        return found

    def _kept(self, day: date, name: str, stamp: str) -> bytes | None:
        try:
            content = storage.read_bytes(self._url(day, name))
            value = json.loads(content)
            return _content(content) if value["made_from"] == stamp else None
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError):  # cut off, or another program's: made again
            return None

    def _keep(self, day: date, name: str, stamp: str, content: bytes) -> None:
        whole = b'{"made_from":%s,"content":%s}' % (json.dumps(stamp).encode(), content)
        storage.write_bytes(self._url(day, name), whole)

    def _url(self, day: date, name: str) -> str:
        return storage.join_url(self._output, "days", str(day), name)

    def _log(self, name: str) -> str:
        return storage.join_url(self._archive, name)

    def _reference(self) -> str:
        return "none" if self._profile is None else sha256(self._profile.to_json()).hexdigest()


def _content(whole: bytes) -> bytes:
    return json.dumps(json.loads(whole)["content"]).encode()


def _digest(*parts: Any) -> str:
    return sha256(repr([*parts, _FORM]).encode()).hexdigest()[:24]
