"""A PostgreSQL database that several machines share, through psycopg.

Who asks is never kept waiting for long by a server that is away, hangs or was replaced by another: connections are
tried anew in the background, none is waited for longer than a second, and a statement has two. Those are the server's
to keep; one that hangs keeps nothing, so a transaction that has not ended after six seconds is cut off here.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from cluster.database.interface import Execute, check_address, columns_of

_WAIT_SECONDS = 1.0
_RECONNECT_SECONDS = 5.0
"""Then the next who asks begins the attempts anew, at short intervals."""
CONNECTIONS = 8
"""Of each process at most."""
_HANG_SECONDS = 6.0
_WATCH_SECONDS = 1.0
_MADE = re.compile(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) IF NOT EXISTS (\w+)")
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_ENCODINGS = ("UTF8", "SQL_ASCII")
"""Of databases that hold any text; the latter takes bytes as they come."""
_OPTIONS = {
    "connect_timeout": 2,
    "tcp_user_timeout": 2000,
    "application_name": "marketplace-llm",
    "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the role says
}
_SETTINGS = {
    "statement_timeout": "2s",
    "lock_timeout": "1900ms",  # before the statement's, which would not say that it waited for somebody
    # A process whose machine is gone keeps others waiting for what it was writing no longer than this.
    "idle_in_transaction_session_timeout": "5s",
    "idle_session_timeout": "0",  # each that the server ends costs its next user a call
    # Whoever is alone has to see what the one before wrote, whatever isolation the database or the role defaults to.
    "default_transaction_isolation": "read committed",
}


class _Connection(psycopg.Connection[TupleRow]):
    """One whose attempts to connect, once given up, are over for the server too."""

    @classmethod
    def connect(cls, conninfo: str = "", *, refusals: deque[str] | None = None, **options: Any) -> Self:
        """Connect; `refusals` is told why not, since a pool keeps that to itself."""
        try:
            connected = super().connect(conninfo, **options)
        except psycopg.Error as error:
            if refusals is not None:
                refusals.append(_first_line(error))
            # psycopg's frame holds the attempt and its own error, which holds the frame: until some collection finds
            # that circle the socket stays open, and a place at the server taken for its `authentication_timeout`.
            traceback.clear_frames(error.__traceback__)
            raise
        if refusals is not None:
            refusals.clear()
        return connected


class PostgresDatabase:
    """One database of a server."""

    num_writers = 4
    shared = True
    # Of the statement's beginning: what may change while it runs (clock_timestamp) finds nothing by an index.
    now = "CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION)"

    def __init__(self, url: str, layout: str, *, whole: bool = False) -> None:
        """Connect, and make the tables that are not there.

        Args:
            url: As `check_address` accepts; of several hosts the one that is no standby is used. The password comes
                from where libpq looks for it: PGPASSFILE, ~/.pgpass, PGPASSWORD.
            layout: Statements that make its tables where they are not there.
            whole: Refuse tables that lack a column, and a role that may not read and write all of them: else that
                comes out call by call, after a start that looked fine.

        Raises:
            ValueError: If the address is refused.
            OSError: If the server does not let us in, what we ask of each connection does not reach it, or the
                database cannot hold any text.
        """
        self.name = f"database {check_address(url)}"
        options, self._refusals = _options(url), deque[str](maxlen=1)
        self._pool: ConnectionPool[psycopg.Connection[TupleRow]] = ConnectionPool(
            url,
            connection_class=_Connection,
            kwargs={**options, "refusals": self._refusals},
            min_size=1,
            max_size=CONNECTIONS,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            open=False,
        )
        self._drained_at = 0.0
        self._in_use: dict[psycopg.Connection[TupleRow], float] = {}
        self._watching, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._watch, name="database-watch", daemon=True).start()
        try:
            # By a connection of its own: the pool would keep the reason of a refusal to itself.
            with self._named_failures(), _Connection.connect(url, **options) as connection, self._watched(connection):
                self._make_tables(connection, layout, whole)
        except BaseException:
            self.close()
            raise
        self._pool.open()

    @contextmanager
    def reading(self) -> Iterator[Execute]:
        """Run statements that change nothing."""
        with self._connection() as connection:
            yield _execute(connection)

    @contextmanager
    def writing(self, *, alone: str | None = None) -> Iterator[Execute]:
        """Run statements as one transaction."""
        with self._connection() as connection, connection.transaction():
            if alone is not None:
                _lock(connection, alone)
            yield _execute(connection)

    def tend(self) -> None:
        """Nothing: the server does so itself."""

    def close(self) -> None:
        """Give the connections back."""
        self._closed.set()
        self._pool.close()

    def _make_tables(self, connection: psycopg.Connection[TupleRow], layout: str, whole: bool) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in _ENCODINGS:  # an id in another script would be refused, whenever it comes
            raise OSError(
                f"{self.name}: expected a database that holds any text, found the encoding {encoding}; make one by "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        for name, value in _SETTINGS.items():
            (found,) = connection.execute("SELECT current_setting(%s)", (name,)).fetchone() or ("",)
            if found != value:
                raise OSError(
                    f"{self.name}: expected {name} = {value}, as each connection asks for, found {found}; what drops "
                    "`options` on the way, such as PgBouncer, has to go: name the server itself"
                )
        if whole:
            self._check_columns(connection, layout)
        # CREATE INDEX IF NOT EXISTS locks its table before it looks: it would wait for a VACUUM, and all who write
        # for it.
        there = connection.execute("SELECT to_regclass(name) FROM unnest(%s::text[]) AS name", (_MADE.findall(layout),))
        if any(found is None for (found,) in there):
            number = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
            with connection.transaction():
                _lock(connection, layout)  # IF NOT EXISTS is no lock
                connection.execute(layout.format(number=number, bytes="BYTEA").encode())
        elif whole:
            self._check_rights(connection, layout)

    def _check_columns(self, connection: psycopg.Connection[TupleRow], layout: str) -> None:
        query = """
        SELECT name || '.' || wanted FROM unnest(%s::text[], %s::text[]) AS layout (name, wanted)
        WHERE to_regclass(name) IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = to_regclass(name) AND attname = wanted AND NOT attisdropped
        )
        """
        tables, columns = zip(*columns_of(layout), strict=True)
        lacking = [name for (name,) in connection.execute(query, ([*tables], [*columns])).fetchall()]
        if lacking:
            raise OSError(
                f"{self.name}: expected tables of its own, found some of another program or release, without "
                f"{', '.join(lacking)}; give it a database of its own, or rename them"
            )

    def _check_rights(self, connection: psycopg.Connection[TupleRow], layout: str) -> None:
        has_all = " AND ".join(f"has_table_privilege(to_regclass(name), '{right}')" for right in _RIGHTS)
        query = f"SELECT name FROM unnest(%s::text[]) AS name WHERE NOT ({has_all}) ORDER BY name"
        tables = sorted({table for table, _ in columns_of(layout)})
        lacking = [name for (name,) in connection.execute(query.encode(), (tables,)).fetchall()]
        if lacking:
            raise OSError(
                f"{self.name}: expected a role that may {', '.join(_RIGHTS)} on all its tables, found one that may not "
                f"on {', '.join(lacking)}; let their owner GRANT {', '.join(_RIGHTS)} on them to it"
            )

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[TupleRow]]:
        with self._named_failures(), self._pool.connection() as connection:
            since, lost = time.monotonic(), False
            try:
                with self._watched(connection):
                    yield connection
            except psycopg.errors.ReadOnlySqlTransaction:  # a standby, or what was the primary: its address has moved
                lost = True
                raise
            finally:
                if (lost or connection.broken) and since > self._drained_at:
                    # What befell one befell all, such as by a restart: else each costs its next user a call.
                    self._drained_at = time.monotonic()
                    self._pool.drain()

    @contextmanager
    def _watched(self, connection: psycopg.Connection[TupleRow]) -> Iterator[None]:
        self._in_use[connection] = time.monotonic()
        try:
            yield
        finally:
            with self._watching:
                del self._in_use[connection]

    def _watch(self) -> None:
        """Cut off what hangs: then its thread gets an error, as if the server had gone."""
        while not self._closed.wait(_WATCH_SECONDS):
            with self._watching:
                late = time.monotonic() - _HANG_SECONDS
                for connection in [one for one, since in self._in_use.copy().items() if since < late]:
                    with (
                        suppress(OSError, psycopg.Error),  # it has ended by itself
                        socket.socket(fileno=os.dup(connection.fileno())) as same,
                    ):
                        same.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: psycopg.Error) -> OSError:
        said, remedy = _first_line(error), "look at the server"
        if isinstance(error, PoolTimeout) and self._refusals:
            said = f"{said}; the last attempt: {self._refusals[0]}"
        if isinstance(error, psycopg.errors.InsufficientPrivilege | psycopg.errors.InvalidSchemaName):
            remedy = (
                f"GRANT its role {', '.join(_RIGHTS)} on the tables, or CREATE on the schema that it is to make them in"
            )
        elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            remedy = "let database and role write (default_transaction_read_only), or name the host that does"
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            remedy = "try again; pg_stat_activity at the server says who holds it"
        elif "unsupported startup parameter" in said:
            remedy = "name the server itself: PgBouncer drops the limits that each connection asks for"
        elif "root certificate file" in said:
            remedy = "name the file of who signed the server's certificate by sslrootcert=… in the address"
        elif "no password supplied" in said:
            remedy = "put it in the file that PGPASSFILE names, which nobody else may read (chmod 600)"
        return OSError(f"{self.name}: PostgreSQL failed ({type(error).__name__}: {said}); {remedy}")


def _options(url: str) -> dict[str, Any]:
    """Give what to connect with besides the address, whose own `options`, such as a search_path, go before ours.

    Raises:
        ValueError: If the address has a part that libpq does not know.
    """
    try:
        own = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise ValueError(f"database: expected parameters of libpq in the address, found {_first_line(error)}") from None
    ours = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in _SETTINGS.items())
    return {
        **_OPTIONS,
        "autocommit": True,
        # One that is behind its primary, or was one, would tell of a kill switch that was thrown that it is not.
        "target_session_attrs": own.get("target_session_attrs", "primary"),
        "options": f"{own.get('options', os.environ.get('PGOPTIONS', ''))} {ours}".strip(),
    }


def _first_line(error: Exception) -> str:
    """Say what happened in the server's first line, which holds no values: those are in its DETAIL."""
    return (str(error).splitlines() or [""])[0]


def _lock(connection: psycopg.Connection[TupleRow], name: str) -> None:
    """Hold a lock of that name till the transaction ends."""
    number = int.from_bytes(blake2b(name.encode(), digest_size=7).digest())
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (number,))


def _execute(connection: psycopg.Connection[TupleRow]) -> Execute:
    def execute(statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[TupleRow]:
        return connection.execute(statement.replace("?", "%s").encode(), values)

    return execute
