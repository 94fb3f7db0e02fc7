"""The process that ships a machine's logs, and the watch over it.

It is a process of its own with a low priority, since it turns records into parquet with all the CPU it can get, which
would stand in the way of answers. It ends with the replica that started it, whatever ended that, because its standard
input ends. Where several replicas share a disk each has one, and the one that holds the lock ships. What it has to say
comes over its standard output: a full disk silences a file.

    python -m cancellation.serving.records.archive FOLDER OUTPUT SETTINGS_JSON
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

_FIRST_RESTART_SECONDS, _MAX_RESTART_SECONDS = 1.0, 60.0
_WELL_SECONDS = 60.0
"""A process that came to live this long is taken for well, and the waits begin anew."""


@dataclass(frozen=True, slots=True)
class ShippingStatus:
    """What one shipping process last said of itself."""

    shipped: int = 0
    """Records since it started."""
    failures: int = 0
    """Attempts that failed since it started."""
    failing: bool = False
    """Whether the last attempt at some log did, or the present one gets nowhere."""


class ShippingProcess:
    """Keeps a shipping process alive: one that dies is started again, later and later while it goes on dying."""

    def __init__(self, command: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = list(command)
        self._clock = clock
        self.num_restarts = 0
        self.num_shipped = self.num_failures = 0
        """Over all processes."""
        self.failing = False
        self._lock = threading.Lock()
        self._deaths_in_a_row, self._due_at = 0, 0.0
        self._process = self._start()

    @property
    def alive(self) -> bool:
        """Whether it runs at present."""
        return self._process.poll() is None

    @property
    def state(self) -> Literal["runs", "fails", "down"]:
        """How it does."""
        return "down" if not self.alive else "fails" if self.failing else "runs"

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._process.pid

    def watch(self) -> None:
        """Start it again if it has died and its wait is over; to be called every few seconds."""
        if self.alive:
            return
        now = self._clock()
        if not self._due_at:
            if now - self._started_at > _WELL_SECONDS:
                self._deaths_in_a_row = 0
            wait = min(_MAX_RESTART_SECONDS, _FIRST_RESTART_SECONDS * 2 ** min(self._deaths_in_a_row, 30))
            self._deaths_in_a_row, self._due_at = self._deaths_in_a_row + 1, now + wait
            logger.error("log shipper ended with status %s; started again in %g s", self._process.returncode, wait)
        if now >= self._due_at:
            self.num_restarts += 1
            self._process = self._start()

    def finish(self, seconds: float) -> bool:
        """Have it ship once more and end; False if that took too long, and then it is killed."""
        if not self.alive:
            self._process = self._start()
        process = self._process
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(seconds)
            return process.returncode == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False

    def _start(self) -> subprocess.Popen[bytes]:
        self._started_at, self._due_at = self._clock(), 0.0
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        threading.Thread(target=self._listen, args=(process,), name="log-shipper", daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Add up what the process says until it ends."""
        before = ShippingStatus()
        for line in process.stdout or ():
            try:
                now = ShippingStatus(**json.loads(line))
            except (ValueError, TypeError):  # the last words of one that was killed
                continue
            with self._lock:
                self.num_shipped += now.shipped - before.shipped
                self.num_failures += now.failures - before.failures
                self.failing = now.failing
            before = now
