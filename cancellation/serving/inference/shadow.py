"""Shadows: other versions that see copies of the traffic, and that the traffic never sees.

A copy is put into a bounded queue after the live answer is on record; where there is no room it is dropped and
counted. A few workers take out what has gathered for a moment, as one call (nobody waits for a shadow, and a call costs
the event loop as much as an answer does), and wait for the shadow with a time limit, so that one that hangs
holds those workers and nothing else; one that fails again and again is left alone for longer and longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cancellation.serving.observability.metrics import SHADOW_COPIES, SHADOW_DISAGREEMENTS, SHADOW_QUEUE, Metrics
from cancellation.serving.settings import ShadowSettings

logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.1

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


Ask = Callable[[Sequence[Copy], float], Awaitable[Sequence[Mapping[str, Any] | None]]]
"""Gets a shadow's verdicts within so many seconds, in the contract's form, None where there is none; may raise."""


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
        """Stop; what still waits or is under way is dropped and counted."""
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
            await asyncio.sleep(_GATHER_SECONDS)
            copies = [self._queue.popleft() for _ in range(min(len(self._queue), self._settings.batch_events))]
            self._metrics.set(SHADOW_QUEUE, len(self._queue), self._settings.name)
            if copies and not await self._try(copies):
                self._failures += 1
                await asyncio.sleep(min(0.05 * 2 ** min(self._failures, 10), _MAX_PAUSE_SECONDS))

    async def _try(self, copies: Sequence[Copy]) -> bool:
        """Ask for verdicts, record and count them; tell whether there were any."""
        seconds = self._settings.timeout_seconds
        missing = "failed"
        try:
            async with asyncio.timeout(seconds):
                verdicts = await self._ask(copies, seconds)
        except asyncio.CancelledError:
            self._metrics.count(SHADOW_COPIES, self._settings.name, "dropped", value=len(copies))
            raise
        except TimeoutError:
            verdicts, missing = [None] * len(copies), "late"
        except Exception as error:  # a shadow may fail as it likes
            logger.debug("shadow %s failed: %s", self._settings.name, type(error).__name__)
            verdicts = [None] * len(copies)
        for copy, verdict in zip(copies, verdicts, strict=True):
            if verdict is not None:
                self._failures = 0
                if verdict["verdict"] != copy.record["verdict"]["verdict"]:
                    self._metrics.count(SHADOW_DISAGREEMENTS, self._settings.name, copy.market)
                self._record(copy, verdict)
            self._metrics.count(SHADOW_COPIES, self._settings.name, missing if verdict is None else "scored")
        return any(verdict is not None for verdict in verdicts)
