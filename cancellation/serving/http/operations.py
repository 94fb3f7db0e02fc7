"""What the description of a call is made of, in OpenAPI's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JSON = "application/json"
ID = {"type": "string", "minLength": 1, "maxLength": 128}
_ERRORS = {
    "400": "The request is not HTTP as expected",
    "401": "No token, or an unknown one",
    "403": "The token lacks the scope",
    "404": "Nothing is known under this name",
    "408": "The body comes too slowly",
    "409": "It contradicts what is there, as the message says",
    "413": "The body is too large",
    "415": "The content type is not application/json",
    "422": "A field is refused, and named",
    "429": "Too many requests wait; the header Retry-After says when to come back",
    "502": "The language model failed",
    "503": "It could not be written down or read, or the budget is spent",
    "504": "The language model was too slow",
}


def ref(name: str) -> dict[str, str]:
    """Point to a schema of the description."""
    return {"$ref": f"#/components/schemas/{name}"}


def path_parameter(name: str, schema: Mapping[str, Any], example: str) -> dict[str, Any]:
    """Describe a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": dict(schema), "example": example}


def post(
    summary: str, scope: str, schema: Mapping[str, Any], example: Any, responses: Mapping[str, Any], *parameters: Any
) -> dict[str, Any]:
    """Describe a POST."""
    body = {"required": True, "content": {JSON: {"schema": dict(schema), "example": example}}}
    operation = {"summary": summary, "security": [{"bearer": [scope]}], "parameters": list(parameters)}
    return {"post": {**operation, "requestBody": body, "responses": dict(responses)}}


def get(summary: str, scope: str, parameters: list[Any], responses: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a GET."""
    security = [{"bearer": [scope]}]
    return {"get": {"summary": summary, "security": security, "parameters": parameters, "responses": dict(responses)}}


def refusals(*statuses: str) -> dict[str, Any]:
    """Describe what is answered instead."""
    content = {JSON: {"schema": ref("Error")}}
    return {status: {"description": _ERRORS[status], "content": content} for status in sorted(statuses)}
