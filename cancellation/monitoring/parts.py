"""A day's files in parts that are read apart, each to its share of the counts, and the shares added up.

A function takes a part and gives a share; what carries parts to it is the caller's: `one_by_one` here, or Ray Data
(`cluster.sharded.pool.map_in_order`), whose tasks read on as many machines as a cluster has. Whoever adds up holds one
share, and eight bytes of each event.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.features.profile import FeatureProfile
from cancellation.monitoring.counts import (
    DECISION_COLUMNS,
    SHADOW_COLUMNS,
    SLIM_COLUMNS,
    DayCounts,
    DecisionCounter,
    ShadowCounter,
    add_shadows,
)
from cancellation.monitoring.feedback import FEEDBACK_COLUMNS
from cancellation.monitoring.log_files import Damage, find_rows, stream_tables
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.feedback import FEEDBACK_SCHEMA
from cluster.storage import StoredFile

_FILES = 64
_BYTES = 8 * 2**20
"""Of a part, at most, but one file is never cut: enough work to be worth a task, little enough to be held whole."""

SLIM_SCHEMA = pa.schema(
    [
        column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in (DECISION_SCHEMA.field(name) for name in SLIM_COLUMNS)
    ]
)
"""Of the decisions that are kept."""

Through = Callable[..., Iterator[Any]]
"""Called like `one_by_one`: gives what a function of a module makes of each item, in the items' order."""


def one_by_one(items: Sequence[Any], step: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Call the function in this process."""
    return (step(item, *arguments) for item in items)


@dataclass(frozen=True)
class Unit:
    """Files of one log and day."""

    log: str
    """decisions, shadow or feedback."""
    day: date
    files: Sequence[StoredFile]
    counted: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Hashes of records that earlier units have as well, int64, sorted: repeats here."""


@dataclass(frozen=True)
class Share:
    """What a unit adds."""

    unit: Unit
    counts: DayCounts
    """Of feedback only the damage."""
    hashes: np.ndarray
    """Of the records that are counted in it, int64, sorted."""
    rows: pa.Table
    """Of decisions what is kept of each, `SLIM_SCHEMA`; of feedback the messages."""


def units_of(log: str, day: date, files: Sequence[StoredFile]) -> list[Unit]:
    """Cut a log's files into units, in their order."""
    units: list[list[StoredFile]] = []
    size = 0
    for file in files:
        if not units or len(units[-1]) == _FILES or size + file.size_bytes > _BYTES:
            units.append([])
            size = 0
        units[-1].append(file)
        size += file.size_bytes
    return [Unit(log, day, tuple(some)) for some in units]


def count_unit(unit: Unit, profile: FeatureProfile | None) -> Share:
    """Read a unit's files; one that is damaged is named and no row of it counted."""
    counts, hashes, rows = DayCounts(str(unit.day)), unit.counted, SLIM_SCHEMA.empty_table()
    if unit.log == "decisions":
        counter = DecisionCounter(unit.day, profile, unit.counted)
        counts = counter.counts
        tables = stream_tables(unit.files, DECISION_SCHEMA, counts.damage, columns=DECISION_COLUMNS)
        kept = [counter.add(table).select(SLIM_COLUMNS).cast(SLIM_SCHEMA) for table in tables]
        hashes, rows = counter.seen, pa.concat_tables([rows, *kept])
    elif unit.log == "shadow":
        shadows = ShadowCounter(counts, unit.counted)
        for table in stream_tables(unit.files, DECISION_SCHEMA, shadows.damage, columns=SHADOW_COLUMNS):
            shadows.add(table)
        counts.damage = Damage([f"shadow/{name}" for name in shadows.damage.files], shadows.damage.unread)
        hashes = shadows.seen
    else:
        messages = stream_tables(unit.files, FEEDBACK_SCHEMA, counts.damage, columns=FEEDBACK_COLUMNS)
        rows = pa.concat_tables([_MESSAGES.empty_table(), *messages])
    return Share(unit, counts, np.setdiff1d(hashes, unit.counted, assume_unique=True), rows)


_MESSAGES = pa.schema(
    [
        column.with_type(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in (FEEDBACK_SCHEMA.field(name) for name in FEEDBACK_COLUMNS)
    ]
)


def find_in_unit(unit: Unit, event_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Find the first row of each event in a unit, its id and the event itself."""
    return find_rows(unit.files, DECISION_SCHEMA, list(event_ids), columns=("event_id", "event"))


class DayTotal:
    """A day's decisions and shadows, added up share by share; what is kept of each decision goes to a file."""

    def __init__(self, units: Sequence[Unit], day: date) -> None:
        self.counts = DayCounts(str(day))
        self.again: list[Unit] = []
        """Units with records that others have as well: to be counted once more, without those."""
        self._left = len(units)
        self._seen: dict[str, np.ndarray] = {}
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "decisions.parquet"
        self._slim = pq.ParquetWriter(self._path, SLIM_SCHEMA, compression="zstd")

    @property
    def complete(self) -> bool:
        """Whether every unit is in it."""
        return not self._left

    def add(self, share: Share) -> None:
        """Take a share in, or note that its unit has to be counted again."""
        log = share.unit.log
        seen = self._seen.get(log, np.empty(0, np.int64))
        self._seen[log] = np.union1d(seen, share.hashes)
        if not len(share.unit.counted) and len(repeats := np.intersect1d(share.hashes, seen, assume_unique=True)):
            self.again.append(replace(share.unit, counted=repeats))
            return
        self._left -= 1
        self.counts.add(share.counts)
        add_shadows(self.counts, share.counts.shadow)
        if log == "decisions":
            self._slim.write_table(share.rows)

    def take_decisions(self) -> bytes:
        """Give the file of kept decisions, once."""
        self._slim.close()
        content = self._path.read_bytes()
        self.close()
        return content

    def close(self) -> None:
        """Remove the file."""
        self._slim.close()
        self._folder.cleanup()
