"""A week of the shipped cancellation schedule by one command: broken off, gone on with, and done anew."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders.monitored_days import DAY, decisions, ship
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_FLOWS = tomllib.loads((PROJECT / "cancellation" / "schedule.toml").read_text())["flows"]
STEPS = 7 * next(len(flow["steps"]) for flow in _FLOWS if flow["name"] == "daily")
WEEK = [DAY - timedelta(days=back) for back in range(6, -1, -1)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, day in enumerate(WEEK):
        ship(tmp_path / "serving" / "archive", decisions(day, 200 + number, fallback=0.0), num_hours=1)
    return tmp_path


def _start(root: Path, *more: str) -> subprocess.Popen[str]:
    values = [f"values.root={root}", f"values.model={PROJECT / 'cancellation' / 'small_model'}"]
    command = ["product=cancellation", f"first={WEEK[0]}", f"last={WEEK[-1]}", *values, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.schedule", *command], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _report(root: Path, day: object) -> dict[str, Any]:
    return json.loads((root / "cancellation" / "monitoring" / str(day) / "report.json").read_text())


def test_a_week_goes_on_where_it_was_stopped_and_may_be_done_again(root: Path) -> None:
    first = _start(root)
    notes = root / "schedule" / "cancellation" / "daily"
    while not (notes / str(WEEK[2]) / "forget.json").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    said, complaint = first.communicate(timeout=120)
    assert first.returncode == 143
    assert "run it again, it goes on from what is finished" in complaint
    done = said.count(" done in ")
    assert 8 <= done < STEPS

    second = _start(root)
    said, complaint = second.communicate(timeout=900)
    assert second.returncode == 0, complaint[-3000:]
    assert said.count("was done before") >= done
    assert f"cancellation daily: all {STEPS} steps are done" in said
    figures = [_report(root, day)["figures"] for day in WEEK]
    assert [one["decisions"] for one in figures] == [200 + number for number in range(7)]

    third = _start(root, "--again")
    said, complaint = third.communicate(timeout=900)
    assert third.returncode == 0, complaint[-3000:]
    assert f"all {STEPS} steps are done, {STEPS} of them now" in said
    assert [_report(root, day)["figures"] for day in WEEK] == figures
    assert len(list((root / "serving" / "archive" / "decisions").rglob("*.parquet"))) == 3 * 7
