"""The calls about appeals: for the tools of sellers (scope `appeal`), and for those of reviewers (scope `review`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from cancellation.serving.answering.appeals import Appeals
from cancellation.serving.appeals.case import Case, case_view
from cancellation.serving.appeals.messages import market_or_none, parse_appeal, parse_step, read_day
from cancellation.serving.appeals.statement import statement_of_reasons
from cancellation.serving.http.asgi import Problem, Request, Response, json_response
from cancellation.serving.http.tokens import Caller

Handler = Callable[[Request, Caller | None, str], Awaitable[Response]]

_UNKNOWN_EVENT = (
    "expected the id of a decision within the retention time, or with market and day (UTC) of one in the archive"
)


class AppealCalls:
    """Handlers, and where they are."""

    def __init__(self, appeals: Appeals, body: Callable[[Request], Awaitable[bytes]]) -> None:
        """Take what does the work, and what reads a request's body within limits."""
        self._appeals = appeals
        self._body = body

    def routes(self) -> dict[str, dict[str, tuple[str, Handler]]]:
        """Give scope and handler by path and method."""
        return {
            "/v1/appeals": {"POST": ("appeal", self._open)},
            "/v1/appeals/": {"GET": ("appeal", self._case)},
            "/v1/statements/": {"GET": ("appeal", self._statement)},
            "/v1/reviews": {"GET": ("review", self._queue)},
            "/v1/reviews/": {"GET": ("review", self._review), "POST": ("review", self._step)},
        }

    async def _open(self, request: Request, caller: Caller | None, _rest: str) -> Response:
        appeal = parse_appeal(await self._body(request))
        now = await self._appeals.now()  # before, not after: what is written is no longer refused
        found = await self._appeals.open(appeal, caller=_name(caller), now=now)
        if found is None:
            raise Problem(404, "unknown_event", _UNKNOWN_EVENT)
        case, new = found
        place = {"Location": f"/v1/appeals/{case.appeal_id}"}
        view = case_view(case, now)
        return json_response(view, 201 if new else 200, place if new else {**place, "X-Repeated": "1"})

    async def _case(self, _request: Request, _caller: Caller | None, appeal_id: str) -> Response:
        return json_response(await self._view(await self._find(appeal_id)))

    async def _statement(self, request: Request, _caller: Caller | None, event_id: str) -> Response:
        given = request.parameters("market", "day")
        market, day = market_or_none(given.get("market")), read_day(given.get("day"))
        statement = await self._appeals.statement(event_id, market=market, day=day)
        if statement is None:
            raise Problem(404, "unknown_event", _UNKNOWN_EVENT)
        return json_response(statement)

    async def _queue(self, request: Request, _caller: Caller | None, _rest: str) -> Response:
        cases = await self._appeals.queue(market_or_none(request.parameters("market").get("market")))
        now = await self._appeals.now()
        views = [case_view(case, now) for case in cases]
        return json_response({"overdue": sum(view["overdue"] for view in views), "appeals": views})

    async def _review(self, _request: Request, _caller: Caller | None, appeal_id: str) -> Response:
        return json_response(await self._review_view(await self._find(appeal_id)))

    async def _step(self, request: Request, caller: Caller | None, appeal_id: str) -> Response:
        step = parse_step(await self._body(request))
        now = await self._appeals.now()
        found = await self._appeals.step(appeal_id, step, caller=_name(caller), now=now)
        if found is None:
            raise _unknown_appeal()
        return json_response(case_view(found[0], now), headers=None if found[1] else {"X-Repeated": "1"})

    async def _find(self, appeal_id: str) -> Case:
        case = await self._appeals.find(appeal_id)
        if case is None:
            raise _unknown_appeal()
        return case

    async def _view(self, case: Case) -> dict[str, Any]:
        return case_view(case, await self._appeals.now())

    async def _review_view(self, case: Case) -> dict[str, Any]:
        """What a reviewer has to see: the case, the reasons that the seller was given, the event as it was logged."""
        verdict = case.decision["verdict"]
        told = {name: verdict[name] for name in ("score", "probabilities", "source", "policy_version")}
        statement = statement_of_reasons(case.decision, self._appeals.settings, case)
        return {**await self._view(case), **told, "statement": statement, "event": case.decision["event"]}


def _unknown_appeal() -> Problem:
    return Problem(404, "unknown_appeal", "expected the id of an appeal, found no such one")


def _name(caller: Caller | None) -> str:
    return caller.name if caller else "nobody"
