"""The endpoint: which path asks for what, who may, and what each refusal looks like."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from cancellation.events.fields import EventError, read_instant
from cancellation.serving.answering.admission import Admission, Overloaded
from cancellation.serving.answering.appeals import Appeals, NotAppealable
from cancellation.serving.answering.explaining import Explainer, NotExplained
from cancellation.serving.answering.gateway import Gateway
from cancellation.serving.answering.request import Answer, Conflict, NotRecorded
from cancellation.serving.appeals.case import AppealConflict
from cancellation.serving.http.appeal_calls import AppealCalls
from cancellation.serving.http.asgi import Problem, Receive, Request, Response, Scope, Send, json_response
from cancellation.serving.http.batches import split_events
from cancellation.serving.http.docs_page import page
from cancellation.serving.http.event_stream import EventStream, Named, gone_away
from cancellation.serving.http.review_page import review_page
from cancellation.serving.http.tokens import Caller, Forbidden, TokenStore, Unauthorized
from cancellation.serving.http.try_page import try_pages
from cancellation.serving.observability.metrics import FEEDBACK, LATENCY, REFUSED_CALLERS, REQUESTS, Metrics
from cancellation.serving.observability.traces import Traces
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.feedback import check_feedback, feedback_record, parse_feedback
from cancellation.serving.rollout.policy_view import policy_view, policy_view_at
from cancellation.serving.settings import ServingSettings
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

_BATCH_CONCURRENCY = 8
"""Events of one batch that are under way at a time."""

_MILLISECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")

_PREFIXES = ("/v1/verdicts/", "/v1/policy/", "/v1/appeals/", "/v1/statements/", "/v1/reviews/")


@dataclass(frozen=True, slots=True)
class Condition:
    """How a replica does beside its answers."""

    draining: bool
    """Whether this machine is to be taken out of the balancer."""
    shipper: Literal["runs", "fails", "down", "elsewhere"]
    """How the process does that ships decisions; elsewhere: another machine's business."""
    appeals_fail: bool
    """Whether cases cannot be read or kept: then appeals are refused, and penalties, since one may be taken back."""


_UNEXPLAINED = {"failed": 502, "late": 504, "gone": 400, "budget": 503}

Handler = Callable[[Request, Caller | None, str], Awaitable[Response | EventStream]]


class Endpoint:
    """Routes requests. Belongs to one event loop."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        explainer: Explainer | None,
        appeals: Appeals,
        tokens: TokenStore,
        admission: Admission,
        feedback_log: DecisionLog,
        settings: ServingSettings,
        metrics: Metrics,
        traces: Traces,
        metrics_text: Callable[[], Awaitable[str]],
        condition: Callable[[], Condition],
        description: Mapping[str, Any],
    ) -> None:
        self._gateway = gateway
        self._explainer = explainer
        self._tokens = tokens
        self._admission = admission
        self._feedback_log = feedback_log
        self._settings = settings
        self._metrics = metrics
        self._traces = traces
        self._metrics_text = metrics_text
        self._condition = condition
        self._ledger_fault = LastingFault(logger, "reading the ledger of policies")
        self._description = json_response(description)
        self._page = Response(page(description).encode(), content_type="text/html; charset=utf-8")
        self._try_pages = try_pages()
        self._review_page = review_page()
        docs_scope = None if settings.open_docs else "verdict"
        # Path, or its beginning where it ends in a slash: by method the scope (None: for everybody) and the handler.
        self._routes: dict[str, Mapping[str, tuple[str | None, Handler]]] = {
            "/v1/verdicts": {"POST": ("verdict", self._verdict)},
            "/v1/verdicts:batch": {"POST": ("verdict", self._batch)},
            "/v1/verdicts/": {"GET": ("verdict", self._decision)},
            "/v1/feedback": {"POST": ("feedback", self._feedback)},
            "/v1/policy/": {"GET": ("policy", self._policy)},
            **AppealCalls(appeals, partial(self._body, limit=settings.limits.body_bytes)).routes(),
            "/healthz": {"GET": (None, self._healthy)},
            "/readyz": {"GET": (None, self._ready)},
            "/metrics": {"GET": ("policy", self._show_metrics)},
            "/openapi.json": {"GET": (docs_scope, self._show_description)},
            "/docs": {"GET": (docs_scope, self._show_page)},
            **{path: {"GET": (docs_scope, self._show_try_page)} for path in self._try_pages},
            # Holds nothing of anybody, and a browser that is sent somewhere sends no token along.
            "/reviews": {"GET": (None, self._show_review_page)},
        }
        if explainer is not None:
            self._routes["/v1/verdicts:explain"] = {"POST": ("verdict", self._explain)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever happens, with a status and without a word of the event."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request = Request.of(scope, receive)
        route, response = "unknown", None  # type: str, Response | EventStream | None
        try:
            route, handler, caller, rest = self._resolve(request)
            response = await handler(request, caller, rest)
        except Exception as error:  # the edge where a request becomes an answer
            response = _refusal(error)
        if not route.endswith("z"):
            self._metrics.count(REQUESTS, route, str(response.status))
            self._metrics.observe(LATENCY, (time.perf_counter() - started) * 1e3, route)
        await response.send(send, head=request.method == "HEAD")

    def _resolve(self, request: Request) -> tuple[str, Handler, Caller | None, str]:
        """Find route and caller; whoever has no token learns nothing, not even which paths there are."""
        path, rest = request.path, ""
        for prefix in _PREFIXES:
            if path.startswith(prefix):
                path, rest = prefix, path.removeprefix(prefix)
        # No id holds U+0000, and a database that is asked for one fails.
        possible = (rest or not path.endswith("/")) and "\0" not in rest
        route = self._routes.get(path) if possible else None
        if route is None:
            self._check(request, "verdict")
            raise Problem(404, "unknown_path", "expected one of the paths in /openapi.json, found another")
        method = "GET" if request.method == "HEAD" else request.method
        known = method in route
        scope, handler = route[method] if known else next(iter(route.values()))
        caller = self._check(request, scope) if scope is not None else None
        if not known:
            allowed = ", ".join(route)
            raise Problem(405, "method", f"expected {allowed}, found another method", headers={"Allow": allowed})
        return path, handler, caller, rest

    def _check(self, request: Request, scope: str) -> Caller:
        try:
            return self._tokens.check(request.header(b"authorization"), scope)
        except (Unauthorized, Forbidden) as error:
            self._metrics.count(REFUSED_CALLERS, "401" if isinstance(error, Unauthorized) else "403")
            raise

    async def _body(self, request: Request, limit: int) -> bytes:
        with self._admission.reading():
            return await request.json_body(limit, self._settings.limits)

    async def _verdict(self, request: Request, caller: Caller | None, _rest: str) -> Response:
        body = await self._body(request, self._settings.limits.body_bytes)
        with self._admission.admitted():
            received_at, deadline = time.time(), self._deadline(request, self._settings.deadlines.default_ms)
            answer = await self._gateway.judge(body, caller=_name(caller), deadline=deadline, received_at=received_at)
        self._traces.verdict(answer.verdict, answer.timings_ms, request.header(b"traceparent"))
        return json_response(answer.verdict, headers=_answer_headers(answer))

    async def _batch(self, request: Request, caller: Caller | None, _rest: str) -> Response:
        body = await self._body(request, self._settings.limits.batch_body_bytes)
        with self._admission.admitted("batch"):
            received_at, deadline = time.time(), self._deadline(request, self._settings.deadlines.batch_ms)
            split = partial(split_events, body, max_events=self._settings.limits.batch_events)
            events = await asyncio.get_running_loop().run_in_executor(None, split)
            places = asyncio.Semaphore(_BATCH_CONCURRENCY)

            async def judge(index: int, event: bytes) -> dict[str, Any]:
                async with places:
                    await asyncio.sleep(0)  # events that come alone go between
                    return {"index": index, **await self._item(event, _name(caller), deadline, received_at)}

            results = await asyncio.gather(*(judge(index, event) for index, event in enumerate(events)))
            return json_response({"results": results})

    async def _item(self, event: bytes, caller: str, deadline: float, received_at: float) -> dict[str, Any]:
        try:
            answer = await self._gateway.judge(
                event, caller=caller, deadline=deadline, received_at=received_at, bulk=True
            )
        except Exception as error:  # the edge where an item becomes a result
            problem = _problem(error)
            return {"status": problem.status, **problem.content()}
        return {"status": 200, "verdict": answer.verdict}

    async def _explain(self, request: Request, caller: Caller | None, _rest: str) -> EventStream:
        body = await self._body(request, self._settings.limits.body_bytes)
        parts = self._explanation(request, body, _name(caller))
        return EventStream(await anext(parts), parts)  # up to the first part a failure is a status

    async def _explanation(self, request: Request, body: bytes, caller: str) -> AsyncGenerator[Named]:
        assert self._explainer is not None, "the route is there only with one"
        with self._admission.admitted("explanation"):
            received_at, deadline = time.time(), self._deadline(request, self._settings.deadlines.explain_ms)
            gone, begun = asyncio.ensure_future(gone_away(request.receive)), False
            explaining = self._explainer.explain(
                body, caller=caller, deadline=deadline, received_at=received_at, gone=gone
            )
            try:
                async with aclosing(explaining) as parts:
                    async for part in parts:
                        begun = True
                        yield part
            except (NotExplained, NotRecorded) as error:
                if not begun:
                    raise
                yield "error", _problem(error).content()
            finally:
                gone.cancel()

    async def _decision(self, _request: Request, _caller: Caller | None, event_id: str) -> Response:
        decision = await self._gateway.explained(event_id)
        if decision is None:
            raise Problem(404, "unknown_event", "expected the id of a decision within the retention time")
        return json_response(decision)

    async def _feedback(self, request: Request, caller: Caller | None, _rest: str) -> Response:
        feedback = parse_feedback(await self._body(request, self._settings.limits.body_bytes))
        known = await self._gateway.recorder.find(feedback.event_id)
        decision = known.decision if known else None
        check_feedback(feedback, decision)
        record = feedback_record(feedback, decision, caller=_name(caller), received_at=time.time())
        try:
            write = partial(self._feedback_log.append, record)
            new = await self._gateway.recorder.once(feedback.subject, feedback.content, write)
        except OSError:
            raise NotRecorded("the feedback could not be written down; try again") from None
        if not new:
            return json_response({"accepted": True, "known": decision is not None}, 202, {"X-Repeated": "1"})
        market = record["market"] if record["market"] in self._gateway.policy.current.markets else "other"
        self._metrics.count(FEEDBACK, market, feedback.outcome)
        return json_response({"accepted": True, "known": decision is not None}, 202)

    async def _policy(self, request: Request, _caller: Caller | None, market: str) -> Response:
        if len(market) != 2 or not (market.isascii() and market.isalpha() and market.isupper()):
            raise EventError("market", "expected two capital letters, such as TH")
        store, at = self._gateway.policy, request.parameters("at").get("at")
        if at is None:
            return json_response(policy_view(store, market, self._gateway.model.identity))
        instant = read_instant({"at": at.replace(" ", "+")}, "at")
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, policy_view_at, store, market, instant)
            self._ledger_fault.works()
            return json_response(found)
        except ValueError:
            raise Problem(404, "no_policy_then", "expected an instant after the first policy, found none") from None
        except OSError as error:
            self._ledger_fault.failed(f"the ledger of policies cannot be read: {error}")
            raise NotRecorded("the ledger of policies cannot be read; try again") from None

    async def _healthy(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        return json_response({"status": "alive"})

    async def _ready(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        """Ready also while model or database are away: the rules answer; not while no decision can be written down."""
        condition, recorder = self._condition(), self._gateway.recorder
        ready = not condition.draining and not recorder.refuses
        model = "answers" if self._gateway.model.available() else "away: the rules answer"
        said = {
            "status": "ready" if ready else "draining" if condition.draining else "decisions cannot be written down",
            "model": model,
            "policy": self._gateway.policy.current.stamp,
            "database": "fails: decisions are only logged"
            if recorder.database_fails
            else "fails: appeals or penalties are refused"
            if condition.appeals_fail
            else "answers",
            "shipper": f"{condition.shipper}: decisions stay on this disk"
            if condition.shipper in ("fails", "down")
            else condition.shipper,
            "tokens": "as the file says" if self._tokens.refused is None else "refused: nobody new is let in",
        }
        if unknown := self._gateway.policy.unknown_killed:
            said["kill_switch"] = f"names no market of the policy: {' '.join(unknown)}"
        return json_response(said, 200 if ready else 503)

    async def _show_metrics(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        text = await self._metrics_text()
        return Response(text.encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    async def _show_description(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        return self._description

    async def _show_page(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        return self._page

    async def _show_try_page(self, request: Request, _caller: Caller | None, _rest: str) -> Response:
        return self._try_pages[request.path]

    async def _show_review_page(self, _request: Request, _caller: Caller | None, _rest: str) -> Response:
        return self._review_page

    def _deadline(self, request: Request, default_ms: float) -> float:
        given = request.header(b"x-deadline-ms")
        # Not all that float() takes: "inf", "1_000" or Arabic digits are a caller's mistake, not a deadline.
        if given is not None and (_MILLISECONDS.fullmatch(given) is None or float(given) <= 0):
            raise EventError("X-Deadline-Ms", "expected a number of milliseconds above 0 in digits, such as 250 or 0.5")
        milliseconds = default_ms if given is None else float(given)
        return time.monotonic() + min(milliseconds, self._settings.deadlines.max_ms) / 1e3


def _name(caller: Caller | None) -> str:
    return caller.name if caller else "nobody"


def _answer_headers(answer: Answer) -> dict[str, str]:
    timing = ", ".join(f"{stage};dur={value:g}" for stage, value in answer.timings_ms.items())
    return {"Server-Timing": timing, "X-Repeated": "1"} if answer.repeated else {"Server-Timing": timing}


def _refusal(error: Exception) -> Response:
    problem = _problem(error)
    return json_response(problem.content(), problem.status, problem.headers)


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case EventError():
            return Problem(422, "invalid", error.problem, path=error.path or None)
        case Overloaded():
            return Problem(429, "overloaded", str(error), headers={"Retry-After": str(error.retry_after_seconds)})
        case AppealConflict():
            return Problem(409, "conflict", str(error))
        case NotAppealable():
            field = error.code if error.code in ("seller_id", "label") else None
            return Problem(422 if field else 409, "invalid" if field else error.code, str(error), path=field)
        case Conflict():
            return Problem(409, "conflict", str(error), path="event_id")
        case NotExplained():
            return Problem(_UNEXPLAINED[error.outcome], error.outcome, str(error))
        case NotRecorded():
            return Problem(503, "not_recorded", str(error), headers={"Retry-After": "1"})
        case Unauthorized():
            return Problem(401, "unauthorized", str(error), headers={"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return Problem(403, "forbidden", str(error))
    # Where, not what: messages of other people's libraries may quote what they were reading.
    where = traceback.extract_tb(error.__traceback__)[-1]
    said = f"a request failed: {type(error).__name__} at {where.filename}:{where.lineno}"
    _fault_of(said).failed(said)
    return Problem(500, "internal", "the request could not be answered; its failure is in the gateway's log")


@cache
def _fault_of(said: str) -> LastingFault:
    """Each failure is told of at once, and seldom for as long as calls go on to fail in the same place."""
    return LastingFault(logger, said)
