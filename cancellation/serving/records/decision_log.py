"""The decision log: every answer on the local disk before it is sent, in segments that a shipper takes away.

`append` returns when the operating system has the record: it survives the death of the process by whatever
signal. Against a loss of power the segment is brought to the disk itself every `fsync_seconds`. Beyond
`max_bytes`, as when the object storage is down for long, the log goes on and says so (`over_limit`): an endpoint
that stops because its archive is away would harm more. Only a disk that takes no more ends it: then `append`
raises, and what cannot be recorded must not be answered.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from cancellation.serving.records.segments import SEALED, SegmentWriter, encode_line, segment_bytes
from cluster.logs import LastingFault
from cluster.settings import Settings

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_MEASURE_SECONDS = 5.0


class DecisionLogSettings(Settings):
    """How the log uses its disk."""

    segment_bytes: int = Field(16 * 2**20, ge=1, le=2**30)
    """A segment is sealed when it is this long."""

    segment_seconds: float = Field(120.0, gt=0, le=3600)
    """A segment is sealed at this age, so that it can be shipped; shorter means more and smaller files."""

    fsync_seconds: float = Field(1.0, ge=0, le=60)
    """What a loss of power may cost; 0: nothing, for milliseconds with every answer."""

    max_bytes: int = Field(8 * 2**30, ge=2**10)
    """Size of all segments on this disk beyond which the alarm is raised."""


class DecisionLog:
    """One replica's log. Several replicas may share a folder, each with segments of its own."""

    def __init__(
        self, folder: Path, settings: DecisionLogSettings | None = None, *, replica: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self.settings = settings or DecisionLogSettings()
        self.num_appended = 0
        self.folder_bytes = 0
        """Of all replicas' segments, as last measured."""
        # Begins with the time, so that a listing is in order; the rest is nobody else's, on any machine.
        self._replica = replica or f"{time.time_ns() // 10**6:013d}-{uuid.uuid4().hex[:8]}"
        self._sequence = 0
        self._appending, self._rotating = threading.Lock(), threading.Lock()
        self._segment: SegmentWriter | None = self._next_segment()
        self._faults = {
            work: LastingFault(logger, f"decision log {self.folder} ({work})")
            for work in ("look after", "rotate", "sync", "measure")
        }
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="decision-log", daemon=True)
        self._keeper.start()

    @property
    def over_limit(self) -> bool:
        """Whether the segments on this disk are more than `max_bytes`."""
        return self.folder_bytes > self.settings.max_bytes

    def append(self, record: Mapping[str, Any]) -> None:
        """Record one decision; on return it outlives this process.

        Raises:
            OSError: If the disk does not take it, or the log is closed.
        """
        self.append_encoded(encode_record(record))

    def append_encoded(self, record: bytes) -> None:
        """Record a decision as `encode_record` wrote it.

        Raises:
            OSError: As `append`.
        """
        line = encode_line(record)
        with self._appending:
            if self._segment is None:
                raise OSError(errno.EBADF, "decision log: expected an open one, found it closed", str(self.folder))
            self._segment.append(line)
            if self.settings.fsync_seconds == 0:
                self._segment.sync()
            self.num_appended += 1

    def rotate(self) -> None:
        """Seal the segment and begin another; one without a record goes on."""
        with self._rotating:
            self._leave_gone_file()
            if self._segment is not None and self._segment.num_records:
                self._replace_segment(self._next_segment())

    def close(self) -> None:
        """Seal the last segment. Nothing can be appended afterwards; closing twice is fine."""
        self._closed.set()
        with self._rotating:
            self._leave_gone_file()
            if self._segment is not None:
                self._replace_segment(None)
        self._keeper.join(timeout=10)

    def measure(self) -> int:
        """Measure the folder anew; the log does so itself every few seconds."""
        self.folder_bytes = segment_bytes(self.folder)
        return self.folder_bytes

    def _next_segment(self) -> SegmentWriter:
        self._sequence += 1
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return SegmentWriter(self.folder, f"{self._replica}-{self._sequence:06d}")

    def _replace_segment(self, fresh: SegmentWriter | None) -> None:
        # Sealing waits for the disk: outside of the lock that an answer waits for.
        with self._appending:
            ended, self._segment = self._segment, fresh
        if ended is not None:
            ended.seal()

    def _leave_gone_file(self) -> None:
        """Go on in another file where somebody took the segment's own away, with what was answered for in it."""
        with self._appending:
            gone = self._segment
            if gone is None or gone.lies_there:
                return
            fresh = self._next_segment()
            try:
                fresh.take_over(gone)
            except OSError:
                fresh.seal()
                raise
            self._segment = fresh
        said = "was removed or moved away"
        if cut := gone.cut_bytes:
            said = f"was cut short by {cut} bytes (a copy that has them is shipped as {gone.path.stem}-copy{SEALED})"
        gone.close()
        logger.error("%s: %s while it was written; goes on as %s", gone.path, said, fresh.path.name)

    def _keep(self) -> None:
        """Sync, rotate and measure beside the answers, so that none of them waits for the disk."""
        synced = measured = 0.0
        while not self._closed.wait(_TICK_SECONDS):
            now = time.monotonic()
            self._try("look after", self._look_after)
            if self._is_complete(now):
                self._try("rotate", self.rotate)
            if self.settings.fsync_seconds and now - synced >= self.settings.fsync_seconds:
                synced = now
                self._try("sync", self._sync)
            if now - measured >= _MEASURE_SECONDS:
                measured = now
                self._try("measure", self.measure)

    def _try(self, work: str, do: Callable[[], object]) -> None:
        fault = self._faults[work]
        try:
            do()
        except OSError as error:
            fault.failed(f"decision log {self.folder} ({work}): {error.strerror}; look at the disk")
        else:
            fault.works()

    def _look_after(self) -> None:
        with self._rotating:
            self._leave_gone_file()

    def _is_complete(self, now: float) -> bool:
        segment, limits = self._segment, self.settings
        if segment is None or not segment.num_records:
            return False
        return segment.num_bytes >= limits.segment_bytes or now - segment.opened_at >= limits.segment_seconds

    def _sync(self) -> None:
        with self._rotating:  # a segment that is being sealed syncs itself
            if self._segment is not None:
                self._segment.sync()


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Write a record as JSON on one line; NaN becomes null, a text that is no Unicode keeps its readable part."""
    try:
        text = _ENCODER.encode(record)
    except ValueError:
        text = _ENCODER.encode(_without_nan(record))
    return text.encode("utf-8", "replace")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
