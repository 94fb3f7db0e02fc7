"""What sellers' and reviewers' tools send: an appeal, a step of its case. Parsed, checked, contact data taken out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from cancellation.contact_data.redaction import redact
from cancellation.events.factors import VERDICTS
from cancellation.events.fields import (
    EventError,
    check_object,
    decode_json,
    read_choice,
    read_identifier,
    read_market,
    read_stored_identifier,
    read_stored_text,
)
from cancellation.serving.appeals.case import OVERTURNED, UPHELD, WITH_REVIEWER
from cancellation.serving.records.people import PersonKey

MAX_REASON = 4000
STEPS = {"take": WITH_REVIEWER, "uphold": UPHELD, "overturn": OVERTURNED}
"""What a reviewer can do, and the state that it leads to."""

_APPEAL_REQUIRED = frozenset({"event_id", "seller_id", "reason"})
_APPEAL_FIELDS = _APPEAL_REQUIRED | {"market", "day"}
_STEP_REQUIRED = frozenset({"step", "reviewer"})
_STEP_FIELDS = {
    "take": _STEP_REQUIRED | {"takes_over_from"},
    "uphold": _STEP_REQUIRED | {"reason"},
    "overturn": _STEP_REQUIRED | {"reason", "label"},
}


@dataclass(frozen=True, slots=True)
class Appeal:
    """A seller's objection. `market` and `day` find a decision that is in the archive alone."""

    event_id: str
    seller_id: str
    reason: str
    market: str | None
    day: date | None

    def identity(self, key: PersonKey) -> str:
        """Name the content: what is sent twice is one appeal. Keyed, as there are people in it."""
        return key.digest("appeal", json.dumps([self.event_id, self.seller_id, self.reason]))


@dataclass(frozen=True, slots=True)
class Step:
    """What a reviewer does with a case."""

    state: str
    reviewer: str
    reason: str
    label: str | None
    takes_over_from: str | None


def parse_appeal(body: bytes) -> Appeal:
    """Parse an appeal.

    Raises:
        EventError: With the path of the field that is refused.
    """
    value = decode_json(body)
    check_object(value, _APPEAL_FIELDS, _APPEAL_REQUIRED)
    return Appeal(
        read_stored_identifier(value, "event_id"),
        read_identifier(value, "seller_id"),
        _reason(value),
        market_or_none(value.get("market")),
        read_day(value.get("day")),
    )


def parse_step(body: bytes) -> Step:
    """Parse a reviewer's step.

    Raises:
        EventError: With the path of the field that is refused.
    """
    value = decode_json(body)
    check_object(value, frozenset[str]().union(*_STEP_FIELDS.values()), _STEP_REQUIRED)
    step = read_choice(value, "step", tuple(STEPS))
    fields = _STEP_FIELDS[step]
    check_object(value, fields, fields - {"takes_over_from"})
    return Step(
        STEPS[step],
        read_stored_identifier(value, "reviewer"),
        _reason(value) if "reason" in fields else "",
        read_choice(value, "label", VERDICTS) if "label" in fields else None,
        read_stored_identifier(value, "takes_over_from") if value.get("takes_over_from") is not None else None,
    )


def market_or_none(value: str | None) -> str | None:
    """Read a market's code that may be missing.

    Raises:
        EventError: If it is none.
    """
    return None if value is None else read_market({"market": value})


def read_day(value: Any) -> date | None:
    """Read a day that may be missing.

    Raises:
        EventError: If it is none.
    """
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except (ValueError, TypeError):
        raise EventError("day", "expected a day such as 2026-11-22, in UTC") from None


def _reason(value: Mapping[str, Any]) -> str:
    text = redact(read_stored_text(value, "reason", MAX_REASON)).strip()
    if not text:  # looked at last, as redaction takes out what cannot be seen
        raise EventError("reason", "expected at least one word, found none")
    return text
