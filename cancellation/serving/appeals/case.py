"""A case: the decision that is appealed, and entries that say who brought it to which state, when and why.

Nothing of a case is ever changed. Its state is its last entry's; who wants to move it appends, and of two who append at
once the database lets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

OPEN, WITH_REVIEWER, UPHELD, OVERTURNED = "open", "with_reviewer", "upheld", "overturned"
STATES = (OPEN, WITH_REVIEWER, UPHELD, OVERTURNED)
"""Waits for a reviewer; has one; the decision stands; the decision is taken back."""

WAITING = (OPEN, WITH_REVIEWER)
_SAME_SECONDS = 1e-3
"""The archive keeps microseconds of `received_at`, the gateways what the clock gives."""

SELLER = "seller"
"""Author of the first entry."""


class AppealConflict(RuntimeError):  # noqa: N818
    """What was asked does not fit what the case has become; says what it is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of a case."""

    at: float
    """Epoch seconds."""
    state: str
    """The one that it led to."""
    author: str
    """`SELLER`, or a reviewer's id."""
    caller: str
    """Name of the token that it came with."""
    reason: str
    """What the author said, contact data taken out; of who takes a case, from whom."""
    label: str | None = None
    """The right verdict, of an entry that decides."""


@dataclass(frozen=True, slots=True)
class Case:
    """One appeal against one decision."""

    appeal_id: str
    event_id: str
    market: str
    round: int
    """1 for the event's first appeal, 2 for one after that was turned down, or against a decision made later."""
    deadline: float
    """Epoch seconds until which it has to be decided."""
    decision: Mapping[str, Any]
    """The decision record that it is about, as it was logged, its factors with their evidence."""
    entries: tuple[Entry, ...]

    @property
    def state(self) -> str:
        """Where it stands."""
        return self.entries[-1].state

    @property
    def reviewer(self) -> str | None:
        """Who has it, or had it last."""
        return next((entry.author for entry in reversed(self.entries) if entry.author != SELLER), None)

    def is_about(self, decision: Mapping[str, Any]) -> bool:
        """Whether this very decision was appealed, not one before it on the event, or on another of the same id."""
        return abs(self.decision["received_at"] - decision["received_at"]) < _SAME_SECONDS

    def is_overdue(self, now: float) -> bool:
        """Whether it should have been decided by now."""
        return self.state in WAITING and now > self.deadline

    def with_entry(self, entry: Entry) -> Case:
        """The case as it is with one entry more."""
        return replace(self, entries=(*self.entries, entry))

    def takes(self, reviewer: str, from_whom: str | None) -> bool:
        """Whether a reviewer's taking it changes anything; False if it is theirs already.

        Raises:
            AppealConflict: If it is decided, or is with another than `from_whom`.
        """
        if self.state not in WAITING:
            raise AppealConflict(f"the appeal is {self.state} already; there is nothing to take")
        if self.state == WITH_REVIEWER and self.reviewer == reviewer:
            return False
        holder = self.reviewer if self.state == WITH_REVIEWER else None
        if holder != from_whom:
            found = f"with {holder}" if holder else "with nobody"
            raise AppealConflict(f"the appeal is {found}; look at it again, and name that reviewer to take it over")
        return True

    def decides(self, entry: Entry) -> bool:
        """Whether an entry that decides changes anything; False if it says again what stands.

        Raises:
            AppealConflict: If it is decided otherwise, or is not with the author.
        """
        last = self.entries[-1]
        if last.state not in WAITING:
            said = (last.state, last.author, last.reason, last.label)
            if said == (entry.state, entry.author, entry.reason, entry.label):
                return False
            raise AppealConflict(f"the appeal was {last.state} by {last.author} before; a decision is not changed")
        if self.state == OPEN:
            raise AppealConflict("the appeal is with nobody; take it first, then decide")
        if self.reviewer != entry.author:
            raise AppealConflict(f"the appeal is with {self.reviewer}; take it over first, then decide")
        return True


def case_view(case: Case, now: float) -> dict[str, Any]:
    """Give a case as the endpoint answers it: where it stands and how it came there."""
    return {
        "appeal_id": case.appeal_id,
        "event_id": case.event_id,
        "market": case.market,
        "round": case.round,
        "state": case.state,
        "reviewer": case.reviewer,
        "opened_at": instant(case.entries[0].at),
        "deadline": instant(case.deadline),
        "overdue": case.is_overdue(now),
        "decision": {
            **{name: case.decision["verdict"][name] for name in ("verdict", "action", "model_version")},
            "decided_at": instant(case.decision["received_at"]),
        },
        "history": [
            {
                "at": instant(entry.at),
                "state": entry.state,
                "author": entry.author,
                "reason": entry.reason,
                "label": entry.label,
            }
            for entry in case.entries
        ],
    }


def instant(seconds: float) -> str:
    """Write epoch seconds as RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
