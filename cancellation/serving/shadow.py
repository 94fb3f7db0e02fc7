"""Shadows: other versions that see copies of the traffic, and that the traffic never sees.

A copy is put into a bounded queue after the live answer is on record; where there is no room it is dropped and
counted. A few workers take copies out and wait for the shadow with a time limit, so that one that hangs holds
those workers and nothing else; one that fails again and again is left alone for longer and longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cancellation.serving.metrics import SHADOW_COPIES, SHADOW_DISAGREEMENTS, SHADOW_QUEUE, Metrics
from cancellation.serving.settings import ShadowSettings

logger = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 30.0
"""A copy that kills its replica makes Serve start another, for seconds of a core that answers may want."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One answered event."""

    event_id: str
    market: str
    body: bytes
    record: Mapping[str, Any]
    """Of the live decision."""


def in_share(event_id: str, settings: ShadowSettings) -> bool:
    """Whether a shadow gets an event."""
    digest = hashlib.blake2b(f"{settings.name}/{event_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) < settings.share * 2**32


Ask = Callable[[Copy, float], Awaitable[Mapping[str, Any]]]
"""Gets a shadow's verdict within so many seconds, in the contract's form; raises if there is none."""


class Shadow:
    """One shadow's queue and workers. Belongs to one event loop."""

    def __init__(
        self,
        settings: ShadowSettings,
        ask: Ask,
        record: Callable[[Copy, Mapping[str, Any]], None],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._ask = ask
        self._record = record
        self._metrics = metrics
        self._queue: deque[Copy] = deque()
        self._wake = asyncio.Event()
        self._failures = 0
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(settings.concurrency)]

    def offer(self, copy: Copy) -> None:
        """Take a copy if its event is of the share and there is room. Never waits, never raises."""
        if not self.wants(copy.event_id):
            return
        if len(self._queue) >= self._settings.max_queue:
            self._metrics.count(SHADOW_COPIES, self._settings.name, "dropped")
            return
        self._queue.append(copy)
        self._metrics.set(SHADOW_QUEUE, len(self._queue), self._settings.name)
        self._wake.set()

    def wants(self, event_id: str) -> bool:
        """Whether an event is of the share: by its id, so that a repeated one meets the same fate everywhere."""
        return in_share(event_id, self._settings)

    async def close(self) -> None:
        """Stop; what still waits is dropped and counted."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._queue:
            self._metrics.count(SHADOW_COPIES, self._settings.name, "dropped", value=len(self._queue))
            self._queue.clear()

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            copy = self._queue.popleft()
            self._metrics.set(SHADOW_QUEUE, len(self._queue), self._settings.name)
            outcome = await self._try(copy)
            self._metrics.count(SHADOW_COPIES, self._settings.name, outcome)
            if outcome == "scored":
                self._failures = 0
            else:
                self._failures += 1
                await asyncio.sleep(min(0.05 * 2 ** min(self._failures, 10), _MAX_PAUSE_SECONDS))

    async def _try(self, copy: Copy) -> str:
        seconds = self._settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                verdict = await self._ask(copy, seconds)
        except TimeoutError:
            return "late"
        except Exception as error:  # a shadow may fail as it likes
            logger.debug("shadow %s failed: %s", self._settings.name, type(error).__name__)
            return "failed"
        if verdict["verdict"] != copy.record["verdict"]["verdict"]:
            self._metrics.count(SHADOW_DISAGREEMENTS, self._settings.name, copy.market)
        self._record(copy, verdict)
        return "scored"
