"""Cases in a database that all gateways share. Rows are added, and removed only with a person who is forgotten.

Of several gateways that append to a case at once one gets through: an entry's number is its place in the case, and the
database gives no place twice. The same holds for the rounds of an event.

A case's state, which its last entry says, stands beside it as well: what waits is found by an index of that alone,
however many cases were decided before.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cancellation.serving.appeals.case import UPHELD, WAITING, AppealConflict, Case, Entry
from cancellation.serving.records.decision_log import encode_record
from cluster.database.interface import Database, Execute

_WAITING = f"state IN ({', '.join(repr(state) for state in WAITING)})"
LAYOUT = f"""
CREATE TABLE IF NOT EXISTS appeals (
    number {{number}},
    appeal_id TEXT NOT NULL UNIQUE,
    identity TEXT NOT NULL UNIQUE,
    event_id TEXT NOT NULL,
    round INTEGER NOT NULL,
    market TEXT NOT NULL,
    deadline DOUBLE PRECISION NOT NULL,
    state TEXT NOT NULL,
    decision {{bytes}} NOT NULL, -- JSON, deflated
    UNIQUE (event_id, round)
);
CREATE INDEX IF NOT EXISTS appeals_waiting ON appeals (deadline, number) WHERE {_WAITING};
CREATE TABLE IF NOT EXISTS appeal_entries (
    appeal_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    state TEXT NOT NULL,
    author TEXT NOT NULL,
    caller TEXT NOT NULL,
    reason TEXT NOT NULL,
    label TEXT,
    PRIMARY KEY (appeal_id, place)
);
"""
_CASES = "SELECT appeal_id, event_id, market, round, deadline, decision FROM appeals"
_ENTRIES = "SELECT at, state, author, caller, reason, label FROM appeal_entries WHERE appeal_id = ? ORDER BY place"
_OPEN = (
    "INSERT INTO appeals (appeal_id, identity, event_id, round, market, deadline, state, decision) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_APPEND = (
    "INSERT INTO appeal_entries (appeal_id, place, at, state, author, caller, reason, label) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_MOVE = "UPDATE appeals SET state = ? WHERE appeal_id = ?"
_COUNT = f"""
SELECT market, state, COUNT(*), SUM(CASE WHEN deadline < ? THEN 1 ELSE 0 END)
FROM appeals WHERE {_WAITING} GROUP BY market, state
"""
_NEXT = "SELECT number, appeal_id, event_id, decision FROM appeals WHERE number > ? ORDER BY number LIMIT ?"
_READ_AT_ONCE = 200
_PROBE = "probe"  # no appeal's id
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """Cases of one market and state that are not decided."""

    market: str
    state: str
    cases: int
    overdue: int


class AppealStore:
    """For any number of threads. Whatever the database cannot do is an OSError."""

    def __init__(self, database: Database, *, clock: Callable[[], float] | None = None) -> None:
        """Take over a database that has the tables of `LAYOUT`; it stays its opener's to close."""
        self.database = database
        self._clock = clock

    def now(self) -> float:
        """Tell the database's time: a deadline does not depend on which gateway's own clock is off."""
        if self._clock is not None:
            return self._clock()
        with self.database.reading() as execute:
            return execute(f"SELECT {self.database.now}").fetchone()[0]

    def open(
        self,
        identity: str,
        decision: Mapping[str, Any],
        entry: Entry,
        *,
        deadline: float,
        before: Callable[[Case], object],
    ) -> tuple[Case, bool]:
        """Open a case, unless the same appeal has one; give it, and whether it is new.

        Cases of earlier decisions, as on an event that came again after `retention_hours`, are no obstacle.

        Args:
            identity: Of the appeal's content.
            decision: The decision record that is appealed.
            entry: The seller's.
            deadline: Epoch seconds.
            before: Called with a new case before it becomes visible, such as to write the logs; when it raises,
                there is no case.

        Raises:
            AppealConflict: If another appeal against the decision is under way, or was granted.
        """
        event_id = decision["event_id"]
        with self.database.writing() as execute:
            # The event's cases before the appeal's own: a case that another gateway makes visible in between is then
            # known for the same appeal, and not taken for a second one.
            earlier = self._cases(execute, f"{_CASES} WHERE event_id = ? ORDER BY round", (event_id,))
            known = self._one(execute, "identity = ?", identity)
            if known is not None and not known.is_about(decision):  # the same words against a later decision
                identity = f"{identity}@{decision['received_at']:.3f}"
                known = self._one(execute, "identity = ?", identity)
            if known is not None:
                return known, False
            same = [case for case in earlier if case.is_about(decision)]
            if same and same[-1].state != UPHELD:
                raise _second(same[-1])
            case = Case(
                f"appeal-{secrets.token_hex(8)}",
                event_id,
                decision["market"],
                len(earlier) + 1,
                deadline,
                dict(decision),
                (entry,),
            )
            content = zlib.compress(encode_record(decision), _LEVEL)
            row = (case.appeal_id, identity, event_id, case.round, case.market, deadline, case.state, content)
            if execute(_OPEN, row).rowcount == 0:  # another gateway was first, at this moment
                if (known := self._one(execute, "identity = ?", identity)) is not None:
                    return known, False
                raise _second(self._cases(execute, f"{_CASES} WHERE event_id = ? ORDER BY round", (event_id,))[-1])
            self._append(execute, case, 0)
            before(case)
        return case, True

    def append(
        self,
        appeal_id: str,
        entry: Entry,
        *,
        wanted: Callable[[Case], bool],
        before: Callable[[Case], object],
    ) -> tuple[Case, bool] | None:
        """Append an entry to a case; give the case as it is then, and whether it has changed. None: there is none.

        Args:
            appeal_id: The case's.
            entry: The entry.
            wanted: Says of the case as it is whether the entry changes it; may raise AppealConflict.
            before: As of `open`, with the case as it will be.

        Raises:
            AppealConflict: As `wanted` says, or if somebody else appended at this moment.
        """
        with self.database.writing() as execute:
            case = self._one(execute, "appeal_id = ?", appeal_id)
            if case is None:
                return None
            if not wanted(case):
                return case, False
            changed = case.with_entry(entry)
            if not self._append(execute, changed, len(case.entries)):  # another was first, perhaps with the same step
                moved = self._one(execute, "appeal_id = ?", appeal_id)
                if moved is not None and not wanted(moved):
                    return moved, False
                raise AppealConflict("somebody else moved the appeal at this moment; look at it again")
            execute(_MOVE, (changed.state, appeal_id))
            before(changed)
        return changed, True

    def get(self, appeal_id: str) -> Case | None:
        """Find a case."""
        with self.database.reading() as execute:
            return self._one(execute, "appeal_id = ?", appeal_id)

    def cases_of(self, event_id: str) -> list[Case]:
        """Find an event's cases, the latest last."""
        with self.database.reading() as execute:
            return self._cases(execute, f"{_CASES} WHERE event_id = ? ORDER BY round", (event_id,))

    def queue(self, market: str | None = None, *, limit: int = 200) -> list[Case]:
        """Give cases that are not decided, of one market or of all, the nearest deadline first: so what is overdue."""
        of_market, values = ("AND market = ?", [market]) if market else ("", [])
        statement = f"{_CASES} WHERE {_WAITING} {of_market} ORDER BY deadline, number LIMIT ?"
        with self.database.reading() as execute:
            return self._cases(execute, statement, [*values, limit])

    def waiting(self) -> list[Waiting]:
        """Count the cases that are not decided."""
        now = self.now()
        with self.database.reading() as execute:
            return [Waiting(*row) for row in execute(_COUNT, (now,)).fetchall()]

    def about(self, digests: Collection[str], *, remove: bool) -> list[str]:
        """Give the events whose cases hold one of some people's digests; with `remove`, the cases go."""
        marks, number, event_ids = [digest.encode() for digest in digests], 0, []
        while True:
            with self.database.reading() as execute:
                rows = execute(_NEXT, (number, _READ_AT_ONCE)).fetchall()
            if not rows:
                return event_ids
            number = rows[-1][0]
            theirs = [row for row in rows if any(mark in zlib.decompress(row[3]) for mark in marks)]
            event_ids += [row[2] for row in theirs]
            for _, appeal_id, _, _ in theirs if remove else ():
                with self.database.writing() as execute:
                    execute("DELETE FROM appeal_entries WHERE appeal_id = ?", (appeal_id,))
                    execute("DELETE FROM appeals WHERE appeal_id = ?", (appeal_id,))

    def can_read(self) -> None:
        """Read nothing; OSError if that fails."""
        with self.database.reading() as execute:
            execute("SELECT 1 FROM appeals LIMIT 1").fetchone()

    def can_write(self) -> None:
        """Write a row and take it away; OSError if that fails. On a full disk writing nothing would go well."""
        with self.database.writing() as execute:
            execute(_APPEND, (_PROBE, 0, 0.0, "", "", "", "", None))
            execute("DELETE FROM appeal_entries WHERE appeal_id = ?", (_PROBE,))

    def _append(self, execute: Execute, case: Case, place: int) -> bool:
        entry = case.entries[place]
        row = (entry.at, entry.state, entry.author, entry.caller, entry.reason, entry.label)
        return execute(_APPEND, (case.appeal_id, place, *row)).rowcount == 1

    def _one(self, execute: Execute, condition: str, value: str) -> Case | None:
        found = self._cases(execute, f"{_CASES} WHERE {condition}", (value,))
        return found[0] if found else None

    def _cases(self, execute: Execute, statement: str, values: Sequence[Any]) -> list[Case]:
        return [
            Case(
                *row[:5],
                json.loads(zlib.decompress(row[5])),
                tuple(Entry(*entry) for entry in execute(_ENTRIES, (row[0],)).fetchall()),
            )
            for row in execute(statement, values).fetchall()
        ]


def _second(case: Case) -> AppealConflict:
    if case.state in WAITING:
        return AppealConflict(
            f"the decision has an appeal under way, {case.appeal_id}; another can be lodged when that is decided"
        )
    return AppealConflict(f"the decision was taken back on appeal {case.appeal_id}; there is nothing left to contest")
