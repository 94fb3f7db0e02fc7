"""Recent decisions by event: the same event twice gives the same answer, and an answer can be asked for later.

An SQLite file on the local disk, shared by the replicas of a machine, that survives them. Nothing in it ever
waits for the disk: after a crash of the machine itself, which alone can harm it, it is checked and, if it is
harmed, begun anew; the decision log is what must not be lost. Folding SQLite's write-ahead log into the file, and
dropping what is too old or too much, happens in a thread beside the answers.
"""

from __future__ import annotations

import fcntl
import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cancellation.serving.records.decision_log import encode_record

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 1.0
_TICK_SECONDS = 1.0
_STROKE_MS = 10
_DROP_AT_ONCE = 50  # about a millisecond for which an answer may have to wait
_FOLD_BYTES = 8 * 2**20
_LEVEL = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LAYOUT = """
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    decision BLOB NOT NULL, -- JSON, deflated: a day's decisions lie here
    explanation TEXT
);
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY,
    identity TEXT NOT NULL UNIQUE,
    recorded_at REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What stands for an event."""

    fingerprint: str
    """Of the event's content."""
    decision: dict[str, Any]
    """As it was given to `put`, and so as it was answered."""
    explanation: list[dict[str, Any]] | None
    """The decision factors with their evidence, once they were explained."""


class RecentDecisions:
    """Decisions of the last `retention_seconds`. For any number of threads.

    With `max_entries` about so many at most, for a disk that cannot hold all: then the oldest go before their time.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_seconds: float = 86_400.0,
        max_entries: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.retention_seconds = retention_seconds
        self.max_entries = max_entries
        self._clock = clock
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log_path = self.path.with_name(f"{self.path.name}-wal")
        self._check_after_crash()
        self.path.touch(mode=0o600)
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._connection = self._connect()
        # Reads need no turn among the writers, and must not wait for one of this process that waits for another's.
        self._reader = self._connect()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="recent-decisions", daemon=True)
        self._keeper.start()

    def get(self, event_id: str) -> Recorded | None:
        """Find an event's decision; None if there is none of late.

        Raises:
            OSError: If the file cannot be read.
        """
        with self._reading, self._named_failures():
            return self._find(self._reader, event_id)

    def put(
        self,
        event_id: str,
        fingerprint: str,
        decision: Mapping[str, Any],
        *,
        before: Callable[[bytes], object] | None = None,
    ) -> Recorded:
        """Record a decision unless the event has one; return the one that stands.

        The first wins: whoever gets another's record back has to answer with that one, or, where the
        fingerprint is not its own, to refuse.

        Args:
            event_id: The event's.
            fingerprint: Of its content.
            decision: As JSON's types.
            before: Called once with the decision as JSON before it becomes visible, and only if it will, such as to
                write the log; when it raises, nothing is recorded. Other writers of the machine wait meanwhile.

        Raises:
            OSError: If the file cannot be written.
        """
        now = self._clock()
        encoded = encode_record(decision)
        with self._using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                standing = self._find(connection, event_id)
                if standing is None:
                    connection.execute(
                        "INSERT OR REPLACE INTO decisions (event_id, fingerprint, recorded_at, decision) "
                        "VALUES (?, ?, ?, ?)",
                        (event_id, fingerprint, now, zlib.compress(encoded, _LEVEL)),
                    )
                    if before is not None:
                        before(encoded)
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
        return standing or Recorded(fingerprint, dict(decision), None)

    def add_explanation(self, event_id: str, decision_factors: Sequence[Mapping[str, Any]]) -> bool:
        """Keep an event's decision factors with their evidence beside its decision; False if it has none."""
        text = json.dumps(list(decision_factors), separators=(",", ":"))
        with self._using() as connection:
            done = connection.execute("UPDATE decisions SET explanation = ? WHERE event_id = ?", (text, event_id))
            return done.rowcount == 1

    def put_once(self, identity: str, before: Callable[[], object]) -> bool:
        """Note that a message came; False if it did before.

        `before` is called if it did not, such as to write the log; when it raises, nothing is noted.

        Raises:
            OSError: If the file cannot be written.
        """
        with self._using() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                oldest = self._clock() - self.retention_seconds
                connection.execute("DELETE FROM messages WHERE identity = ? AND recorded_at <= ?", (identity, oldest))
                done = connection.execute(
                    "INSERT OR IGNORE INTO messages (identity, recorded_at) VALUES (?, ?)", (identity, self._clock())
                )
                if done.rowcount == 1:
                    before()
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise
        return done.rowcount == 1

    def drop_old(self) -> int:
        """Drop what is too old or too much; return how many. The keeper does so every second."""
        connection = self._connect()
        try:
            return self._drop_old(connection)
        except sqlite3.Error as error:
            raise self._failure(error) from None
        finally:
            connection.close()

    def __len__(self) -> int:
        with self._using() as connection:
            return connection.execute("SELECT COUNT(*) FROM decisions").fetchone()[0]

    def close(self) -> None:
        """End the keeper and leave the file in order. Closing twice is fine."""
        self._closed.set()
        self._keeper.join(timeout=10)
        with self._lock, self._reading:
            self._connection.close()
            self._reader.close()

    def _find(self, connection: sqlite3.Connection, event_id: str) -> Recorded | None:
        row = connection.execute(
            "SELECT fingerprint, decision, explanation, recorded_at FROM decisions WHERE event_id = ?", (event_id,)
        ).fetchone()
        if row is None or row[3] <= self._clock() - self.retention_seconds:
            return None
        return Recorded(row[0], json.loads(zlib.decompress(row[1])), json.loads(row[2]) if row[2] else None)

    def _check_after_crash(self) -> None:
        """Begin anew if the machine was started since the file was made and the file did not survive that."""
        boot = _BOOT_ID.read_text() if _BOOT_ID.exists() else "unknown"
        with self.path.with_name(f"{self.path.name}.boot").open("a+") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            mark.seek(0)
            if mark.read() == boot:
                return
            if self.path.exists() and not self._is_whole():
                logger.error("recent decisions %s: harmed by a crash of the machine, begun anew", self.path)
                for path in (self.path, self._log_path, self.path.with_name(f"{self.path.name}-shm")):
                    path.unlink(missing_ok=True)
            mark.truncate(0)
            mark.write(boot)

    def _is_whole(self) -> bool:
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.executescript(_LAYOUT)
        except sqlite3.Error as error:
            raise self._failure(error) from None
        return connection

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._named_failures():
            yield self._connection

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: sqlite3.Error) -> OSError:
        return OSError(f"recent decisions {self.path}: SQLite failed ({error}); mend the disk, or remove the file")

    def _keep(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self._closed.wait(_TICK_SECONDS):
            try:
                connection = connection or self._connect()
                self._drop_old(connection)
                self._fold(connection)
            except (sqlite3.Error, OSError) as error:
                logger.error("recent decisions %s: %s; goes on", self.path, error)
        if connection is not None:
            connection.close()

    def _fold(self, connection: sqlite3.Connection) -> None:
        """Bring SQLite's log into its file: most of it without hindering anybody, then the rest at one stroke.

        Without that stroke the log would never start anew while answers are written, and grow for ever.
        """
        if self._log_path.exists() and self._log_path.stat().st_size > _FOLD_BYTES:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            # Writers wait for this stroke, and it for readers: not for long, there is another in a second.
            connection.execute(f"PRAGMA busy_timeout = {_STROKE_MS}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1e3)}")

    def _drop_old(self, connection: sqlite3.Connection) -> int:
        """In small steps, since an answer that is recorded meanwhile waits for the one under way."""
        num_dropped = 0
        while last := self._last_to_drop(connection):
            done = connection.execute("DELETE FROM decisions WHERE number <= ?", (last,))
            num_dropped += done.rowcount
        connection.execute(
            "DELETE FROM messages WHERE number IN (SELECT number FROM messages WHERE recorded_at <= ? LIMIT ?)",
            (self._clock() - self.retention_seconds, _DROP_AT_ONCE),
        )
        return num_dropped

    def _last_to_drop(self, connection: sqlite3.Connection) -> int | None:
        """Number of the last of a step's rows; numbers grow with time, so the old ones are the first."""
        rows = connection.execute(
            "SELECT number, recorded_at FROM decisions ORDER BY number LIMIT ?", (_DROP_AT_ONCE,)
        ).fetchall()
        newest = connection.execute("SELECT MAX(number) FROM decisions").fetchone()[0] or 0
        oldest_kept = 0 if self.max_entries is None else newest - self.max_entries
        expired = self._clock() - self.retention_seconds
        last = None
        for number, recorded_at in rows:
            if number > oldest_kept and recorded_at > expired:
                break
            last = number
        return last
