"""Segments: a crash costs nothing that was acknowledged, and no living writer's file is taken away."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancellation.serving.records.segments import (
    DAMAGED,
    OPEN,
    SEALED,
    SegmentContent,
    SegmentWriter,
    encode_line,
    read_segment,
    sealed_segments,
    segment_bytes,
)

LINES = [encode_line(b'{"n":%d}' % number) for number in range(5)]


def _written(folder: Path, data: bytes) -> SegmentContent:
    path = folder / f"s{SEALED}"
    path.write_bytes(data)
    return read_segment(path)


@given(cut=st.integers(0, len(b"".join(LINES))))
def test_wherever_the_file_ends_all_whole_lines_are_read(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    data = b"".join(LINES)[:cut]
    content = _written(tmp_path_factory.mktemp("s"), data)
    assert content.records == [{"n": number} for number in range(data.count(b"\n"))]
    assert content.damaged_lines == 0
    assert content.torn_bytes == len(data) - len(b"".join(LINES[: data.count(b"\n")]))


@given(place=st.integers(0, len(b"".join(LINES)) - 1), bit=st.integers(0, 7))
def test_a_bit_that_flips_costs_two_lines_at_most_and_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    data = bytearray(b"".join(LINES))
    data[place] ^= 1 << bit
    content = _written(tmp_path_factory.mktemp("s"), bytes(data))
    numbers = [record["n"] for record in content.records]
    assert set(numbers) <= set(range(5))
    assert 3 <= len(numbers) < 5
    assert content.damaged_lines + (content.torn_bytes > 0) >= 1


def test_a_living_writers_segment_is_left_alone_and_a_dead_ones_is_sealed(tmp_path: Path) -> None:
    alive, dead = SegmentWriter(tmp_path, "alive"), SegmentWriter(tmp_path, "dead")
    for writer in (alive, dead):
        writer.append(LINES[0])
    os.close(dead._descriptor)  # as the kernel does when the process dies
    assert [path.name for path in sealed_segments(tmp_path)] == [f"dead{SEALED}"]
    assert read_segment(alive.path).records == [{"n": 0}]
    alive.seal()
    assert [path.name for path in sealed_segments(tmp_path)] == [f"alive{SEALED}", f"dead{SEALED}"]


def test_a_segment_without_a_record_vanishes(tmp_path: Path) -> None:
    SegmentWriter(tmp_path, "s").seal()
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_never_written_twice(tmp_path: Path) -> None:
    first = SegmentWriter(tmp_path, "s")
    (tmp_path / "s.new").touch()
    with pytest.raises(FileExistsError):
        SegmentWriter(tmp_path, "s")
    first.seal()


def test_only_the_owner_reads_segments_and_all_states_count(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "s")
    writer.append(LINES[0])
    assert writer.path.stat().st_mode & 0o777 == 0o600
    (tmp_path / f"d{DAMAGED}").write_bytes(b"12345")
    (tmp_path / "other").write_bytes(b"123456789")
    assert segment_bytes(tmp_path) == len(LINES[0]) + 5
    assert writer.path.suffix == OPEN
    writer.seal()
    assert segment_bytes(tmp_path) == len(LINES[0]) + 5


def test_a_disk_that_is_full_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    import resource
    import signal

    writer = SegmentWriter(tmp_path, "s")
    writer.append(LINES[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LINES[0]) + 7, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.append(LINES[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    writer.append(LINES[2])
    assert read_segment(writer.path) == SegmentContent([{"n": 0}, {"n": 2}], 0, 0)
    writer.seal()


def test_what_a_failing_disk_kept_of_a_line_is_gone_before_the_next(tmp_path: Path) -> None:
    """As when it is full in the middle of a line and is then made read-only, so that the file cannot be cut either."""
    writer = SegmentWriter(tmp_path, "a")
    writer.append(encode_line(b'{"a":1}'))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.num_bytes + 10, limits[1]))
    try:
        if subprocess.run(["chattr", "+a", writer.path], capture_output=True).returncode:
            pytest.skip("a file that can only grow needs root and a file system that has such files")
        with pytest.raises(OSError, match="decision log: "):
            writer.append(encode_line(b'{"a":2}'))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(OSError, match="decision log: "):
        writer.append(encode_line(b'{"a":3}'))
    subprocess.run(["chattr", "-a", writer.path], check=True)
    writer.append(encode_line(b'{"a":4}'))
    writer.seal()
    (path,) = sealed_segments(tmp_path)
    assert read_segment(path) == SegmentContent([{"a": 1}, {"a": 4}], 0, 0)
