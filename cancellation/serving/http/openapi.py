"""The OpenAPI description, made of the contract's own schemas and of examples that this very model answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from cancellation.events.event import parse_event
from cancellation.events.factors import VERDICTS
from cancellation.events.fields import EventError
from cancellation.serving.appeals.settings import AppealSettings
from cancellation.serving.http.appeal_description import appeal_paths, appeal_schemas
from cancellation.serving.http.asgi import Problem
from cancellation.serving.http.operations import ID, JSON, get, path_parameter, post, ref, refusals
from cancellation.serving.records.feedback import OUTCOMES

_COMMON = ("401", "403")
_ABOUT = (
    "Was a cancelled order the seller's doing? A verdict, the factors behind it and what the market's policy makes of "
    "it. All calls but health checks need a bearer token with the scope that they name. Refusals are JSON too: "
    "a code, the field and what was expected, never what the field held."
)
_AT = {
    "name": "at",
    "in": "query",
    "description": "RFC 3339 instant: what was in force then.",
    "schema": {"type": "string", "format": "date-time"},
}
_DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "How long the caller waits; after that the rules have answered.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
}


def description(
    examples: Mapping[str, Any], *, max_batch: int, appeals: AppealSettings, explains: bool = False
) -> dict[str, Any]:
    """Describe the endpoint; `examples` holds `event`, `verdict`, `decision` and `policy`."""
    explanation = _explanation(examples["event"]) if explains else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cancellation verdicts", "version": "1", "description": _ABOUT},
        "paths": {
            **_posts(examples, max_batch),
            **explanation,
            **_gets(examples),
            **appeal_paths(examples["decision"], appeals),
            **_probes(examples["policy"]),
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "CancellationEvent": _schema("cancellation_event"),
                "Verdict": _schema("verdict"),
                "BatchResults": {
                    "type": "object",
                    "required": ["results"],
                    "properties": {"results": {"type": "array"}},
                },
                "Feedback": _feedback(),
                "Accepted": {"type": "object", "required": ["accepted", "known"]},
                **appeal_schemas(),
                "Error": _error(),
            },
        },
    }


def _posts(examples: Mapping[str, Any], max_batch: int) -> dict[str, Any]:
    example, incomplete = examples["verdict"], {"event_id": "incomplete"}
    many = {"events": {"type": "array", "minItems": 1, "maxItems": max_batch, "items": {"type": "object"}}}
    return {
        "/v1/verdicts": post(
            "Judge one cancellation",
            "verdict",
            ref("CancellationEvent"),
            examples["event"],
            _answers(ref("Verdict"), example, "400", "408", "409", "413", "415", "422", "429", "503"),
            _DEADLINE,
        ),
        "/v1/verdicts:batch": post(
            f"Judge up to {max_batch} cancellations, each with its own result",
            "verdict",
            {"type": "object", "required": ["events"], "additionalProperties": False, "properties": many},
            {"events": [examples["event"], incomplete]},
            _answers(
                ref("BatchResults"),
                {
                    "results": [
                        {"index": 0, "status": 200, "verdict": example},
                        {"index": 1, "status": 422, **_refusal(incomplete)},
                    ]
                },
                *("400", "408", "413", "415", "422", "429"),
            ),
            _DEADLINE,
        ),
        "/v1/feedback": post(
            "Confirm, reject or appeal a verdict",
            "feedback",
            ref("Feedback"),
            {"event_id": example["event_id"], "outcome": "rejected", "label": "not_induced", "reviewer": "ops-17"},
            _answers(
                ref("Accepted"),
                {"accepted": True, "known": True},
                *("400", "408", "413", "415", "422", "429", "503"),
                ok="202",
            ),
        ),
    }


def _explanation(event: Mapping[str, Any]) -> dict[str, Any]:
    """The stream of a language model; its example is the form, not an answer of the model that is configured."""
    verdict = {"event_id": event["event_id"], "verdict": "induced", "probabilities": {"induced": 0.8}}
    parts = {
        "verdict": verdict,
        "decision_factors": {"decision_factors": ["chat.asked_to_cancel"]},
        "reasoning": {"reasoning": "The seller asked the buyer to cancel."},
        "done": {"prompt_tokens": 900, "completion_tokens": 60, "cost_usd": 0.0002, "seconds": 2.1},
    }
    shown = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in parts.items())
    about = (
        "Server-sent events as a language model writes them: verdict, decision_factors, reasoning, then done, which "
        "says that it is on record and what it took, or error. The model is shown the event redacted; its "
        "probabilities are not calibrated, null where the model's server gives none, and nothing follows from them."
    )
    answer = {"description": about, "content": {"text/event-stream": {"schema": {"type": "string"}, "example": shown}}}
    errors = ("400", "408", "413", "415", "422", "429", "502", "503", "504")
    return {
        "/v1/verdicts:explain": post(
            "Have a language model explain one cancellation, as a stream",
            "verdict",
            ref("CancellationEvent"),
            event,
            {"200": answer, **refusals(*_COMMON, *errors)},
            {**_DEADLINE, "description": "How long the caller waits; what is there by then was sent."},
        )
    }


def _gets(examples: Mapping[str, Any]) -> dict[str, Any]:
    example = examples["verdict"]
    return {
        "/v1/verdicts/{event_id}": get(
            "The recorded decision with its explanation, within the retention time",
            "verdict",
            [path_parameter("event_id", {"type": "string"}, example["event_id"])],
            _answers({"type": "object"}, examples["decision"], "404", "503"),
        ),
        "/v1/policy/{market}": get(
            "What a market does with scores, now or at an instant",
            "policy",
            [
                path_parameter("market", {"type": "string", "pattern": "^[A-Z]{2}$"}, example["market"]),
                _AT,
            ],
            _answers({"type": "object"}, examples["policy"], "404", "422", "503"),
        ),
    }


def _probes(policy: Mapping[str, Any]) -> dict[str, Any]:
    """What machines ask: figures, and whether it lives."""
    return {
        "/metrics": {
            "get": {
                "summary": "Prometheus metrics",
                "security": [{"bearer": ["policy"]}],
                "responses": {"200": {"description": "Text", "content": {"text/plain": {}}}, **refusals(*_COMMON)},
            }
        },
        "/healthz": _health("Say that the gateway is alive", {"status": "alive"}),
        "/readyz": _health(
            "Say whether it can answer: also without the model, by the rules",
            {
                "status": "ready",
                "model": "answers",
                "policy": policy["policy_version"],
                "database": "answers",
                "shipper": "runs",
                "tokens": "as the file says",
            },
        ),
    }


def _schema(name: str) -> dict[str, Any]:
    text = (resources.files("cancellation.events") / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    del schema["$schema"]
    return schema


def _health(summary: str, example: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["status"]}
    responses = {
        "200": {"description": "Yes", "content": {JSON: {"schema": schema, "example": dict(example)}}},
        "503": {"description": "Not now", "content": {JSON: {"schema": schema}}},
    }
    return {"get": {"summary": summary, "security": [], "responses": responses}}


def _answers(schema: Mapping[str, Any], example: Any, *errors: str, ok: str = "200") -> dict[str, Any]:
    answer = {"description": "Done", "content": {JSON: {"schema": dict(schema), "example": example}}}
    return {ok: answer, **refusals(*_COMMON, *errors)}


def _refusal(event: Mapping[str, Any]) -> dict[str, Any]:
    """What is answered to an event that is no event."""
    try:
        parse_event(event)
    except EventError as error:
        return Problem(422, "invalid", error.problem, path=error.path or None).content()
    raise AssertionError("a refused event is expected")


def _feedback() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["event_id", "outcome"],
        "properties": {
            "event_id": ID,
            "outcome": {"enum": list(OUTCOMES)},
            "label": {"enum": [*VERDICTS, None], "description": "The right verdict, if known."},
            "reviewer": {**ID, "type": ["string", "null"]},
            "market": {"type": ["string", "null"], "pattern": "^[A-Z]{2}$", "description": "Of the event."},
            "verdict": {"enum": [*VERDICTS, None], "description": "What was answered: for when it is long ago."},
        },
    }


def _error() -> dict[str, Any]:
    fields = {"code": {"type": "string"}, "field": {"type": ["string", "null"]}, "message": {"type": "string"}}
    error = {"type": "object", "required": ["code", "message"], "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
