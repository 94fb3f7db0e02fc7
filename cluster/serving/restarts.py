"""How soon a process that keeps dying is started again: later and later, as Kubernetes does with CrashLoopBackOff."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RestartBackoff:
    """Delays of one thing's starts on this machine, remembered in a file between its processes.

    The first start and the first restart are at once; from then on each waits twice as long as the one before. A
    process that came to live for `well_seconds` is taken for well, and the count begins anew.
    """

    path: Path
    first_seconds: float = 10.0
    max_seconds: float = 300.0
    well_seconds: float = 600.0

    @classmethod
    def of(cls, name: str) -> RestartBackoff:
        """Give that of a name, remembered in this user's folder among the machine's temporary files."""
        return cls(Path(tempfile.gettempdir()) / f"restarts-{os.getuid()}" / f"{name.replace(':', '-')}.json")

    def next_delay(self) -> float:
        """Count a start and give the seconds that it has to wait."""
        now = time.time()
        starts, due_at = self._read()
        if not due_at or now - due_at > self.well_seconds:
            starts = 0
        delay = 0.0 if starts < 2 else min(self.max_seconds, self.first_seconds * 2 ** min(starts - 2, 30))
        self._write(starts + 1, now + delay)
        return delay

    def due_at(self) -> float:
        """Give the instant (seconds of `time.time`) at which the last start was let go; 0 if there was none."""
        return self._read()[1]

    def _read(self) -> tuple[int, float]:
        # A file that cannot be read is a first start: a shadow late by mistake would be worse than one restart.
        with suppress(OSError, ValueError, TypeError, KeyError):
            state = json.loads(self.path.read_bytes())
            return int(state["starts"]), float(state["due_at"])
        return 0, 0.0

    def _write(self, starts: int, due_at: float) -> None:
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, delete=False) as file:
                json.dump({"starts": starts, "due_at": due_at}, file)
            Path(file.name).replace(self.path)
