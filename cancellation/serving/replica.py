"""A gateway replica put together: its parts, what runs beside the answers, and how it starts and ends.

An ASGI application: the parts are made when its lifespan begins, in the event loop that they belong to.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cancellation.decision.actions import obstacles
from cancellation.decision.verdicts import model_verdict, rules_verdict
from cancellation.events.event import parse_event
from cancellation.features.vector import feature_digest
from cancellation.serving.answering.admission import Admission
from cancellation.serving.answering.appeals import Appeals
from cancellation.serving.answering.explaining import Explainer
from cancellation.serving.answering.gateway import RULES_VERSION, Gateway
from cancellation.serving.answering.past_decisions import PastDecisions
from cancellation.serving.answering.taken_back import TakenBack
from cancellation.serving.appeals.store import AppealStore
from cancellation.serving.http.asgi import Receive, Scope, Send
from cancellation.serving.http.endpoint import Condition, Endpoint
from cancellation.serving.http.openapi import description
from cancellation.serving.inference.example_events import example_events
from cancellation.serving.inference.messages import Reply, Scored
from cancellation.serving.inference.model import ModelClient
from cancellation.serving.inference.shadow import Ask, Copy, Shadow
from cancellation.serving.observability.metrics import (
    LOG_BYTES,
    LOG_OVER_LIMIT,
    LOG_SHIP_FAILURES,
    LOG_SHIPPED,
    LOG_SHIPPER_RESTARTS,
    LOG_SHIPPER_UP,
    PENALTY_REFUSED,
    POLICY_CHANGES,
    POLICY_REFUSED,
    POLICY_STATE,
    TOKENS_REFUSED,
    Metric,
    Metrics,
)
from cancellation.serving.observability.traces import Traces
from cancellation.serving.places import is_draining, log_folder, open_tokens, prepare_person_key
from cancellation.serving.records.archive import Archive
from cancellation.serving.records.people import PersonKey, name_key
from cancellation.serving.records.recent import RecentDecisions
from cancellation.serving.rollout.policy_archive import PolicyArchive
from cancellation.serving.rollout.policy_store import PolicyStore
from cancellation.serving.rollout.policy_view import policy_view
from cancellation.serving.settings import ServingSettings, ShadowSettings
from cancellation.serving.shared_state import open_state
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.1
_MEASURE_SECONDS = 2.0
_DATABASE_SECONDS = 1.0
_APPEALS_SECONDS = 10.0
_EXAMPLE_SECONDS = 10.0
_STATES = {"off": 0.0, "shadow": 1.0, "live": 2.0}

MakeModel = Callable[[Metrics], Awaitable[ModelClient]]
"""Loads the model, or finds the replicas that hold it; in the loop that will ask it."""

AskModel = Callable[[Sequence[bytes], float], Awaitable[Sequence[Reply]]]
"""Gets replies of a shadow's model to events as JSON, in their order, within so many seconds; may raise."""


class GatewayReplica:
    """One replica of the gateway, as an ASGI application."""

    def __init__(
        self,
        settings: ServingSettings,
        make_model: MakeModel,
        *,
        metrics: Metrics | None = None,
        shadow_models: Mapping[str, AskModel] | None = None,
        metrics_text: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self._make_model = make_model
        self._shadow_models = dict(shadow_models or {})
        self._metrics_text = metrics_text or self._own_metrics
        self.failure: str | None = None
        """Why it could not start, on one line."""
        self._endpoint: Endpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._key_is_named = False
        self._shipping_seen: Counter[Metric] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or start and end with the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._endpoint is not None:
            await self._endpoint(scope, receive, send)

    async def start(self) -> None:
        """Make the parts; the replica answers when this returns.

        Raises:
            ValueError: If tokens, policy or model are refused.
        """
        settings, data = self.settings, Path(self.settings.data_dir)
        data.mkdir(parents=True, exist_ok=True)
        self._model = await self._make_model(self.metrics)
        self._person_key = PersonKey.load(prepare_person_key(settings))  # before the files that are written under it
        self._archive = Archive(log_folder(settings), settings.output, settings.decision_log, settings.shipper)
        loop = asyncio.get_running_loop()
        self._state = await loop.run_in_executor(None, open_state, settings, self._person_key)
        self._policy = await loop.run_in_executor(None, PolicyStore, self._state.policy)
        self._policy_archive = PolicyArchive(self._state.policy, settings.output) if settings.output else None
        self._recent = RecentDecisions(
            self._state.database,
            retention_seconds=settings.retention_hours * 3600,
            max_entries=settings.max_recent,
        )
        appeals = AppealStore(self._state.appeals)
        self._taken_back = TakenBack(appeals, self.metrics)
        self.gateway = Gateway(
            model=self._model,
            policy=self._policy,
            log=self._archive.decisions,
            shadow_log=self._archive.shadow,
            recent=self._recent,
            person_key=self._person_key,
            settings=settings,
            metrics=self.metrics,
            taken_back=self._taken_back,
        )
        self._add_shadows()
        self._tokens = open_tokens(settings)
        self._traces = Traces(settings.traces)
        self._admission = Admission(settings.admission, self._model.queue_age, self.metrics)
        self._appeals = Appeals(
            appeals,
            PastDecisions(self.gateway, settings.output, settings.appeals.archive_seconds),
            self._archive,
            person_key=self._person_key,
            settings=settings.appeals,
            metrics=self.metrics,
            known_market=lambda market: market in self._policy.current.markets,
        )
        self._explainer = None
        if settings.explain is not None:
            log = self._archive.explanations
            self._explainer = Explainer(settings, self._policy, self._person_key, log, self.metrics)
        self._endpoint = Endpoint(
            self.gateway,
            explainer=self._explainer,
            appeals=self._appeals,
            tokens=self._tokens,
            admission=self._admission,
            feedback_log=self._archive.feedback,
            settings=settings,
            metrics=self.metrics,
            traces=self._traces,
            metrics_text=self._metrics_text,
            condition=self._condition,
            description=description(
                await self._examples(),
                max_batch=settings.limits.batch_events,
                appeals=settings.appeals,
                explains=self._explainer is not None,
            ),
        )
        self._tasks = self._chores()

    async def stop(self) -> None:
        """Answer what is under way, seal the logs, end."""
        self._endpoint = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._admission.close()
        if self._explainer is not None:
            self._explainer.close()
        self._appeals.close()
        await self.gateway.close()
        self._taken_back.close()
        await self._model.close()
        await asyncio.get_running_loop().run_in_executor(None, self._archive.close)
        self._recent.close()
        self._state.close()
        self._traces.close()
        self.metrics.flush()

    def _chores(self) -> list[asyncio.Task[None]]:
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(_again_and_again(work, seconds))
            for work, seconds in (
                (self._watch_policy, self.settings.rollout.poll_seconds),
                (self._archive_policy, self.settings.rollout.poll_seconds),
                (self._name_key, self.settings.rollout.poll_seconds),
                (self._watch_tokens, self.settings.rollout.poll_seconds),
                (self._flush, _FLUSH_SECONDS),
                (self._measure, _MEASURE_SECONDS),
                (self.gateway.recorder.try_again, _DATABASE_SECONDS),
                (self._taken_back.try_again, _DATABASE_SECONDS),
                (self._appeals.try_again, _DATABASE_SECONDS),
                (self._appeals.measure, _APPEALS_SECONDS),
            )
        ]

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            # Serve keeps a failed lifespan's reason for itself, and shows that of a failed health check.
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
            logger.error("the gateway cannot start: %s", self.failure)
        # What is here now stays. A collection that walks all of it (Ray, the model's libraries) takes a tenth of a
        # second, every few thousand requests, in which nobody is answered.
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.failure is None:
            await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _add_shadows(self) -> None:
        add = self.gateway.add_shadow_answer
        for settings in self.settings.shadows:
            ask: Ask = (
                self._ask_rules
                if settings.source == "rules"
                else partial(self._ask_model_elsewhere, self._shadow_models[settings.name])
            )
            self.gateway.shadows.append(Shadow(settings, ask, add, self.metrics))
        of_market = ShadowSettings(name="market", share=1.0)
        self.gateway.market_shadow = Shadow(of_market, self._ask_live_model, add, self.metrics)

    async def _ask_rules(self, copies: Sequence[Copy], _seconds: float) -> list[Mapping[str, Any] | None]:
        return [
            rules_verdict(
                parse_event(copy.body), policy=self._policy.current, source="rules", rules_version=RULES_VERSION
            )
            for copy in copies
        ]

    async def _ask_live_model(self, copies: Sequence[Copy], seconds: float) -> list[Mapping[str, Any] | None]:
        """Ask the model for a market that it does not judge yet."""
        deadline = time.monotonic() + seconds
        events = [parse_event(copy.body) for copy in copies]
        replies = await asyncio.gather(
            *(
                self._model.score(self._model.encode(event), copy.body, deadline, bulk=True)
                for event, copy in zip(events, copies, strict=True)
            )
        )
        return self._shadow_verdicts(copies, replies)

    async def _ask_model_elsewhere(
        self, ask: AskModel, copies: Sequence[Copy], seconds: float
    ) -> list[Mapping[str, Any] | None]:
        return self._shadow_verdicts(copies, await ask([copy.body for copy in copies], seconds))

    def _shadow_verdicts(self, copies: Sequence[Copy], replies: Sequence[Reply]) -> list[Mapping[str, Any] | None]:
        return [
            verdict_of_reply(copy.event_id, copy.market, reply, self._policy) if isinstance(reply, Scored) else None
            for copy, reply in zip(copies, replies, strict=True)
        ]

    async def _watch_policy(self) -> None:
        """Look at policy and kill switch; in a thread, as the ledger waits for the disk."""
        if await asyncio.get_running_loop().run_in_executor(None, self._policy.reload_if_changed):
            self.metrics.count(POLICY_CHANGES)
        policy = self._policy.current
        for code, market in {**policy.markets, "default": policy.default}.items():
            self.metrics.set(POLICY_STATE, _STATES[market.state], code)
            refused = market.state == "live" and bool(obstacles(policy, code, self._model.identity))
            self.metrics.set(PENALTY_REFUSED, float(refused), code)
        self.metrics.set(POLICY_REFUSED, float(self._policy.last_refusal is not None))

    async def _archive_policy(self) -> None:
        """Put each policy that was in force beside the decisions that rest on it."""
        if self._policy_archive is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._policy_archive.ship, self._policy.digest)

    async def _name_key(self) -> None:
        """Tell the archive under which key its rows stand, so that nobody looks for people with another one."""
        if self.settings.output is not None and not self._key_is_named:
            work = partial(name_key, self.settings.output, self._person_key)
            await asyncio.get_running_loop().run_in_executor(None, work)
            self._key_is_named = True

    async def _watch_tokens(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._tokens.reload_if_changed)
        self.metrics.set(TOKENS_REFUSED, float(self._tokens.refused is not None))

    def _condition(self) -> Condition:
        shipping = self._archive.shipping
        return Condition(
            draining=is_draining(self.settings),
            shipper="elsewhere" if shipping is None else shipping.state,
            appeals_fail=self._taken_back.fails or self._appeals.fails,
        )

    async def _flush(self) -> None:
        self.metrics.flush()

    async def _measure(self) -> None:
        self.metrics.set(LOG_BYTES, sum(log.folder_bytes for log in self._archive.logs))
        self.metrics.set(LOG_OVER_LIMIT, float(any(log.over_limit for log in self._archive.logs)))
        shipping = self._archive.shipping
        if shipping is None:
            return
        shipping.watch()
        self.metrics.set(LOG_SHIPPER_UP, float(shipping.alive))
        for metric, now in (
            (LOG_SHIPPED, shipping.num_shipped),
            (LOG_SHIP_FAILURES, shipping.num_failures),
            (LOG_SHIPPER_RESTARTS, shipping.num_restarts),
        ):
            self.metrics.count(metric, value=now - self._shipping_seen[metric])
            self._shipping_seen[metric] = now

    async def _own_metrics(self) -> str:
        return self.metrics.render()

    async def _examples(self) -> dict[str, Any]:
        """An event and what this model says to it, for the OpenAPI page; nothing of it is recorded."""
        mapping = example_events()[0]
        event = parse_event(mapping)
        body = json.dumps(mapping).encode()
        encoded = self._model.encode(event)
        reply = await self._model.score(encoded, body, time.monotonic() + _EXAMPLE_SECONDS)
        verdict = (
            verdict_of_reply(event.event_id, event.market, reply, self._policy)
            if isinstance(reply, Scored)
            else rules_verdict(event, policy=self._policy.current, source="fallback", rules_version=RULES_VERSION)
        )
        explained = None
        if isinstance(reply, Scored):
            numbers = [None if value != value else value for value in encoded.features.tolist()]
            deadline = time.monotonic() + _EXAMPLE_SECONDS
            explained = await self._model.explain(mapping, numbers, verdict, deadline)
        decision = {
            "event_id": event.event_id,
            "market": event.market,
            "received_at": event.cancelled_at + 1.0,
            "verdict": explained or verdict,
            "feature_digest": feature_digest(),
            "state": self._policy.market(event.market).state,
            "event": mapping,
            "fallback_reason": None,
        }
        return {
            "event": mapping,
            "verdict": verdict,
            "decision": decision,
            "policy": policy_view(self._policy, event.market, self._model.identity),
        }


async def _again_and_again(work: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Do what runs beside the answers, whatever became of it the last time."""
    fault = LastingFault(logger, work.__qualname__)
    while True:
        try:
            await work()
        except Exception as error:
            # What storage and disks say names the place; anything else may hold words of an event.
            said = error if isinstance(error, OSError) else type(error).__name__
            fault.failed(f"{work.__qualname__}: failed ({said})")
        else:
            fault.works()
        await asyncio.sleep(seconds)


def verdict_of_reply(event_id: str, market: str, reply: Reply, policy: PolicyStore) -> dict[str, Any]:
    """Make a verdict of a model's reply.

    Raises:
        ValueError: If there are no scores in it.
    """
    if isinstance(reply, Scored):
        return model_verdict(event_id, market, reply.logits, reply.factors, policy=policy.current, model=reply.identity)
    raise ValueError(f"scores are expected, found none ({reply.reason})")
