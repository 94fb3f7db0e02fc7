"""The processes of a Ray of this process's own: without them nothing is started or replaced any more."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil

_NAMES = ("gcs_server", "raylet")
_LOOK_SECONDS = 0.5
_STOP_SECONDS = 10.0
"""A signal to the process group ends them too; the job, which is stopped by it, has so long to leave by itself."""


class RayDaemons:
    """Those that this process has begun; to be made once Ray has started."""

    def __init__(self) -> None:
        self._names: dict[psutil.Process, str] = {}
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # something else of this process, which has just ended
                if (name := child.name()) in _NAMES and child.status() != psutil.STATUS_ZOMBIE:
                    self._names[child] = name

    def lost(self) -> str | None:
        """Name one that has died, None while all live. Behind that most calls of Ray's and Serve's never return."""
        for daemon, name in self._names.items():
            try:
                if daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE:
                    continue
            except psutil.NoSuchProcess:
                pass
            return name
        return None


def _leave(lost: str) -> NoReturn:
    said = f"error: Ray's {lost} died (killed, or the machine is out of memory)"
    print(f"{said}: run it again, it goes on from what is finished", file=sys.stderr, flush=True)
    sys.stdout.flush()
    for process in psutil.Process().children(recursive=True):  # what a GCS has left goes on without it
        with suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)  # whatever waits for Ray, in whichever thread, would wait on


@contextmanager
def left_if_lost() -> Iterator[None]:
    """For the length of a `with` block end this process, with a sentence and status 1, once one of them has died.

    Ray itself ends it without a word a while after its raylet has died, and lets it wait for a minute for a GCS that
    will not come back.
    """
    daemons, over = RayDaemons(), threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            if (name := daemons.lost()) is not None and not over.wait(_STOP_SECONDS):
                _leave(name)

    watching = threading.Thread(target=watch, name="ray-daemons", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
