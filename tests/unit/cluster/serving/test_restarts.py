"""What keeps dying is started later and later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.serving.restarts import RestartBackoff


def test_each_start_waits_twice_as_long_as_the_one_before_up_to_a_maximum(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "shadow.json"
    # A new object each time, as each start is a process of its own.
    delays = [RestartBackoff(path, first_seconds=10, max_seconds=60).next_delay() for _ in range(8)]
    assert delays == [0, 0, 10, 20, 40, 60, 60, 60]


def test_a_process_that_lived_long_is_well_again(tmp_path: Path) -> None:
    backoff = RestartBackoff(tmp_path / "shadow.json")
    delays = [backoff.next_delay() for _ in range(4)]
    state = json.loads(backoff.path.read_text())
    long_ago = {**state, "due_at": state["due_at"] - delays[-1] - backoff.well_seconds - 1}
    backoff.path.write_text(json.dumps(long_ago))
    assert [backoff.next_delay() for _ in range(3)] == [0, 0, 10]


@pytest.mark.parametrize("found", [b"", b"{", b"[]", b'{"starts": "many"}', b"\xff"])
def test_an_unreadable_memory_is_a_first_start(tmp_path: Path, found: bytes) -> None:
    path = tmp_path / "shadow.json"
    path.write_bytes(found)
    assert RestartBackoff(path).next_delay() == 0
    assert RestartBackoff(path).next_delay() == 0
    assert RestartBackoff(path).next_delay() == 10
