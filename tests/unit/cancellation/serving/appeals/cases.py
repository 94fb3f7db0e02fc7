"""Appeals for tests: a decision that a seller may contest, the steps of its case."""

from __future__ import annotations

from typing import Any

from cancellation.serving.appeals.case import OPEN, SELLER, WITH_REVIEWER, Case, Entry
from cancellation.serving.appeals.store import AppealStore
from cancellation.serving.records.people import PersonKey
from tests.builders.decision_records import NOON, decision_record

KEY = PersonKey(b"k" * 32)
CHAT = [
    {"at": "2026-10-31T11:00:00Z", "sender": "buyer", "text": "still there?"},
    {"at": "2026-10-31T11:05:00Z", "sender": "seller", "text": "sorry, please cancel"},
]


def contested(number: int = 0, *, seller: str = "s-1", **changes: Any) -> dict[str, Any]:
    """A decision record, as it is kept with a case."""
    event = {"order_id": f"o-{number}", "seller_id": seller, "buyer_id": "b-1", "chat": CHAT}
    return decision_record(number, people=KEY.people(event), event=KEY.hidden(event), **changes)


def lodged(at: float = NOON + 60, reason: str = "The buyer wanted it.") -> Entry:
    """A seller's entry."""
    return Entry(at, OPEN, SELLER, "token-1", reason)


def open_case(store: AppealStore, number: int = 0, *, seller: str = "s-1", deadline: float = NOON + 1000) -> Case:
    """A case of a decision of its own."""
    entry, decision = lodged(), contested(number, seller=seller)
    case, new = store.open(f"i-{number}", decision, entry, deadline=deadline, before=lambda _: None)
    assert new
    return case


def take(store: AppealStore, case: Case, reviewer: str, from_whom: str | None = None) -> tuple[Case, bool]:
    """A reviewer takes it."""
    entry = Entry(NOON + 120, WITH_REVIEWER, reviewer, "token-2", "")
    found = store.append(
        case.appeal_id, entry, wanted=lambda one: one.takes(reviewer, from_whom), before=lambda _: None
    )
    assert found is not None
    return found


def decide(store: AppealStore, case: Case, reviewer: str, state: str, reason: str = "I looked.") -> tuple[Case, bool]:
    """A reviewer decides."""
    label = "not_induced" if state == "overturned" else None
    entry = Entry(NOON + 180, state, reviewer, "token-2", reason, label)
    found = store.append(case.appeal_id, entry, wanted=lambda one: one.decides(entry), before=lambda _: None)
    assert found is not None
    return found
