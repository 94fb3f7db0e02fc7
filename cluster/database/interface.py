"""What the code asks of a database: statements that SQLite and PostgreSQL both understand, in transactions.

Layouts and statements are written once, with `?` for values. Where the two call one thing differently a layout names
it in braces: `{number}` is a primary key that grows with each new row, `{bytes}` the type of bytes. Real numbers are
DOUBLE PRECISION, since PostgreSQL's REAL holds six digits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Execute(Protocol):
    """Runs one statement."""

    def __call__(self, statement: str, values: Sequence[Any] = (), /) -> Rows: ...


class Database(Protocol):
    """For any number of threads. Whatever fails is an OSError that names the database and never a value in it."""

    name: str
    """Where it is, as errors and logs say it; without a password."""

    num_writers: int
    """Threads that can usefully write at a time."""

    shared: bool
    """Whether other machines write to it too."""

    now: str
    """Seconds since the epoch as an expression of its SQL, by a clock that all who write to it share: the server's, or
    that of the machine whose file it is."""

    def reading(self) -> AbstractContextManager[Execute]:
        """Run statements that change nothing; they wait for nobody's transaction."""
        ...

    def writing(self, *, alone: str | None = None) -> AbstractContextManager[Execute]:
        """Run statements as one transaction, undone if the block raises; with `alone`, of those that name the same
        one at a time."""
        ...

    def tend(self) -> None:
        """Do what keeps it in order; its user calls this every second or so."""
        ...

    def close(self) -> None:
        """End it. Closing twice is fine."""
        ...


def check_address(url: str) -> str:
    """Give the address of a PostgreSQL database as it may be shown.

    Raises:
        ValueError: If it is none, or holds a password: command lines and settings are seen by many.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("database: expected postgresql://user@host:5432/name, found another kind of address")
    if parts.password is not None or {"password", "sslpassword"} & parse_qs(parts.query).keys():
        raise ValueError(
            "database: expected an address without a password, found one with it; put it in the file that PGPASSFILE "
            "names (host:port:database:user:password) or in PGPASSWORD"
        )
    return f"{parts.netloc}{parts.path}"


def columns_of(layout: str) -> list[tuple[str, str]]:
    """Give the columns that a layout names, each with its table before it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(layout.format(number="INTEGER PRIMARY KEY", bytes="BLOB"))
        return columns_in(connection)


def columns_in(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Give those of an SQLite database."""
    return connection.execute(
        "SELECT made.name, had.name FROM sqlite_master AS made, pragma_table_info(made.name) AS had "
        "WHERE made.type = 'table' ORDER BY made.rowid, had.cid"
    ).fetchall()
