"""One event in, one verdict out, on record before it is sent.

The order is fixed: parse, look whether the event was answered here, ask policy and model, write the decision down,
answer: with that of another replica, if it was first.
Whatever the model does, there is an answer within the deadline: the rules' if need be, and those never punish.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cancellation.contact_data.logged_event import is_by_reference, redact_event
from cancellation.decision.actions import obstacles
from cancellation.decision.policy import MarketPolicy, Policy, Source
from cancellation.decision.rules import rules_v1
from cancellation.decision.verdicts import model_verdict, rules_verdict
from cancellation.events.event import Event, parse_event
from cancellation.events.fields import decode_json, read_stored_identifier
from cancellation.events.identity import event_identity
from cancellation.features.vector import feature_digest, features
from cancellation.serving.answering.large_lane import LargeLane
from cancellation.serving.answering.recording import Recorder
from cancellation.serving.answering.request import Answer, Asked, Conflict, EventRequest, NotRecorded
from cancellation.serving.inference.messages import Scored, Unscored
from cancellation.serving.inference.model import ModelClient
from cancellation.serving.inference.shadow import Copy, Shadow
from cancellation.serving.observability.metrics import (
    DUPLICATES,
    EXPLANATIONS,
    FALLBACKS,
    LOG_FAILURES,
    PENALTIES_WITHHELD,
    SCORE,
    STAGE,
    VERDICTS,
    Metrics,
)
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.people import PersonKey
from cancellation.serving.records.recent import RecentDecisions, Recorded
from cancellation.serving.rollout.policy_store import PolicyStore
from cancellation.serving.settings import ServingSettings
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

RULES_VERSION = "rules-1"
_EXPLAIN_SECONDS = 5.0


class Gateway:
    """Answers events. Belongs to one event loop; its parts are made and closed by others."""

    def __init__(
        self,
        *,
        model: ModelClient,
        policy: PolicyStore,
        log: DecisionLog,
        shadow_log: DecisionLog,
        recent: RecentDecisions,
        person_key: PersonKey,
        settings: ServingSettings,
        metrics: Metrics,
        taken_back: Callable[[str, Mapping[str, str], float], Awaitable[bool]],
    ) -> None:
        self.model = model
        self.policy = policy
        self.recorder = Recorder(recent, log, metrics, only_logged=Path(settings.data_dir) / "only_logged.lock")
        self.shadows: list[Shadow] = []
        self.market_shadow: Shadow | None = None
        """Shows the model the events of markets whose state is shadow."""
        self._shadow_log = shadow_log
        self._person_key = person_key
        self._settings = settings
        self._metrics = metrics
        self._taken_back = taken_back
        self._running: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._shadow_fault = LastingFault(logger, "the log of shadows' answers")
        self._lane = LargeLane(settings.admission.retry_after_seconds)
        self._feature_digest = feature_digest()
        rules_v1()  # read now: who needs them first has a deadline, and maybe a machine that opens no file any more

    async def judge(
        self, body: bytes, *, caller: str, deadline: float, received_at: float, bulk: bool = False
    ) -> Answer:
        """Judge one event.

        Args:
            body: The event as JSON.
            caller: Name of the caller's token, for the log.
            deadline: Instant of `time.monotonic` by which the caller wants the answer.
            received_at: Epoch seconds.
            bulk: One of many, for which nobody waits: events that come alone go first.

        Raises:
            EventError: If the event is refused.
            Conflict: If its id stands for another event.
            NotRecorded: If the decision could not be written down.
            Overloaded: If too many large bodies wait.
        """
        large = len(body) > self._settings.limits.inline_bytes
        with self._lane.place(large):
            started = time.perf_counter()
            mapping, event, fingerprint = await self._lane.run(large, _read, body)
            parse_ms = (time.perf_counter() - started) * 1e3
            request = EventRequest(
                event, mapping, body, fingerprint, caller, deadline, received_at, started, parse_ms, bulk, large
            )
            return await self._answer_once(request)

    async def _answer_once(self, request: EventRequest) -> Answer:
        """Answer, unless the same event was answered before or is being answered."""
        event_id = request.event.event_id
        while True:
            known = await self._known(event_id, request)
            if known is not None:
                return known
            if event_id not in self._running:
                break
            fingerprint, first = self._running[event_id]
            if fingerprint != request.fingerprint:
                raise self._conflict(event_id)
            try:
                async with asyncio.timeout(self._seconds_left(request)):
                    await asyncio.shield(first)  # then it is known, or was given up
            except TimeoutError:  # this caller is less patient: the rules answer, and the first one gets that too
                return await self._answer(request)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running[event_id] = (request.fingerprint, done)
        try:
            return await self._answer(request)
        finally:
            del self._running[event_id]
            done.set_result(None)

    async def explained(self, event_id: str) -> dict[str, Any] | None:
        """Give a recorded decision; its factors get their evidence when it is asked for the first time.

        Raises:
            NotRecorded: If the records cannot be read.
        """
        record = await self.recorder.find(event_id)
        if record is None:
            return None
        decision = record.decision
        verdict = decision["verdict"]
        if record.explanation is not None:
            return {**decision, "verdict": {**verdict, "decision_factors": record.explanation}}
        explained = await self.with_evidence(decision)
        if explained is None:
            return decision
        await self.recorder.add_explanation(event_id, explained["verdict"]["decision_factors"])
        return explained

    async def with_evidence(self, decision: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give a decision with evidence for its factors, by the model in service; None where there is none to give."""
        verdict, event = decision["verdict"], decision["event"]
        if verdict["action"] == "none" or verdict["source"] != "model" or not verdict["decision_factors"]:
            return None
        by_reference = event is None or self._settings.log_events == "reference" or is_by_reference(event)
        if by_reference:  # evidence would be of digests
            return None
        deadline = time.monotonic() + _EXPLAIN_SECONDS
        explained = await self.model.explain(event, decision["features"], verdict, deadline)
        self._metrics.count(EXPLANATIONS, "late" if explained is None else "made")
        return None if explained is None else {**decision, "verdict": explained}

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.gather(*(done for _, done in self._running.values()))
        for shadow in (*self.shadows, *([self.market_shadow] if self.market_shadow else [])):
            await shadow.close()
        self._lane.close()
        await self.recorder.put_what_was_only_logged()
        self.recorder.close()

    def add_shadow_answer(self, copy: Copy, verdict: Mapping[str, Any]) -> None:
        """Put a shadow's verdict on record beside the live one: in a log of its own, as it comes later."""
        shadow = {
            "model_version": verdict["model_version"],
            "score": verdict["score"],
            "verdict": verdict["verdict"],
            "action": verdict["action"],
        }
        try:
            self._shadow_log.append({**copy.record, "shadow": shadow})
        except OSError as error:
            self._metrics.count(LOG_FAILURES)
            self._shadow_fault.failed(f"a shadow's answer could not be written down: {error}")
        else:
            self._shadow_fault.works()

    async def _known(self, event_id: str, request: EventRequest) -> Answer | None:
        if not self.recorder.may_know(event_id):
            return None
        try:
            record = await self.recorder.find(event_id, request.deadline)
        except NotRecorded:  # then the event is judged; what follows decides whether it may be answered
            return None
        if record is None:
            return None
        if record.fingerprint != request.fingerprint:
            raise self._conflict(event_id)
        self._metrics.count(DUPLICATES, "replayed")
        return _repeated(record)

    def _conflict(self, event_id: str) -> Conflict:
        self._metrics.count(DUPLICATES, "conflict")
        return Conflict("event_id: expected an id of its own, found one that an event of other content has")

    async def _answer(self, request: EventRequest) -> Answer:
        event = request.event
        asked = await self._ask_model(request) if self.policy.market(event.market).state == "live" else None
        # Read once and now: what a kill switch has taken off meanwhile gets no verdict of the model any more.
        policy = self.policy.current
        market = policy.market(event.market)
        reply = asked.reply if asked and market.state == "live" else None
        reason = reply.reason if isinstance(reply, Unscored) else None
        people = self._person_key.people(request.mapping)
        if isinstance(reply, Scored):
            verdict = _model_verdict(event, reply, policy)
            punished = verdict["action"] == "penalty"
            overturned = punished and await self._taken_back(event.event_id, people, request.deadline)
            if overturned:
                verdict["action"] = "investigate"
        else:
            verdict = await self._lane.run(request.large, _rules_verdict, event, policy, reply is not None)
        logged = await self._lane.run(request.large, redact_event, request.mapping, self._settings.log_events)
        if self._settings.log_events != "full":
            logged = self._person_key.hidden(logged)
        record = self._record(request, market, asked, verdict, reason) | {"people": people, "event": logged}
        stands = await self._write(request, record)
        if stands.decision != record:  # another replica was first
            self._metrics.count(DUPLICATES, "replayed")
            return _repeated(stands)
        self._count(event.market, verdict, record["timings_ms"], reason)
        if isinstance(reply, Scored):
            self._count_withheld(event.market, market, verdict, policy, reply, overturned)
        self._copy(request, market, record)
        return Answer(verdict, record["timings_ms"])

    async def _ask_model(self, request: EventRequest) -> Asked:
        started = time.perf_counter()
        encoded = await self._lane.run(request.large, self.model.encode, request.event)
        encode_ms = (time.perf_counter() - started) * 1e3
        deadline = time.monotonic() + self._seconds_left(request)
        if not request.bulk:
            deadline = min(deadline, time.monotonic() + self._settings.deadlines.model_ms / 1e3)
        reply = await self.model.score(encoded, request.body, deadline, bulk=request.bulk)
        return Asked(encoded, reply, encode_ms)

    def _seconds_left(self, request: EventRequest) -> float:
        """How long a request may still wait for others; the rest is for the rules and for writing down."""
        return max(0.0, request.deadline - time.monotonic() - self._settings.deadlines.reserve_ms / 1e3)

    def _record(
        self,
        request: EventRequest,
        market: MarketPolicy,
        asked: Asked | None,
        verdict: dict[str, Any],
        reason: str | None,
    ) -> dict[str, Any]:
        numbers = asked.encoded.features if asked else features(request.event).astype(np.float32)
        reply = asked.reply if asked else None
        timings = {
            "parse": request.parse_ms,
            "encode": asked.encode_ms if asked else 0.0,
            "queue": reply.queue_ms if isinstance(reply, Scored) else 0.0,
            "model": reply.model_ms if isinstance(reply, Scored) else 0.0,
            "total": (time.perf_counter() - request.started) * 1e3,
        }
        return {
            "event_id": request.event.event_id,
            "market": request.event.market,
            "received_at": request.received_at,
            "verdict": verdict,
            "features": [None if value != value else value for value in numbers.tolist()],
            "feature_digest": self._feature_digest,
            "thresholds": market.thresholds,
            "state": market.state,
            "policy_version": verdict["policy_version"],
            "model_version": reply.model_version if isinstance(reply, Scored) else self.model.version,
            "timings_ms": {name: round(value, 3) for name, value in timings.items()},
            "shadow": None,
            "caller": request.caller,
            "fallback_reason": reason,
        }

    async def _write(self, request: EventRequest, record: Mapping[str, Any]) -> Recorded:
        """Write ahead: what cannot be written down must not be sent. Gives the record that stands for the event."""
        started = time.perf_counter()
        event_id = request.event.event_id
        stands = await self.recorder.put(event_id, request.fingerprint, record, request.deadline)
        self._metrics.observe(STAGE, (time.perf_counter() - started) * 1e3, "log")
        if stands.fingerprint != request.fingerprint:
            raise self._conflict(event_id)
        return stands

    def _count(self, market: str, verdict: Mapping[str, Any], timings: Mapping[str, float], reason: str | None) -> None:
        market = market if market in self.policy.current.markets else "other"  # callers must not make up series
        self._metrics.count(VERDICTS, market, verdict["verdict"], verdict["action"], verdict["source"])
        self._metrics.observe(SCORE, verdict["score"], market)
        for stage, value in timings.items():
            self._metrics.observe(STAGE, value, stage)
        if reason is not None:
            self._metrics.count(FALLBACKS, reason)

    def _count_withheld(
        self,
        code: str,
        market: MarketPolicy,
        verdict: Mapping[str, Any],
        policy: Policy,
        scored: Scored,
        overturned: bool,
    ) -> None:
        """Count a score above the penalty threshold from which no penalty came, by what its proof lacks."""
        if overturned:
            self._metrics.count(PENALTIES_WITHHELD, code, "overturned")
        if market.penalty is not None and verdict["score"] > market.penalty and verdict["action"] != "penalty":
            for obstacle in obstacles(policy, code, scored.identity):
                self._metrics.count(PENALTIES_WITHHELD, code, obstacle.kind)

    def _copy(self, request: EventRequest, market: MarketPolicy, record: Mapping[str, Any]) -> None:
        shadows: Sequence[Shadow] = self.shadows
        if market.state == "shadow" and self.market_shadow is not None:
            shadows = (*shadows, self.market_shadow)
        if shadows:
            copy = Copy(request.event.event_id, request.event.market, request.body, record)
            for shadow in shadows:
                shadow.offer(copy)


def _repeated(record: Recorded) -> Answer:
    return Answer(record.decision["verdict"], record.decision["timings_ms"], repeated=True)


def _read(body: bytes) -> tuple[Mapping[str, Any], Event, str]:
    """Parse an event and name its content."""
    mapping = decode_json(body)
    event = parse_event(mapping)
    read_stored_identifier(mapping, "event_id")  # the contract of events knows of no database
    return mapping, event, event_identity(event)


def _model_verdict(event: Event, scored: Scored, policy: Policy) -> dict[str, Any]:
    return model_verdict(
        event.event_id, event.market, scored.logits, scored.factors, policy=policy, model=scored.identity
    )


def _rules_verdict(event: Event, policy: Policy, fallback: bool) -> dict[str, Any]:
    source: Source = "fallback" if fallback else "rules"
    return rules_verdict(event, policy=policy, source=source, rules_version=RULES_VERSION)
