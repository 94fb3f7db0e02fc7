"""Shipping: sealed segments become parquet files in object storage, each exactly once.

A segment's records go to `market=BR/day=2026-11-22/<segment>.parquet`, one file per folder. Names and
bytes follow from the segment alone and a file is created whole or not at all, so that a shipper which was killed,
or two at once, change nothing; a segment is deleted only when all its files are there. Converting takes CPU time
that answers want: run it in a process of its own, one per machine.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cancellation.serving.records.decision_record import decision_table, partition
from cancellation.serving.records.segments import DAMAGED, read_segment, sealed_segments
from cluster import storage
from cluster.logs import LastingFault
from cluster.settings import Settings

logger = logging.getLogger(__name__)

_LONG_SECONDS = 60.0
"""A file that takes longer than this does not get through, though the storage's libraries try on."""
LOCK = "shipper.lock"
"""In each log's folder: whoever holds it is alone with the segments that are sealed."""


class ShipperSettings(Settings):
    """How often, and how patiently."""

    interval_seconds: float = Field(5.0, gt=0, le=600)
    """Between two looks at the folder."""

    backoff_seconds: float = Field(1.0, gt=0, le=60)
    """Wait after the first failure of the storage; doubled with each further one."""

    max_backoff_seconds: float = Field(60.0, gt=0, le=3600)
    """Longest wait: how soon shipping goes on when the storage is back."""

    rows_at_once: int = Field(32, ge=1, le=10_000)
    """Rows converted in one call, which no other thread can interrupt."""


class Shipper:
    """Ships one folder's segments, its own process's or another's, living or dead."""

    def __init__(
        self,
        folder: Path,
        output_url: str,
        settings: ShipperSettings | None = None,
        *,
        table_of: Callable[[Sequence[Mapping[str, Any]]], pa.Table] = decision_table,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder)
        self.output_url = storage.absolute_url(output_url)
        self.settings = settings or ShipperSettings()
        self.num_shipped = 0
        """Records."""
        self.num_failures = 0
        self.failures_in_a_row = 0
        self.last_failure: str | None = None
        """What the storage last said; None while it works."""
        self._table_of = table_of
        self._clock = clock
        self._not_before = 0.0
        self._fault = LastingFault(logger, f"{self.folder} to {self.output_url}", clock=clock)
        self._sending_since: float | None = None

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed, or the present one waits for the storage for more than a minute."""
        since = self._sending_since
        return self.last_failure is not None or (since is not None and self._clock() - since > _LONG_SECONDS)

    def ship_once(self, *, patient: bool = True) -> int:
        """Ship what is sealed; return the number of records. 0 also while it backs off (if patient), or another ships.

        A disk or a storage that fails is counted and left alone for a while.
        """
        if (patient and self._clock() < self._not_before) or not self.folder.is_dir():
            return 0
        before = self.num_shipped
        try:
            with self._alone() as alone:
                if all(self._ship(path) for path in (sealed_segments(self.folder) if alone else ())):
                    self._forget_failures()
        except OSError as error:  # of the local disk: full, read-only, gone
            self._back_off(error, str(self.folder))
        return self.num_shipped - before

    def _ship(self, path: Path) -> bool:
        content = read_segment(path)
        files = self._files(path.stem, content.records)
        for url, data in files:
            if not self._create(url, data):
                return False
        self.num_shipped += len(content.records)
        self._forget_failures()
        self._fault.works()
        if content.damaged_lines:
            logger.error("segment %s: %d damaged lines; kept for people", path.stem, content.damaged_lines)
            path.rename(path.with_suffix(DAMAGED))
        else:
            path.unlink()
        return True

    def _files(self, segment: str, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
        folders = defaultdict(list)
        for record in records:
            folders[partition(record)].append(record)
        return [
            (storage.join_url(self.output_url, folder, f"{segment}.parquet"), self._parquet(folders[folder]))
            for folder in sorted(folders)
        ]

    def _parquet(self, records: Sequence[Mapping[str, Any]]) -> bytes:
        size = self.settings.rows_at_once
        tables = [self._table_of(records[start : start + size]) for start in range(0, len(records), size)]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), sink, compression="zstd")
        return sink.getvalue().to_pybytes()

    def _create(self, url: str, data: bytes) -> bool:
        self._sending_since = self._clock()
        try:
            # False: there is one of this name with other bytes, the same records by another version of Arrow.
            storage.create_exclusive(url, data)
        except Exception as error:  # an edge: storage fails in the classes of four libraries
            self._back_off(error, self.output_url)
            return False
        finally:
            self._sending_since = None
        return True

    def _forget_failures(self) -> None:
        self.last_failure, self.failures_in_a_row, self._not_before = None, 0, 0.0

    def _back_off(self, error: Exception, place: str) -> None:
        self.num_failures += 1
        self.failures_in_a_row += 1
        self.last_failure = type(error).__name__
        wait = self.settings.backoff_seconds * 2 ** min(self.failures_in_a_row - 1, 20)
        wait = min(wait, self.settings.max_backoff_seconds)
        self._not_before = self._clock() + wait
        said = (str(error).splitlines() or ["it did not say why"])[0]
        self._fault.failed(f"{place}: failed ({self.last_failure}); {said}; again in {wait:.0f} s")

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _try_lock(descriptor)
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
