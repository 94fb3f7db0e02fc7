"""Who goes first on a machine's cores. Linux gives each thread a priority of its own; elsewhere nothing is changed."""

from __future__ import annotations

import os
import shutil
import sys
import threading


def lower_thread(niceness: int) -> None:
    """Let other threads and processes go before the calling thread, and before those that it starts."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        present = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, present + niceness))


def idle_executable() -> str:
    """Give a command that runs this Python so that all of it has a core only while nobody else wants one.

    For a worker of Ray (`runtime_env`'s `py_executable`): from its start on, since loading libraries is most of what a
    worker ever does. Needs `chrt` of util-linux; without it, plain Python.
    """
    return f"chrt --idle 0 {sys.executable}" if shutil.which("chrt") else sys.executable
