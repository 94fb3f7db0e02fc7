"""Ray Train's workers killed as a machine kills them: while they train, once checkpoints are there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def worker_killed_after(checkpoints: int, folder: Path, pattern: str) -> Iterator[list[int]]:
    """Kill one worker of this process, when so many checkpoints match, during a block that trains; gives its id."""
    killed: list[int] = []
    finished = threading.Event()

    def kill() -> None:
        while not finished.wait(0.02):
            if len(list(folder.glob(pattern))) >= checkpoints:
                for process in psutil.Process().children(recursive=True):
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        return

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        yield killed
    finally:
        finished.set()
        watcher.join()
