"""Decisions that were answered and logged while the recent ones could not be written: found here until they can be.

The other replicas of the machine cannot find them. They see that there are some, by a lock on a file that all of them
have open: it needs no room on a full disk, and ends with a replica that dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cancellation.serving.records.decision_log import encode_record
from cancellation.serving.records.recent import RecentDecisions, Recorded

_MOST = 20_000
"""Some 40 MB; beyond that the oldest are in the log alone."""
_AT_ONCE = 20
_LEVEL = 1

Write = Callable[[Callable[[], list[str]]], Any]
"""Does something with the database in a thread, as `Lane.do`; to be awaited."""


class OnlyLogged:
    """Those of one replica. Belongs to one event loop."""

    def __init__(self, mark: Path) -> None:
        """Take the file that replicas of one machine lock."""
        self._waiting: dict[str, tuple[str, bytes]] = {}
        # Two, since a lock belongs to what was opened: one is held, the other one asks who holds it.
        self._held, self._asking = (os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def anywhere(self) -> bool:
        """Say whether any replica of this machine has some.

        Two that ask in the same microseconds may take each other for one that has: the caller comes again.
        """
        with suppress(BlockingIOError):
            fcntl.flock(self._asking, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._asking, fcntl.LOCK_UN)
            return False
        return True

    def add(self, event_id: str, fingerprint: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision that is in the log and nowhere else."""
        if not self._waiting:
            fcntl.flock(self._held, fcntl.LOCK_SH)  # waits at most for one who asks
        self._waiting[event_id] = fingerprint, zlib.compress(encode_record(decision), _LEVEL)
        if len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]

    def get(self, event_id: str) -> Recorded | None:
        """Find an event's decision."""
        found = self._waiting.get(event_id)
        return None if found is None else Recorded(found[0], json.loads(zlib.decompress(found[1])), None)

    async def put(self, recent: RecentDecisions, write: Write) -> None:
        """Put all among the recent ones, a few at a time, since answers that come meanwhile wait for those.

        Raises:
            OSError: If that fails; what was not put stays.
        """
        while self._waiting:
            some = {event_id: self.get(event_id) for event_id in list(self._waiting)[:_AT_ONCE]}

            def put(some: Mapping[str, Recorded | None] = some) -> list[str]:
                for event_id, one in some.items():
                    if one is not None:
                        recent.put(event_id, one.fingerprint, one.decision)
                return list(some)

            for event_id in await write(put):
                self._waiting.pop(event_id, None)
            if not self._waiting:
                fcntl.flock(self._held, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back, and with it the lock."""
        os.close(self._held)
        os.close(self._asking)
