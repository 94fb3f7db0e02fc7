"""Decisions that were answered and logged while the recent ones could not be written: found here until they can be."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
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

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[str, bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, event_id: str, fingerprint: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision that is in the log and nowhere else."""
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
