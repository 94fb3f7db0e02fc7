"""The campaign's command with few kills: every fault strikes, no promise is broken, and the table can be read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.slow.faults.clock import NO_COMPILER, jumping_clock, set_ahead
from tests.slow.faults.tally import PROMISES, Tally, table

pytestmark = pytest.mark.slow


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.slow.faults", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280)


def test_killed_writers_and_shippers_break_no_promise(tmp_path: Path) -> None:
    done = _run("kills=40", "seed=5", "faults=log writer,log shipper,log disk full", f"out={tmp_path}/table.md")
    assert done.returncode == 0, done.stdout + done.stderr
    said = (tmp_path / "table.md").read_text()
    assert "seed 5" in said
    kills, _, checked = (int(cell) for cell in said.splitlines()[-1].split("|")[3:6])
    assert kills >= 40
    assert checked > 1000


def test_killed_drivers_and_actors_break_no_promise() -> None:
    done = _run("seed=5", "faults=driver:2,actor:3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_setting_is_named() -> None:
    assert "unknown faults earthquake" in _run("faults=earthquake").stderr


def test_what_is_missing_or_other_or_twice_is_counted() -> None:
    calm = [{"query_id": f"q{number}", "product_id": "p", "label": "exact"} for number in range(4)]
    tally = Tally("any", kills=1)
    tally.compare([calm[0], calm[0], {**calm[1], "label": "irrelevant"}], calm)
    assert (tally.lost, tally.twice, tally.different, tally.broken) == (2, 1, 1, 4)
    assert set(PROMISES) < set(Tally.__dataclass_fields__)
    assert "| all | 0 | 1 | 0 | 4 | 2 | 1 | 1 |" in table([tally])


def test_records_that_are_missing_or_twice_are_counted() -> None:
    tally = Tally("any")
    tally.compare_records(["a", "b"], ["a", "c", "c"])
    assert (tally.checked, tally.unrecorded, tally.twice) == (2, 1, 1)


def test_strikes_that_meet_nothing_prove_nothing() -> None:
    tally = Tally("any")
    tally.struck(False)
    assert (tally.kills, tally.missed, tally.proves_nothing) == (0, 1, True)
    assert "proves nothing" in table([tally]).splitlines()[2]
    for _ in range(7):
        tally.struck(False)
    with pytest.raises(RuntimeError, match="9 strikes met nothing"):
        tally.struck(False)
    tally.struck(True, "somebody")
    assert not tally.proves_nothing


def test_a_process_sees_its_clock_jump(tmp_path: Path) -> None:
    environment = jumping_clock(tmp_path)
    if environment is None:
        pytest.skip(NO_COMPILER)
    clock = "import time; print(time.time(), flush=True); input(); print(time.time())"
    command = [sys.executable, "-c", clock]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
    ) as process:
        assert process.stdout
        before = float(process.stdout.readline())
        set_ahead(environment, -864_000)
        said, _ = process.communicate(b"\n")
    assert before - float(said) > 800_000
    assert before <= time.time()
