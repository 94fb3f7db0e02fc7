"""An SQLite file on the local disk, shared by the processes of a machine, that survives them.

Nothing in it ever waits for the disk: after a crash of the machine itself, which alone can harm it, it is checked and,
if it is harmed, begun anew. That is for what may be lost with the machine. A `durable` one waits for the disk with each
transaction, and one that is harmed all the same is left for people.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cluster.database.interface import Execute, columns_in, columns_of

logger = logging.getLogger(__name__)

_BUSY_SECONDS, _DURABLE_BUSY_SECONDS = 1.0, 10.0
"""How long a transaction waits for another's. A durable one's wait for the disk takes seconds on a busy machine, and
who waits next is by chance: SQLite has no queue."""
_STROKE_MS = 10
_FOLD_BYTES = 8 * 2**20
_TOLD_BYTES = 50 * 2**20
_READ_BYTES = 2**22
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_BUSY: "end what holds it, such as a backup or somebody's sqlite3",
    sqlite3.SQLITE_READONLY: "let this user write to the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "let this user write to the file and its folder",
}
"""Of failures that no other file would mend."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SqliteDatabase:
    """One file."""

    num_writers = 1
    shared = False
    now = "((julianday('now') - 2440587.5) * 86400.0)"  # unixepoch('subsec') came with SQLite 3.42

    def __init__(self, path: Path, layout: str, *, durable: bool = False) -> None:
        """Open the file, or make it.

        Args:
            path: The file.
            layout: Statements that make its tables where they are not there.
            durable: What was written survives a crash of the machine, at the price of a wait for the disk.

        Raises:
            OSError: If it cannot be opened, or is durable and harmed.
        """
        self._durable = durable
        self._patience = _DURABLE_BUSY_SECONDS if durable else _BUSY_SECONDS
        self.path = Path(path)
        self.name = f"database {self.path}"
        self._layout = layout.format(number="INTEGER PRIMARY KEY", bytes="BLOB")
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log_path = self.path.with_name(f"{self.path.name}-wal")
        self._check_after_crash()
        self.path.touch(mode=0o600)
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = self._connect()
        # Reads need no turn among the writers, and must not wait for one of this process that waits for another's.
        self._reader = self._connect()
        self._opened = self._lie_there()
        self._check_columns()

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        """Run statements that change nothing."""
        with self._reading, self._named_failures():
            self._check_place()
            yield self._reader.execute

    @contextmanager
    def writing(self, *, alone: str | None = None) -> Iterator[Execute]:
        """Run statements as one transaction; there is one at a time in any case."""
        with self._writing, self._named_failures():
            self._check_place()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer.execute
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()
                raise

    def tend(self) -> None:
        """Bring SQLite's log into its file: most of it without hindering anybody, then the rest at one stroke.

        Without that stroke the log would never start anew while rows are written, and grow for ever.
        """
        if self._log_path.exists() and self._log_path.stat().st_size > _FOLD_BYTES:
            with self._named_failures(), closing(self._connect()) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                # Writers wait for this stroke, and it for readers: not for long, there is another in a second.
                connection.execute(f"PRAGMA busy_timeout = {_STROKE_MS}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Leave the file in order."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()
            self._opened = self._lie_there()  # whoever asks a closed one is to be told that it is closed

    def _check_after_crash(self) -> None:
        """Begin anew if the machine was started since the file was made and the file did not survive that."""
        boot = _BOOT_ID.read_text() if _BOOT_ID.exists() else "unknown"
        with self.path.with_name(f"{self.path.name}.boot").open("a+") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            mark.seek(0)
            if mark.read() == boot:
                return
            if self.path.exists() and not self._is_whole():
                if self._durable:
                    raise OSError(f"{self.name}: harmed by a crash of the machine; restore the file from a backup")
                logger.error("%s: harmed by a crash of the machine, begun anew", self.name)
                for path in (self.path, self._log_path, self.path.with_name(f"{self.path.name}-shm")):
                    path.unlink(missing_ok=True)
            mark.truncate(0)
            mark.write(boot)

    def _is_whole(self) -> bool:
        size = self.path.stat().st_size
        if size >= _TOLD_BYTES:
            logger.warning("%s: %d MB are checked, since the machine was started anew", self.name, size // 10**6)
        try:
            with self.path.open("rb") as file:  # in one go: the check reads in the order of the tree, far slower
                while file.read(_READ_BYTES):
                    pass
            with closing(sqlite3.connect(self.path, timeout=self._patience)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False

    def _lie_there(self) -> list[tuple[int, int] | None]:
        found = [path.stat() if path.exists() else None for path in (self.path, self._log_path)]
        return [one and (one.st_dev, one.st_ino) for one in found]

    def _check_place(self) -> None:
        """What is written to a file that was removed, or replaced by a backup, is gone when this process ends."""
        if self._lie_there() != self._opened:
            raise OSError(
                f"{self.name}: expected the file that was opened and its -wal, found another or none in its place; "
                "start again with the right one, without the -wal and -shm of another"
            )

    def _check_columns(self) -> None:
        lacking = set(columns_of(self._layout)) - set(columns_in(self._reader))
        if lacking:
            self.close()
            names = ", ".join(sorted(f"{table}.{column}" for table, column in lacking))
            raise OSError(
                f"{self.name}: expected the tables of this release, found some without {names}; move the file away and "
                "start again"
            )

    def _connect(self) -> sqlite3.Connection:
        with self._named_failures():
            connection = sqlite3.connect(
                self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.executescript(self._layout)
        return connection

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            otherwise = "restore the file from a backup" if self._durable else "remove the file and start again"
            # The low byte is the kind; whoever uses a closed one gets none.
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            remedy = _REMEDIES.get(kind, f"mend the disk, or {otherwise}")
            raise OSError(f"{self.name}: SQLite failed ({error}); {remedy}") from None
