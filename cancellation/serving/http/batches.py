"""A batch's body in, its events' own bytes out: what is wrong inside one event is that event's refusal alone."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from cancellation.events.fields import EventError, check_object, decode_json, type_name

_FIELDS = frozenset({"events"})
_SPACE = re.compile(r"[ \t\n\r]*")
# Six letters, each of which JSON lets be spelt in six characters (\u0065).
_HEAD = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*("(?:[^"\\]|\\.){6,36}")[ \t\n\r]*:[ \t\n\r]*\[')
_TAIL = re.compile(r"[ \t\n\r]*\][ \t\n\r]*\}[ \t\n\r]*")
# Possessive, and a string that does not end is one up to the body's end: else its every \" would begin another search.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_LENIENT = json.JSONDecoder()
"""Finds where a value ends; NaN and repeated keys are left for the event's own refusal."""


def split_events(body: bytes, *, max_events: int) -> list[bytes]:
    """Give the bytes of each event of a batch `{"events": [...]}`, in their order; each may still be refused.

    Raises:
        EventError: If the batch itself is no JSON, has another form, or not 1 to `max_events` events.
    """
    text = _decoded(body)
    head = _HEAD.match(text)
    if head is None or not _is_events(head[1]):
        _refuse(body)
    events: list[bytes] = []
    place = _SPACE.match(text, head.end()).end()
    if text[place : place + 1] != "]":
        while True:
            end = _end_of_value(text, place)
            events.append(text[place:end].encode())
            place = _SPACE.match(text, end).end()
            if text[place : place + 1] != ",":
                break
            place = _SPACE.match(text, place + 1).end()
    if _TAIL.fullmatch(text, place) is None:
        _refuse(body, place)
    if not 1 <= len(events) <= max_events:
        raise EventError("events", f"expected 1 to {max_events} events, found {len(events)}")
    return events


def _is_events(key: str) -> bool:
    try:
        return json.loads(key) == "events"
    except json.JSONDecodeError:
        return False


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EventError("", f"expected UTF-8, byte {error.start} is none") from None


def _end_of_value(text: str, start: int) -> int:
    try:
        return _LENIENT.raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        raise EventError("", f"expected JSON, found a syntax error at character {error.pos}") from None
    except (RecursionError, ValueError):  # too deep, or an integer of thousands of digits: a refusal of this event
        return _end_of_brackets(text, start)


def _end_of_brackets(text: str, start: int) -> int:
    depth = 0
    for token in _STRUCTURE.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
        if depth <= 0:
            return token.end()
    raise EventError("", "expected JSON, found its end inside an event")


def _refuse(body: bytes, place: int = 0) -> NoReturn:
    """Say what is wrong with a batch as a whole."""
    value = decode_json(body)
    check_object(value, _FIELDS, _FIELDS)
    if not isinstance(value["events"], list):
        raise EventError("events", f"expected an array, found {type_name(value['events'])}")
    raise EventError("", f"expected JSON, found a syntax error at character {place}")
