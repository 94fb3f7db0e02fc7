"""Priorities of threads: lowered for the one that asks, and for nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from cluster.serving.priorities import idle_executable, lower_thread

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")


def in_a_thread(work: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_steps_back_by_so_much_and_no_further_than_it_can() -> None:
    present = os.getpriority(os.PRIO_PROCESS, 0)

    def lowered() -> int:
        lower_thread(3)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def lowered_a_lot() -> int:
        lower_thread(100)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert in_a_thread(lowered) == min(19, present + 3)
    assert in_a_thread(lowered_a_lot) == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == present


@pytest.mark.skipif(shutil.which("chrt") is None, reason="needs chrt of util-linux")
def test_a_process_in_the_background_takes_idle_cores_only() -> None:
    command = [*idle_executable().split(), "-c", "import os, sys; print(os.sched_getscheduler(0), sys.executable)"]
    policy, executable = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(policy) == os.SCHED_IDLE
    assert executable == sys.executable
