"""Dynamic batches by tokens: what waits goes into the next call, the live before the rest.

No timer: a batch is what came in while the one before was running, so an idle model answers at once and a busy
one is asked for as much as the budget of padded tokens allows. Ray's `serve.batch` with `batch_size_fn` puts an
event that does not fit back behind all others, turns one exception into everybody's, cannot drop an event whose
deadline has passed and knows one priority; hence this.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cancellation.serving.inference.messages import LATE, POISON, SHED, Reply, Scored
from cancellation.serving.observability.metrics import BATCH_EVENTS, BATCH_TOKENS, EXPIRED, POISONED, QUEUE_AGE, Metrics
from cancellation.serving.settings import ModelSettings
from cancellation.text.encoding import EncodedEvent
from cluster.logs import LastingFault
from cluster.serving.priorities import lower_thread

if TYPE_CHECKING:
    from cancellation.model.verdict_model import Scores

logger = logging.getLogger(__name__)

_LIVE_PER_BULK = 8
"""Live batches in a row after which waiting bulk work gets one, so that it is slow but not starved."""


_Found = tuple[list[float], list[float]] | None
"""Logits and factors' probabilities of an event; None where it could not be scored."""


class ScoringModel(Protocol):
    """What a batcher needs of a model."""

    version: str
    temperature: float

    def score(self, events: Sequence[EncodedEvent]) -> Scores: ...


@dataclass(slots=True)
class _Waiting:
    encoded: EncodedEvent
    deadline: float
    since: float
    future: asyncio.Future[Reply]


class MicroBatcher:
    """Runs a model in threads of its own, so that the event loop stays free. Belongs to one event loop."""

    def __init__(self, model: ScoringModel, settings: ModelSettings, metrics: Metrics) -> None:
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._live: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._threads = ThreadPoolExecutor(
            settings.calls, thread_name_prefix="model", initializer=lower_thread, initargs=(settings.niceness,)
        )
        self._running_since: list[float | None] = [None] * settings.calls
        self._streak = 0
        self._fault = LastingFault(logger, "scoring events")
        self._loop = asyncio.get_running_loop()
        self._starting = self._closed = False

    async def score(self, encoded: EncodedEvent, deadline: float, *, bulk: bool = False) -> Reply:
        """Score an event; `deadline` is an instant of `time.monotonic`, after which nobody wants the answer."""
        queue = self._bulk if bulk else self._live
        if len(queue) >= self._settings.max_queue:
            return SHED
        future: asyncio.Future[Reply] = self._loop.create_future()
        queue.append(_Waiting(encoded, deadline, time.monotonic(), future))
        if not self._starting:  # in the loop's next turn, so that what comes in this one goes into one call
            self._starting = True
            self._loop.call_soon(self._start)
        return await future

    def queue_age(self) -> float:
        """Seconds that the oldest live event has waited; 0 if none does."""
        while self._live and self._live[0].future.done():  # its caller has gone
            self._live.popleft()
            self._metrics.count(EXPIRED)
        return time.monotonic() - self._live[0].since if self._live else 0.0

    @property
    def running_seconds(self) -> float:
        """How long the youngest call under way has taken, if there is no room for another; else 0."""
        started = [since for since in self._running_since if since is not None]
        return time.monotonic() - max(started) if len(started) == len(self._running_since) else 0.0

    @property
    def hung(self) -> bool:
        """Whether all calls under way take longer than a call can."""
        return self.running_seconds > self._settings.hung_seconds

    async def close(self) -> None:
        """Stop; what still waits is told that it is late."""
        self._closed = True
        for waiting in (*self._live, *self._bulk):
            _resolve(waiting, LATE)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Begin calls for as long as something waits and there is room for one."""
        self._starting = False
        while None in self._running_since and (self._live or self._bulk) and not self._closed:
            batch = self._take()
            if batch:
                place, started = self._running_since.index(None), time.monotonic()
                self._running_since[place] = started
                self._threads.submit(self._call, place, batch, started)

    def _call(self, place: int, batch: list[_Waiting], started: float) -> None:
        """Run a call in a thread and hand its end to the loop: in one turn of that, where a future takes three."""
        scores = self._score([item.encoded for item in batch])
        model_ms = (time.monotonic() - started) * 1e3
        with suppress(RuntimeError):  # the loop has ended, and who waited with it
            self._loop.call_soon_threadsafe(self._ended, place, batch, scores, started, model_ms)

    def _ended(self, place: int, batch: list[_Waiting], scores: list[_Found], started: float, model_ms: float) -> None:
        self._running_since[place] = None
        for item, found in zip(batch, scores, strict=True):
            _resolve(item, self._reply(item, found, started, model_ms))
        self._start()

    def _take(self) -> list[_Waiting]:
        """Choose the next batch, live before bulk; the oldest first, as many as the budget holds when padded."""
        self._metrics.set(QUEUE_AGE, self.queue_age() * 1e3)
        bulk = bool(self._bulk) and (not self._live or self._streak >= _LIVE_PER_BULK)
        queue, budget = (self._bulk, self._settings.bulk_tokens) if bulk else (self._live, self._settings.batch_tokens)
        self._streak = 0 if bulk else self._streak + 1
        now, width = time.monotonic(), 0
        batch: list[_Waiting] = []
        while queue:
            item = queue[0]
            if item.future.done() or item.deadline <= now:
                queue.popleft()
                self._metrics.count(EXPIRED)
                _resolve(item, LATE)
                continue
            wider = max(width, len(item.encoded.token_ids))
            if batch and wider * (len(batch) + 1) > budget:
                break
            batch.append(queue.popleft())
            width = wider
        if batch:
            self._metrics.observe(BATCH_EVENTS, len(batch))
            self._metrics.observe(BATCH_TOKENS, width * len(batch))
        return batch

    def _score(self, events: list[EncodedEvent]) -> list[_Found]:
        """Score in a thread; where a call fails, its events are tried one by one."""
        try:
            scores = self._model.score(events)
        except Exception as error:  # the edge where an event becomes a recorded failure
            if len(events) > 1:
                return [found for event in events for found in self._score([event])]
            self._fault.failed(f"an event could not be scored ({type(error).__name__}); the rules answer")
            return [None]
        self._fault.works()
        return [
            (logits, factors) if all(map(math.isfinite, logits)) and all(map(math.isfinite, factors)) else None
            for logits, factors in zip(_rows(scores.logits), _rows(scores.factor_probabilities), strict=True)
        ]

    def _reply(self, item: _Waiting, found: _Found, started: float, model_ms: float) -> Reply:
        if found is None:
            self._metrics.count(POISONED)
            return POISON
        queue_ms = (started - item.since) * 1e3
        model = self._model.identity
        return Scored(*found, model.version, model.temperature, queue_ms, model_ms, model.markets)


def _rows(array: np.ndarray) -> list[list[float]]:
    return array.tolist()


def _resolve(item: _Waiting, reply: Reply) -> None:
    if not item.future.done():
        item.future.set_result(reply)
