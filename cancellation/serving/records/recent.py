"""Recent decisions by event: the same event twice gives the same answer, and an answer can be asked for later.

In a database that all who may get the same event share: of the replicas of one machine a file, of several machines a
server. What is too old or too much is dropped by a thread beside the answers; how old it is says the database's own
clock, else one machine whose clock is off would take everybody's. It may be lost with its machine: the decision log is
what must not be.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cancellation.serving.records.decision_log import encode_record
from cluster.database.interface import Database, Execute
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_DROP_AT_ONCE = 50  # about a millisecond for which an answer may have to wait
_LOOK_BACK_TICKS = 60
_LEVEL = 1
LAYOUT = """
CREATE TABLE IF NOT EXISTS decisions (
    number {number},
    event_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    recorded_at DOUBLE PRECISION NOT NULL,
    decision {bytes} NOT NULL, -- JSON, deflated: a day's decisions lie here
    logged BOOLEAN NOT NULL,
    explanation TEXT
);
CREATE INDEX IF NOT EXISTS decisions_by_time ON decisions (recorded_at);
CREATE TABLE IF NOT EXISTS messages (
    identity TEXT PRIMARY KEY,
    recorded_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_time ON messages (recorded_at);
"""
_PUT = """
INSERT INTO decisions (event_id, fingerprint, recorded_at, decision, logged) VALUES (?, ?, {now}, ?, ?)
ON CONFLICT (event_id) DO UPDATE SET fingerprint = excluded.fingerprint, recorded_at = excluded.recorded_at,
    decision = excluded.decision, logged = excluded.logged, explanation = NULL
WHERE decisions.recorded_at <= excluded.recorded_at - ?
"""
_PUT_ONCE = """
INSERT INTO messages (identity, recorded_at) VALUES (?, {now})
ON CONFLICT (identity) DO UPDATE SET recorded_at = excluded.recorded_at
WHERE messages.recorded_at <= excluded.recorded_at - ?
"""
_FIND = (
    "SELECT fingerprint, decision, explanation, logged FROM decisions WHERE event_id = ? AND recorded_at > {now} - ?"
)
_LOG = "UPDATE decisions SET logged = TRUE WHERE event_id = ? AND NOT logged"
_SAID_BEFORE = "DELETE FROM messages WHERE identity >= ? AND identity <= ? AND identity <> ?"
_PROBE = "probe"  # no message's identity, which is a digest
_NEXT = "SELECT number, event_id, decision FROM decisions WHERE number > ? ORDER BY number LIMIT ?"
_READ_AT_ONCE = 200
_TOO_OLD = "SELECT {now} - ?"
_TOO_MUCH = "SELECT COALESCE(MAX(number), 0) - ? FROM decisions"
_LAST_OF_STEP = "SELECT {column} FROM {table} WHERE {column} >= ? AND {column} <= ? ORDER BY {column} LIMIT 1 OFFSET ?"
_DROP = "DELETE FROM {table} WHERE {column} >= ? AND {column} <= ?"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What stands for an event."""

    fingerprint: str
    """Of the event's content."""
    decision: dict[str, Any]
    """As it was given to `put`, and so as it was answered."""
    explanation: list[dict[str, Any]] | None
    """The decision factors with their evidence, once they were explained."""
    logged: bool = True
    """Whether the log has it; until then nobody may be told of it."""


class RecentDecisions:
    """Decisions of the last `retention_seconds`. For any number of threads.

    With `max_entries` about so many at most, for a disk that cannot hold all: then the oldest go before their time.
    Whatever the database cannot do is an OSError.
    """

    def __init__(
        self,
        database: Database,
        *,
        retention_seconds: float = 86_400.0,
        max_entries: int | None = None,
    ) -> None:
        """Take over a database that has the tables of `LAYOUT`; it stays its opener's to close."""
        self.database = database
        self.retention_seconds = retention_seconds
        self.max_entries = max_entries
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="recent-decisions", daemon=True)
        self._keeper.start()

    def get(self, event_id: str) -> Recorded | None:
        """Find an event's decision; None if there is none of late."""
        with self.database.reading() as execute:
            return self._find(execute, event_id)

    def put(
        self,
        event_id: str,
        fingerprint: str,
        decision: Mapping[str, Any],
        *,
        before: Callable[[bytes], object] | None = None,
        logged: bool = True,
    ) -> Recorded:
        """Record a decision unless the event has one; return the one that stands.

        The first wins: whoever gets another's record back has to answer with that one, or, where the
        fingerprint is not its own, to refuse.

        Args:
            event_id: The event's.
            fingerprint: Of its content.
            decision: As JSON's types.
            before: Called once with the decision as JSON before it becomes visible, and only if it will, such as to
                write the log; when it raises, nothing is recorded. Who records the same event waits meanwhile.
            logged: False if it is still to be logged, by `log_once`: for what must not be in the log unless it is on
                record. What `before` has written stays there when the transaction fails in its last step.
        """
        encoded = encode_record(decision)
        row = (event_id, fingerprint, zlib.compress(encoded, _LEVEL), logged, self.retention_seconds)
        with self.database.writing() as execute:
            if execute(self._timed(_PUT), row).rowcount == 0:
                standing = self._find(execute, event_id)
                if standing is not None:
                    return standing
            if before is not None:
                before(encoded)
        return Recorded(fingerprint, dict(decision), None, logged)

    def log_once(self, event_id: str, write: Callable[[], object]) -> None:
        """Call `write`, which logs an event's decision, unless it is in the log; who would do the same waits meanwhile.

        When this fails in its last step, it is written and will be once more: the same twice, and never two opinions.
        """
        with self.database.writing() as execute:
            if execute(_LOG, (event_id,)).rowcount == 1:
                write()

    def add_explanation(self, event_id: str, decision_factors: Sequence[Mapping[str, Any]]) -> bool:
        """Keep an event's decision factors with their evidence beside its decision; False if it has none."""
        text = json.dumps(list(decision_factors), separators=(",", ":"))
        with self.database.writing() as execute:
            return execute("UPDATE decisions SET explanation = ? WHERE event_id = ?", (text, event_id)).rowcount == 1

    def put_once(self, subject: str, content: str, before: Callable[[], object]) -> bool:
        """Note that a message came; False if it says what the last one on its subject did.

        `before` is called if it does not, such as to write the log; when it raises, nothing is noted.

        Args:
            subject: Digest in hex of what it is about and who says so; all are as long.
            content: Digest in hex of what it says, of 32 digits.
            before: As above.
        """
        identity = f"{subject}{content}"
        with self.database.writing() as execute:
            new = execute(self._timed(_PUT_ONCE), (identity, self.retention_seconds)).rowcount == 1
            if new:
                # Whoever goes back to what they said before has said something new.
                execute(_SAID_BEFORE, (f"{subject}{'0' * 32}", f"{subject}{'f' * 32}", identity))
                before()
        return new

    def about(self, digests: Collection[str], *, remove: bool) -> list[str]:
        """Give the events whose decisions hold one of some people's digests; with `remove`, they are forgotten."""
        marks, place, event_ids = [digest.encode() for digest in digests], 0, []
        while True:
            with self.database.reading() as execute:
                rows = execute(_NEXT, (place, _READ_AT_ONCE)).fetchall()
            if not rows:
                return event_ids
            place = rows[-1][0]
            theirs = [row for row in rows if any(mark in zlib.decompress(row[2]) for mark in marks)]
            event_ids += [row[1] for row in theirs]
            for number, _, _ in theirs if remove else ():
                with self.database.writing() as execute:
                    execute("DELETE FROM decisions WHERE number = ?", (number,))

    def drop_old(self) -> int:
        """Drop what is too old or too much; return how many rows. The keeper does so every second.

        In small steps, since an answer that is recorded meanwhile waits for the one under way.
        """
        return self._drop_from({})

    def can_read(self) -> None:
        """Read nothing; OSError if that fails."""
        with self.database.reading() as execute:
            execute("SELECT 1 FROM decisions LIMIT 1").fetchone()

    def can_write(self) -> None:
        """Write a row and take it away; OSError if that fails. On a full disk writing nothing would go well."""
        with self.database.writing() as execute:
            execute(self._timed(_PUT_ONCE), (_PROBE, 0.0))
            execute("DELETE FROM messages WHERE identity = ?", (_PROBE,))

    def __len__(self) -> int:
        with self.database.reading() as execute:
            return execute("SELECT COUNT(*) FROM decisions").fetchone()[0]

    def close(self) -> None:
        """End the keeper. Closing twice is fine."""
        self._closed.set()
        self._keeper.join(timeout=10)

    def _find(self, execute: Execute, event_id: str) -> Recorded | None:
        row = execute(self._timed(_FIND), (event_id, self.retention_seconds)).fetchone()
        if row is None:
            return None
        return Recorded(
            row[0], json.loads(zlib.decompress(row[1])), json.loads(row[2]) if row[2] else None, bool(row[3])
        )

    def _drop_from(self, places: dict[str, float]) -> int:
        num_dropped = 0
        kinds = [
            ("decisions", "recorded_at", self.retention_seconds),
            ("messages", "recorded_at", self.retention_seconds),
        ]
        if self.max_entries is not None:
            kinds.append(("decisions", "number", self.max_entries))
        for table, column, kept in kinds:
            while step := self._drop(table, column, kept, places):
                num_dropped += step
        return num_dropped

    def _drop(self, table: str, column: str, kept: float, places: dict[str, float]) -> int:
        """Drop the next few, from the place on up to which all went: while a backup runs, a server keeps what was
        dropped, and each step would read all of it again."""
        with self.database.writing(alone="dropping") as execute:  # two that drop the same rows would lock each other
            (until,) = execute(self._timed(_TOO_MUCH if column == "number" else _TOO_OLD), (kept,)).fetchone()
            place = places.get(f"{table}.{column}", 0)
            look = _LAST_OF_STEP.format(table=table, column=column)
            found = execute(look, (place, until, _DROP_AT_ONCE - 1)).fetchone()
            places[f"{table}.{column}"] = last = found[0] if found else until
            return execute(_DROP.format(table=table, column=column), (place, last)).rowcount

    def _timed(self, statement: str) -> str:
        return statement.format(now=self.database.now)

    def _keep(self) -> None:
        places, fault = dict[str, float](), LastingFault(logger, f"{self.database.name} (dropping what is old)")
        for tick in itertools.count():
            if self._closed.wait(_TICK_SECONDS):
                return
            if tick % _LOOK_BACK_TICKS == 0:  # a server's clock that was set back leaves some behind
                places.clear()
            try:
                self._drop_from(places)
                self.database.tend()
            except OSError as error:
                fault.failed(str(error))
            else:
                fault.works()
