"""One event explained by a language model: verdict, factors, reasoning, each given on as soon as it is there.

The model is a server of its own, asked from a thread. The thread writes down what was said and what it cost however the
answer ends, and `done` comes behind that: an explanation without it is not on record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cancellation.contact_data.logged_event import redact_event
from cancellation.contact_data.redaction import redact
from cancellation.decision.verdicts import verdict_probabilities
from cancellation.events.event import Event, parse_event
from cancellation.events.fields import decode_json
from cancellation.llm.answer import AnswerReader, Part
from cancellation.llm.backend import BackendError, SamplingSettings, Usage
from cancellation.llm.judging import JudgingSettings, judge
from cancellation.llm.prompt import build_prompt, prompt_digest
from cancellation.serving.answering.request import NotRecorded
from cancellation.serving.observability.metrics import LLM_EXPLANATIONS, LOG_FAILURES, Metrics
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.people import PersonKey
from cancellation.serving.rollout.policy_store import PolicyStore
from cancellation.serving.settings import ServingSettings
from cluster.endpoint.purse import BudgetSpentError
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

Outcome = Literal["whole", "gone", "late", "failed", "budget"]
"""Read to its end; the caller went away; the deadline passed; the endpoint failed; there is no money left."""
Named = tuple[str, dict[str, Any]]
"""An event of the stream: its name and its data."""


class NotExplained(Exception):  # noqa: N818
    """An explanation that was not to be had, or not to its end; never holds a text of the event or of the model."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass
class _Asked:
    """One event on its way; the loop sets `outcome` to make the thread stop."""

    event: Event
    logged: Mapping[str, Any]
    people: Mapping[str, str]
    caller: str
    received_at: float
    give: Callable[[Named | Exception], object]
    outcome: Outcome | None = None


class Explainer:
    """Asks the endpoint. Belongs to one event loop."""

    def __init__(
        self, settings: ServingSettings, policy: PolicyStore, person_key: PersonKey, log: DecisionLog, metrics: Metrics
    ) -> None:
        from cancellation.llm.endpoint_backend import EndpointBackend  # openai: only where it is needed

        explain = settings.explain
        assert explain is not None, "made only where a language model is configured"
        longest = settings.deadlines.max_ms / 1e3
        endpoint = explain.endpoint.model_copy(
            update={
                # A thread that hangs on a silent server ends soon after its caller's deadline; and whoever waits for
                # an answer tries again themselves.
                "timeout_seconds": min(explain.endpoint.timeout_seconds, longest),
                "deadline_seconds": min(explain.endpoint.deadline_seconds, longest),
                "max_tries": 1,
                "concurrency": settings.admission.max_explanations,
            }
        )
        self._backend = EndpointBackend(endpoint)
        self._prompt, self._digest = explain.prompt, prompt_digest(explain.prompt)
        self._temperature = explain.temperature
        self._judging = JudgingSettings(sampling=SamplingSettings(max_tokens=explain.max_tokens))
        self._mode = settings.log_events
        self._policy, self._person_key, self._log, self._metrics = policy, person_key, log, metrics
        self._fault = LastingFault(logger, "the log of explanations")
        self._threads = ThreadPoolExecutor(settings.admission.max_explanations, thread_name_prefix="explainer")

    async def explain(
        self, body: bytes, *, caller: str, deadline: float, received_at: float, gone: asyncio.Future[None]
    ) -> AsyncGenerator[Named]:
        """Give an event's explanation part by part, then `done` with what it took.

        Args:
            body: The event as JSON.
            caller: Name of the caller's token, for the log.
            deadline: Instant of `time.monotonic` by which the caller wants the end.
            received_at: Epoch seconds.
            gone: Done when the caller went away.

        Raises:
            EventError: If the event is refused.
            NotExplained: If it came to no end.
            NotRecorded: If it could not be written down.
        """
        loop = asyncio.get_running_loop()
        event, logged, people = await loop.run_in_executor(self._threads, self._read, body)
        parts: asyncio.Queue[Named | Exception] = asyncio.Queue()
        asked = _Asked(
            event, logged, people, caller, received_at, lambda part: loop.call_soon_threadsafe(parts.put_nowait, part)
        )
        working = loop.run_in_executor(self._threads, self._ask, asked)
        working.add_done_callback(lambda done: parts.put_nowait(failed) if (failed := done.exception()) else None)
        try:
            name = ""
            while name != "done":
                part = await _next(parts, deadline, gone, asked)
                if isinstance(part, Exception):
                    raise part
                name = part[0]
                yield part
        finally:
            asked.outcome = asked.outcome or "gone"
            await asyncio.wait((working,))  # the caller's place is free when the thread is

    def close(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, asked: _Asked) -> None:
        """Ask, give parts on, write down; in a thread."""
        classes = self._policy.market(asked.event.market).classes
        said: dict[str, Any] = {}

        def note(part: Part, reader: AnswerReader) -> None:
            if part == "verdict":
                answer = reader.answer(cancelled=True)  # so far
                known, shares = answer.log_probabilities, None
                if known is not None:
                    shares = verdict_probabilities(known, temperature=self._temperature, classes=classes)
                said.update(verdict=answer.verdict, score=shares and shares["induced"])
                verdict = {"verdict": answer.verdict, "probabilities": shares, "model_version": self._backend.version}
                asked.give((part, {"event_id": asked.event.event_id, **verdict}))
            else:
                value = list(reader.answer().factors) if part == "decision_factors" else reader.said(part)
                said[part] = value
                asked.give((part, {part: value}))

        prompt = build_prompt(asked.event, self._prompt, classes=classes)
        started, failure, usage = time.monotonic(), None, Usage()
        try:
            judged = judge(self._backend, prompt, self._judging, on_part=note, enough=lambda: asked.outcome is not None)
            usage = judged.usage
            said["seconds_to_verdict"] = judged.seconds_to_verdict
            if "reasoning" not in said and asked.outcome is None:
                failure = NotExplained("failed", "expected an answer with reasoning, found its end before")
        except BackendError as error:
            usage, failure = error.usage, NotExplained("failed", f"the language model did not answer: {error}")
        except BudgetSpentError:
            failure = NotExplained("budget", "serving.explain.endpoint.budget_usd is spent")
        outcome = asked.outcome or (failure.outcome if failure else "whole")
        took = {**_usage(usage), "seconds": time.monotonic() - started}
        self._metrics.count(LLM_EXPLANATIONS, outcome)
        try:
            self._log.append({**self._record(asked, said), "outcome": outcome, **took})
        except OSError as error:
            self._metrics.count(LOG_FAILURES)
            self._fault.failed(f"an explanation could not be written down: {error}")
            asked.give(NotRecorded("the explanation could not be written down; try again"))
            return
        self._fault.works()
        asked.give(failure or ("done", {**took, "seconds_to_verdict": said.get("seconds_to_verdict")}))

    def _read(self, body: bytes) -> tuple[Event, Mapping[str, Any], Mapping[str, str]]:
        """Parse an event: redacted, as the endpoint gets it; as the log holds it; who it is about, as digests."""
        mapping = decode_json(body)
        parse_event(mapping)  # a refusal is of what came
        logged = redact_event(mapping, self._mode)
        if self._mode != "full":
            logged = self._person_key.hidden(logged)
        return parse_event(redact_event(mapping, "redacted")), logged, self._person_key.people(mapping)

    def _record(self, asked: _Asked, said: Mapping[str, Any]) -> dict[str, Any]:
        reasoning = said.get("reasoning")  # may quote the chat
        if reasoning is not None and self._mode != "full":
            reasoning = redact(reasoning) if self._mode == "redacted" else None
        return {
            "event_id": asked.event.event_id,
            "market": asked.event.market,
            "received_at": asked.received_at,
            **{name: said.get(name) for name in ("verdict", "score", "decision_factors", "seconds_to_verdict")},
            "reasoning": reasoning,
            "model_version": self._backend.version,
            "prompt_digest": self._digest,
            "event": asked.logged,
            "people": asked.people,
            "caller": asked.caller,
        }


async def _next(
    parts: asyncio.Queue[Named | Exception], deadline: float, gone: asyncio.Future[None], asked: _Asked
) -> Named | Exception:
    """Wait for what the thread gives, for the deadline, or for the caller's leaving, whichever is first."""
    getting = asyncio.ensure_future(parts.get())
    left = max(deadline - time.monotonic(), 0.0)
    try:
        await asyncio.wait((getting, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
    finally:
        getting.cancel()
    asked.outcome = "gone" if gone.done() else "late"
    return NotExplained(asked.outcome, "expected the language model's answer within the deadline, found none")


def _usage(usage: Usage) -> dict[str, Any]:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")
    return {name: asdict(usage)[name] for name in names}
