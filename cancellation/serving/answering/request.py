"""One event on its way through the gateway: what came, what the model was given and said, what is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cancellation.events.event import Event
from cancellation.serving.inference.messages import Reply
from cancellation.text.encoding import EncodedEvent


class Conflict(Exception):  # noqa: N818
    """An event whose id was used for another event before."""


class NotRecorded(Exception):  # noqa: N818
    """What could not be written down, so that it must not be sent, or not be read where it is written."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict to send, how long its stages took (ms), and whether it was given before."""

    verdict: dict[str, Any]
    timings_ms: dict[str, float]
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class EventRequest:
    """One event as it came."""

    event: Event
    mapping: Mapping[str, Any]
    body: bytes
    fingerprint: str
    caller: str
    deadline: float
    received_at: float
    started: float
    parse_ms: float
    bulk: bool
    large: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What was given to the model, and what it said."""

    encoded: EncodedEvent
    reply: Reply
    encode_ms: float
