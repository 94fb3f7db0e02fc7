"""The model in another replica: asked through a Serve handle, twice at most, and left alone while it fails.

A version of the model is a deployment of its own, not one of several behind `serve.multiplexed`: there a version
that loads, hangs or takes all memory does so inside the replica that answers the live traffic, an unused one can be
evicted just when a market is switched back to it, and neither can be scaled or upgraded alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from cancellation.events.event import Event
from cancellation.model.spec import ModelIdentity
from cancellation.serving.inference.messages import DEAD, LATE, SHED, STALE, Reply, Scored, pack_event, unpack_reply
from cancellation.serving.inference.model import load_event_encoder, pack_question
from cancellation.serving.observability.metrics import RETRIES, Metrics
from cancellation.serving.settings import RetrySettings
from cancellation.text.encoding import EncodedEvent
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

_FRESH_SECONDS = 0.5
"""For this long a reply tells how long the model's queue is."""


class RetryBudget:
    """Allows one second attempt for so many first ones, and saves up ten at most."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._saved = min(1.0, 10 * fraction)

    def earn(self) -> None:
        """Count a first attempt."""
        self._saved = min(self._saved + self._fraction, 10.0)

    def spend(self) -> bool:
        """Take a second attempt, if one is left."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Breaker:
    """Says no for a while after failures in a row, then lets one try at a time."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._failures = 0
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Whether to try; a yes after a pause postpones the next one."""
        if self._failures < self._settings.breaker_failures:
            return True
        now = time.monotonic()
        if now < self._closed_at:
            return False
        self._closed_at = now + self._settings.breaker_seconds
        return True

    @property
    def open(self) -> bool:
        """Whether it says no at present."""
        return self._failures >= self._settings.breaker_failures

    def learn(self, reply: Reply) -> None:
        """Count what came of a try."""
        if isinstance(reply, Scored):
            self._failures = 0
        elif reply in (LATE, DEAD):
            self._failures += 1
            if self._failures == self._settings.breaker_failures:
                self._closed_at = time.monotonic() + self._settings.breaker_seconds


class RemoteModel:
    """Asks replicas of a model's deployment."""

    def __init__(
        self, handle: DeploymentHandle, folder: Path, identity: ModelIdentity, settings: RetrySettings, metrics: Metrics
    ) -> None:
        """`folder` holds the files of the model that is called `identity` where it runs."""
        self._handle = handle
        self._encoder, self._encoder_version = load_event_encoder(folder)
        self._settings = settings
        self._metrics = metrics
        self._budget = RetryBudget(settings.budget_fraction)
        self._breaker = Breaker(settings)
        self._queue_seen = (0.0, 0.0)
        self._identity = identity
        self._fault = LastingFault(logger, "the model's replica")

    @property
    def version(self) -> str:
        """Of the replica that answered last; before, of the files."""
        return self._identity.version

    @property
    def identity(self) -> ModelIdentity:
        """What a proof of its thresholds has to be of, as the replica that answered last said."""
        return self._identity

    def encode(self, event: Event) -> EncodedEvent:
        """Make the model's input of an event."""
        return self._encoder.encode(event)

    async def score(self, encoded: EncodedEvent, body: bytes, deadline: float, *, bulk: bool = False) -> Reply:
        """Have an event scored; `body` is sent where the replica has another encoder."""
        if not self._breaker.allows():
            return DEAD
        self._budget.earn()
        reply = await self._try(encoded, body, deadline, bulk)
        if reply == DEAD and _left_ms(deadline) >= self._settings.min_left_ms:
            if self._budget.spend():
                self._metrics.count(RETRIES, "tried")
                reply = await self._try(encoded, body, deadline, bulk)
            else:
                self._metrics.count(RETRIES, "over_budget")
        self._breaker.learn(reply)
        if isinstance(reply, Scored):
            self._identity = reply.identity
            if not bulk:
                self._queue_seen = (time.monotonic(), reply.queue_ms / 1e3)
        return reply

    async def explain(
        self, event: Mapping[str, Any], features: Sequence[float | None], verdict: Mapping[str, Any], deadline: float
    ) -> dict[str, Any] | None:
        """Have a verdict explained; None if that is not possible."""
        question = pack_question(event, features, verdict, _left_ms(deadline))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return json.loads(await self._handle.explain.remote(question))
        except (TimeoutError, RayError, RayServeException):
            return None

    def queue_age(self) -> float:
        """Seconds that events wait before the model, as its last reply said."""
        seen, seconds = self._queue_seen
        return seconds if time.monotonic() - seen < _FRESH_SECONDS else 0.0

    def available(self) -> bool:
        """Whether the model answered of late."""
        return not self._breaker.open

    async def close(self) -> None:
        """Nothing to stop: the handle goes with the process."""

    async def _try(self, encoded: EncodedEvent, body: bytes, deadline: float, bulk: bool) -> Reply:
        packed = pack_event(encoded, encoder=self._encoder_version, left_ms=_left_ms(deadline), bulk=bulk)
        reply = await self._ask("score", deadline, packed)
        if reply == STALE:  # the model was replaced under a gateway that still has the old one's tokeniser
            reply = await self._ask("score_body", deadline, body, _left_ms(deadline), bulk)
        return reply

    async def _ask(self, method: str, deadline: float, *arguments: Any) -> Reply:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                reply = unpack_reply(await getattr(self._handle, method).remote(*arguments))
        except TimeoutError:
            return LATE
        except BackPressureError:
            return SHED
        except Exception as error:  # the edge where a replica's failure, of whatever class, becomes an answer
            self._fault.failed(f"the model's replica failed: {type(error).__name__}")
            return DEAD
        self._fault.works()
        return reply


def _left_ms(deadline: float) -> float:
    return max(0.0, (deadline - time.monotonic()) * 1e3)
