"""Who is let in: a request is refused before any work is put into it, when those inside wait too long already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from cancellation.serving.observability.metrics import LOOP_LAG, SHED, Metrics
from cancellation.serving.settings import AdmissionSettings

_TICK_SECONDS = 0.01
Kind = Literal["event", "batch", "explanation"]
_PLACES: dict[Kind, str] = {"event": "max_ongoing", "batch": "max_batches", "explanation": "max_explanations"}
"""Setting that says how many of a kind may be inside."""


class Overloaded(Exception):  # noqa: N818
    """The request is refused; the caller may come back after some seconds."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"too many requests wait; come back in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class LoopLag:
    """Measures how late the event loop is: a tick every 10 ms, whose lateness everything else shares.

    The lag is known while it grows: a tick that is overdue tells at least by how much. Two ticks in a row have to be
    late: one alone is a hiccup of the machine, which is over when it is seen. An answer takes several turns of the
    loop, so that it waits for a multiple of the lag.
    """

    def __init__(self, at_each_tick: Callable[[], object] = lambda: None) -> None:
        self._at_each_tick = at_each_tick
        self._before = self._last = 0.0
        self._due = time.monotonic() + _TICK_SECONDS
        self._task = asyncio.get_running_loop().create_task(self._tick())

    def seconds(self) -> float:
        """Lateness now."""
        overdue = time.monotonic() - self._due
        return min(self._last, overdue) if overdue > 0 else min(self._before, self._last)

    def close(self) -> None:
        """Stop ticking."""
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            self._due = time.monotonic() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._before, self._last = self._last, max(0.0, time.monotonic() - self._due)
            self._at_each_tick()


class StandingQueue:
    """Tells a queue that stays from one that a hiccup left behind, which is gone before anybody is turned away.

    It stays when the oldest event has not waited less than a target for a while. From then on whoever would wait longer
    than the target is refused, until nobody has had to for as long: so that the wait keeps to the target meanwhile.
    """

    def __init__(self, settings: AdmissionSettings) -> None:
        self._target_ms = settings.standing_queue_age_ms
        self._seconds = settings.standing_ms / 1e3
        self._short_at = self._long_at = time.monotonic()
        self._long = self._stays = False

    @property
    def refuses(self) -> bool:
        """Whether to refuse now."""
        return self._stays and self._long

    def see(self, age_ms: float) -> None:
        """Take note of the wait of the oldest event; to be told every few milliseconds."""
        now = time.monotonic()
        self._long = age_ms >= self._target_ms
        if self._long:
            self._long_at = now
            self._stays = self._stays or now - self._short_at > self._seconds
        else:
            self._short_at = now
            self._stays = self._stays and now - self._long_at <= self._seconds


class Admission:
    """Counts requests in and out."""

    def __init__(self, settings: AdmissionSettings, queue_age: Callable[[], float], metrics: Metrics) -> None:
        self._settings = settings
        self._queue_age = queue_age
        self._metrics = metrics
        self._queue = StandingQueue(settings)
        self._lag = LoopLag(self._look_at_queue)
        self._ongoing = dict.fromkeys(_PLACES, 0)
        self._reading = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a place for as long as a body is read: before `admitted`, since a slow body must not hold one of those.

        Raises:
            Overloaded: If there is none.
        """
        if self._reading >= self._settings.max_reading:
            raise self._refusal("reading")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    @contextmanager
    def admitted(self, kind: Kind = "event") -> Iterator[None]:
        """Hold a place for the length of a request whose body is there.

        Raises:
            Overloaded: If there is none.
        """
        reason = self._full(kind)
        if reason is not None:
            raise self._refusal(reason)
        self._ongoing[kind] += 1
        try:
            yield
        finally:
            self._ongoing[kind] -= 1

    @property
    def ongoing(self) -> int:
        """Requests inside."""
        return sum(self._ongoing.values())

    def _refusal(self, reason: str) -> Overloaded:
        self._metrics.count(SHED, reason)
        return Overloaded(self._settings.retry_after_seconds)

    def _full(self, kind: Kind) -> str | None:
        if self._ongoing[kind] >= getattr(self._settings, _PLACES[kind]):
            return "ongoing"
        age_ms = self._look_at_queue()
        if age_ms > self._settings.max_queue_age_ms:
            return "queue_age"
        if self._queue.refuses:
            return "standing_queue"
        lag_ms = self._lag.seconds() * 1e3
        self._metrics.set(LOOP_LAG, lag_ms)
        return "loop_lag" if lag_ms > self._settings.max_loop_lag_ms else None

    def _look_at_queue(self) -> float:
        """Give the wait of the oldest event (ms)."""
        age_ms = self._queue_age() * 1e3
        self._queue.see(age_ms)
        return age_ms

    def close(self) -> None:
        """Stop measuring."""
        self._lag.close()
