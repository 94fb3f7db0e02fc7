"""The labelled event: what happened, what was annotated, and the truth where it is known."""

from __future__ import annotations

from dataclasses import dataclass

from cancellation.events.event import Event


@dataclass(frozen=True, slots=True)
class LabelledEvent:
    """An event, its label as annotated, and what really happened; `factors` support the true label.

    `message_acts` says what each message of the chat is, as `side.act`, several acts of one message apart by a
    space: aligned with `event.chat`, and known to no event.
    """

    event: Event
    label: str
    factors: tuple[str, ...]
    true_label: str
    cause: str
    language: str
    utc_offset_hours: float
    message_acts: tuple[str, ...]
