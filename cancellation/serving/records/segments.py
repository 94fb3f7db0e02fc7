"""Segments: append-only files of checked lines that outlive the process that writes them.

    <name>.open      being written; its writer holds a lock on it, which the kernel takes away when it dies
    <name>.sealed    complete; never changes again
    <name>.damaged   has lines whose check failed; kept for people

A line is `length crc32 content`, the numbers in eight hex digits. Whatever a crash leaves at the end is no whole
line and is passed over: it was never acknowledged.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

OPEN, SEALED, DAMAGED = ".open", ".sealed", ".damaged"

_NEW = ".new"
_HEAD_BYTES = 18


def encode_line(content: bytes) -> bytes:
    """Frame a line's content, which must not hold a line break."""
    return b"%08x %08x %b\n" % (len(content), crc32(content), content)


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """What a segment holds."""

    records: list[dict[str, Any]]
    damaged_lines: int
    """Whole lines whose check failed: bytes that changed on the disk."""
    torn_bytes: int
    """Of the last line, which a crash cut off before it was acknowledged."""


def read_segment(path: Path) -> SegmentContent:
    """Read a segment of any state, also while it is written."""
    *lines, tail = path.read_bytes().split(b"\n")
    contents = [_content(line) for line in lines]
    records = [json.loads(content) for content in contents if content is not None]
    return SegmentContent(records, len(contents) - len(records), len(tail))


def _content(line: bytes) -> bytes | None:
    content = line[_HEAD_BYTES:]
    return content if line[:_HEAD_BYTES] == b"%08x %08x " % (len(content), crc32(content)) else None


class SegmentWriter:
    """One open segment. Not for several threads at once."""

    def __init__(self, folder: Path, name: str) -> None:
        # Locked before it has the name by which a shipper looks for segments whose writer is dead.
        new = folder / f"{name}{_NEW}"
        self.path = folder / f"{name}{OPEN}"
        self.num_bytes = self.num_records = 0
        self.opened_at = time.monotonic()
        self._descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self.path)
        self._synced_bytes = 0
        self._torn = False

    @property
    def lies_there(self) -> bool:
        """Whether its file is where it was made, and whole: what is written to a removed one ends with this process."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - of each answer: half of what Path takes
        except OSError:
            return False
        return found.st_size >= self.num_bytes and os.path.samestat(found, os.fstat(self._descriptor))

    @property
    def cut_bytes(self) -> int:
        """How much somebody took out of its file, as logrotate does by copytruncate."""
        return max(0, self.num_bytes - os.fstat(self._descriptor).st_size)

    def append(self, line: bytes) -> None:
        """Hand a line to the operating system; on an error nothing of it stays, or is gone before the next one.

        Raises:
            OSError: As from the disk: full, gone, read-only; or its file was removed or moved away.
        """
        if not self.lies_there:
            raise OSError(
                errno.ENOENT, "decision log: expected its file whole where it was made, found it not so", str(self.path)
            )
        try:
            if self._torn:  # else the line would be damaged by what stands before it
                os.ftruncate(self._descriptor, self.num_bytes)
            self._torn = True
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            self._torn = False
        except OSError as error:
            with suppress(OSError):  # also of a disk that takes nothing at all, as one that was made read-only
                os.ftruncate(self._descriptor, self.num_bytes)
                self._torn = False
            raise OSError(error.errno, f"decision log: {error.strerror}; look at the disk", str(self.path)) from None
        self.num_bytes += len(line)
        self.num_records += 1

    def take_over(self, gone: SegmentWriter) -> None:
        """Append what a removed file held, which ends with its writer; what was moved away is whole where it is now.

        Raises:
            OSError: As `append`.
        """
        if os.fstat(gone._descriptor).st_nlink == 0:
            self.append(os.pread(gone._descriptor, gone.num_bytes, 0))
            self.num_records = gone.num_records

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        num_bytes = self.num_bytes
        if num_bytes > self._synced_bytes:
            os.fdatasync(self._descriptor)
            self._synced_bytes = num_bytes

    def seal(self) -> None:
        """End the segment; one without a record vanishes."""
        try:
            self.sync()
            if self.num_records:
                self.path.rename(self.path.with_suffix(SEALED))
            else:
                self.path.unlink()
        finally:
            self.close()  # and with it the lock: a shipper seals what could not be sealed here

    def close(self) -> None:
        """Let go of the file as it is."""
        os.close(self._descriptor)


def sealed_segments(folder: Path) -> list[Path]:
    """List the sealed segments, the oldest first, those whose writer has died among them."""
    for path in folder.glob(f"*{OPEN}"):
        _seal_orphan(path)
    return sorted(folder.glob(f"*{SEALED}"))


def segment_bytes(folder: Path) -> int:
    """Add up what the segments of a folder take."""
    total = 0
    for entry in os.scandir(folder):
        if entry.name.endswith((OPEN, SEALED, DAMAGED)):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # shipped at this moment
                continue
    return total


def _seal_orphan(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sealed = path.with_suffix(SEALED)
        # A copy that somebody put there is not to be lost, nor is this one for having its name.
        path.rename(sealed.with_stem(f"{path.stem}-rest") if sealed.exists() else sealed)
    except (BlockingIOError, FileNotFoundError):  # its writer lives, or has just sealed it
        return
    finally:
        os.close(descriptor)
