"""The calls about appeals in the OpenAPI description; the example is a case made of the example's own decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cancellation.events.factors import VERDICTS
from cancellation.serving.appeals.case import OPEN, OVERTURNED, SELLER, STATES, WITH_REVIEWER, Case, Entry, case_view
from cancellation.serving.appeals.messages import MAX_REASON, STEPS
from cancellation.serving.appeals.settings import AppealSettings
from cancellation.serving.appeals.statement import is_owed, statement_of_reasons
from cancellation.serving.http.operations import ID, JSON, get, path_parameter, post, ref, refusals

_HOUR = 3600.0
_DAY = {"type": "string", "format": "date"}
_MARKET = {"type": "string", "pattern": "^[A-Z]{2}$"}
_REASON = {"type": "string", "minLength": 1, "maxLength": MAX_REASON, "pattern": r"\S"}
_OF_MARKET = {
    "name": "market",
    "in": "query",
    "description": "Of the decision; with `day` it is looked for in the archive too.",
    "schema": _MARKET,
}
_OF_DAY = {
    "name": "day",
    "in": "query",
    "description": "On which it was decided, in UTC.",
    "schema": _DAY,
}


def appeal_paths(decision: Mapping[str, Any], settings: AppealSettings) -> dict[str, Any]:
    """Describe the calls, with an example's decision as if something had followed from it."""
    verdict = decision["verdict"]
    action = verdict["action"] if is_owed(decision) else "investigate"
    decision = {**decision, "verdict": {**verdict, "action": action}}
    opened, decided = _cases(decision)
    case, now = case_view(opened, decision["received_at"] + _HOUR), decision["received_at"] + 9 * _HOUR
    appeal = {"event_id": opened.event_id, "seller_id": "seller-17", "reason": opened.entries[0].reason}
    step = {"step": "overturn", "reviewer": "ops-17", "label": "not_induced", "reason": decided.entries[-1].reason}
    named = path_parameter("appeal_id", ID, opened.appeal_id)
    body_errors = ("400", "408", "413", "415", "422", "429", "503")
    reasons = statement_of_reasons(decision, settings, None)
    review = {**case_view(opened, now), "statement": reasons, "event": decision["event"]}
    return {
        "/v1/appeals": post(
            "Appeal a decision, as its seller; the same appeal again gives the same case",
            "appeal",
            ref("Appeal"),
            appeal,
            {
                "201": _answer("There is a case", case),
                "200": _answer("There was one of the same words", case),
                **refusals("401", "403", "404", "409", *body_errors),
            },
        ),
        "/v1/appeals/{appeal_id}": get(
            "Where an appeal stands, and how it came there",
            "appeal",
            [named],
            {"200": _answer("Done", case), **refusals("401", "403", "404", "503")},
        ),
        "/v1/statements/{event_id}": get(
            "The statement of reasons for a decision: what, how, on which ground, which evidence, how to contest",
            "appeal",
            [path_parameter("event_id", {"type": "string"}, opened.event_id), _OF_MARKET, _OF_DAY],
            {
                "200": _answer("Done", reasons, {"type": "object", "required": ["title", "what", "contest", "text"]}),
                **refusals("401", "403", "404", "409", "422", "503"),
            },
        ),
        "/v1/reviews": get(
            "The appeals that are not decided, what is overdue first",
            "review",
            [{**_OF_MARKET, "description": "Only this one's."}],
            {
                "200": _answer(
                    "Done", {"overdue": 0, "appeals": [case]}, {"type": "object", "required": ["overdue", "appeals"]}
                ),
                **refusals("401", "403", "422", "503"),
            },
        ),
        "/v1/reviews/{appeal_id}": {
            **get(
                "An appeal as a reviewer sees it, with the event as it was logged",
                "review",
                [named],
                {"200": _answer("Done", review), **refusals("401", "403", "404", "503")},
            ),
            **post(
                "Take an appeal, or decide on it; of two who do at once one gets 409",
                "review",
                ref("ReviewStep"),
                step,
                {
                    "200": _answer("Done", case_view(decided, now)),
                    **refusals("401", "403", "404", "409", *body_errors),
                },
                named,
            ),
        },
    }


def appeal_schemas() -> dict[str, Any]:
    """Describe what the calls take and give."""
    return {
        "Appeal": {
            "type": "object",
            "additionalProperties": False,
            "required": ["event_id", "seller_id", "reason"],
            "properties": {
                "event_id": ID,
                "seller_id": {**ID, "description": "Whom the decision is about."},
                "reason": {**_REASON, "description": "The seller's words; contact data is taken out of them."},
                "market": {**_MARKET, "type": ["string", "null"]},
                "day": {**_DAY, "type": ["string", "null"], "description": "Of the decision, in UTC: finds old ones."},
            },
        },
        "ReviewStep": {
            "oneOf": [
                _step("take", {"takes_over_from": {**ID, "type": ["string", "null"]}}, required=()),
                _step("uphold", {"reason": _REASON}, required=("reason",)),
                _step("overturn", {"reason": _REASON, "label": {"enum": list(VERDICTS)}}, required=("reason", "label")),
            ]
        },
        "AppealCase": {
            "type": "object",
            "required": ["appeal_id", "event_id", "market", "state", "deadline", "overdue", "history"],
            "properties": {"state": {"enum": list(STATES)}},
        },
    }


def _step(name: str, fields: Mapping[str, Any], *, required: tuple[str, ...]) -> dict[str, Any]:
    assert name in STEPS
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["step", "reviewer", *required],
        "properties": {"step": {"const": name}, "reviewer": ID, **fields},
    }


def _answer(about: str, example: Any, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    content = {"schema": schema or ref("AppealCase"), "example": example}
    return {"description": about, "content": {JSON: content}}


def _cases(decision: Mapping[str, Any]) -> tuple[Case, Case]:
    """An example's case when it was opened, and when it was decided."""
    at = decision["received_at"]
    said = "The buyer asked me to cancel, as the second message of our chat shows."
    entry = Entry(at + _HOUR, OPEN, SELLER, "", said)
    deadline = at + AppealSettings().decide_days * 24 * _HOUR
    opened = Case("appeal-0123456789abcdef", decision["event_id"], decision["market"], 1, deadline, decision, (entry,))
    taken = opened.with_entry(Entry(at + 2 * _HOUR, WITH_REVIEWER, "ops-17", "", ""))
    why = "The chat shows that the buyer wanted the cancellation."
    return opened, taken.with_entry(Entry(at + 3 * _HOUR, OVERTURNED, "ops-17", "", why, "not_induced"))
