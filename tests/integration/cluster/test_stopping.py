"""A job that is stopped, by Ctrl-C or SIGTERM, to itself or to its group: a sentence, a status, and nothing left."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from _pytest.mark import ParameterSet

from tests.conftest import PROJECT

MARK = "STOPPING_TEST"
_WAITS = """
import threading
from pathlib import Path
from cluster.launch import run_job
from cluster.settings import Settings

def main(job):
    try:
        Path({ready!r}).touch()
        threading.Event().wait()
    finally:
        Path({cleaned!r}).touch()

run_job(main, Settings, arguments=[])
"""
_ON_RAY = """
import threading
from pathlib import Path
import ray
from cluster.launch import run_job
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings

@ray.remote
def work():
    Path({ready!r}).touch()
    threading.Event().wait()

def main(job):
    with ray_session(SessionSettings(num_cpus=1, object_store_gib=0.1)):
        try:
            ray.get(work.remote())
        finally:
            Path({cleaned!r}).touch()

run_job(main, Settings, arguments=[])
"""
_IN_TRAINING = """
import threading
from pathlib import Path
from cluster.launch import run_job
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.training.train import TrainerSettings, train

def loop(config):
    Path({ready!r}).touch()
    threading.Event().wait()

def main(job):
    with ray_session(SessionSettings(num_cpus=2, object_store_gib=0.1)):
        try:
            train(loop, {{}}, TrainerSettings(checkpoints={checkpoints!r}), name="stopped")
        finally:
            Path({cleaned!r}).touch()

run_job(main, Settings, arguments=[])
"""


class Stopped:
    """A job in a process group of its own, and what it left."""

    def __init__(self, script: str, folder: Path) -> None:
        self._folder, self._mark = folder, uuid.uuid4().hex
        places = {name: str(folder / name) for name in ("ready", "cleaned", "checkpoints")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script.format(**places)],
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stop(self, number: int, *, group: bool, times: int = 1) -> tuple[int, list[str]]:
        """Send a signal once the job is at work; its status and what it said."""
        self.until_at_work()
        for _ in range(times):
            (os.killpg if group else os.kill)(self.process.pid, number)
        _, said = self.process.communicate(timeout=120)
        assert (self._folder / "cleaned").exists()
        return self.process.returncode, said.splitlines()

    def until_at_work(self) -> None:
        """Wait until it is."""
        while not (self._folder / "ready").exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def left(self) -> list[str]:
        """Processes of the job that are still there, after those that are ending have had their time."""
        deadline = time.monotonic() + 20
        while (found := list(self._descendants())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def _descendants(self) -> Iterator[str]:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield " ".join(process.cmdline())[:200]
            except (psutil.AccessDenied, psutil.NoSuchProcess):
                continue


def _cases() -> Iterator[ParameterSet]:
    """Every signal to every kind of job; those that say what another one says too are slow tests."""
    signals = ((signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"))
    scripts = {"alone": _WAITS, "on Ray": _ON_RAY, "in training": _IN_TRAINING}
    always = {("SIGTERM", False, "alone"), ("SIGTERM", True, "on Ray"), ("Ctrl-C", True, "in training")}
    for (number, name), group, script in itertools.product(signals, (False, True), scripts):
        marks = [] if (name, group, script) in always else [pytest.mark.slow]
        to = "group" if group else "process"
        yield pytest.param(number, name, group, scripts[script], marks=marks, id=f"{name} to the {to}, {script}")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("number", "name", "group", "script"), list(_cases()))
def test_a_stopped_job_says_so_and_leaves_nothing(
    tmp_path: Path, number: int, name: str, group: bool, script: str
) -> None:
    job = Stopped(script, tmp_path)
    status, said = job.stop(number, group=group)
    assert said[-1] == f"stopped by {name} before it was done: run it again, it goes on from what is finished"
    assert not any("Traceback" in line for line in said), "\n".join(said)
    assert status == 128 + number
    assert job.left() == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("daemon", ["raylet", "gcs_server"])
def test_a_job_whose_ray_dies_says_so_and_leaves_nothing(tmp_path: Path, daemon: str) -> None:
    job = Stopped(_ON_RAY, tmp_path)
    job.until_at_work()
    (killed,) = (child for child in psutil.Process(job.process.pid).children() if child.name() == daemon)
    killed.kill()
    _, said = job.process.communicate(timeout=120)
    assert said.splitlines()[-1] == (
        f"error: Ray's {daemon} died (killed, or the machine is out of memory): run it again, it goes on from what is "
        "finished"
    )
    assert job.process.returncode == 1
    assert job.left() == []


def test_a_second_signal_does_not_break_the_clearing_up(tmp_path: Path) -> None:
    status, said = Stopped(_WAITS, tmp_path).stop(signal.SIGTERM, group=False, times=5)
    assert status == 128 + signal.SIGTERM
    assert len(said) == 1
