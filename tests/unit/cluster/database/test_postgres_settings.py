"""What a connection asks of the server, whatever the address, the database or what lies between says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from cluster.database.postgres import PostgresDatabase
from tests.servers.postgres import PostgresFront, PostgresServer

LAYOUT = """
CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY, made_at DOUBLE PRECISION);
CREATE INDEX IF NOT EXISTS things_by_time ON things (made_at);
"""


@pytest.fixture
def front(postgres_server: PostgresServer) -> Iterator[PostgresFront]:
    front = PostgresFront(postgres_server.port)
    yield front
    front.close()


def test_options_of_the_address_hold_beside_our_own(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres_server.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA ours")
        connection.execute("CREATE SCHEMA theirs")

    def places(address: str) -> list[tuple[str, str]]:
        with closing(PostgresDatabase(address, LAYOUT)) as database, database.reading() as execute:
            where = "SELECT schemaname FROM pg_tables WHERE tablename = 'things' ORDER BY schemaname"
            return execute(f"{where} ").fetchall() + execute("SELECT current_setting('statement_timeout')").fetchall()

    assert places(f"{url}?options=-c%20search_path%3Dours%20-c%20statement_timeout%3D0") == [("ours",), ("2s",)]
    monkeypatch.setenv("PGOPTIONS", "-c search_path=theirs")
    assert places(url) == [("ours",), ("theirs",), ("2s",)]


def test_a_server_that_ends_idle_sessions_costs_nobody_a_call(postgres_server: PostgresServer) -> None:
    url = postgres_server.database()
    postgres_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET idle_session_timeout = '50ms'")
    with closing(PostgresDatabase(url, LAYOUT)) as database:
        for _ in range(3):
            with database.reading() as execute:
                execute("SELECT 1")
            time.sleep(0.2)


def test_an_address_with_a_part_that_nobody_knows_is_refused_as_such(postgres_server: PostgresServer) -> None:
    with pytest.raises(ValueError, match=r'expected parameters of libpq in the address, found .*"ssl_mode"'):
        PostgresDatabase(f"{postgres_server.database()}?ssl_mode=require", LAYOUT)


def test_whoever_is_alone_sees_what_the_one_before_wrote_whatever_isolation_is_the_databases(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.database()
    postgres_server.execute(
        f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = 'repeatable read'"
    )

    def count_and_add(_: int) -> int:
        with database.writing(alone="adding") as execute:
            number = execute("SELECT COUNT(*) FROM things").fetchone()[0]
            execute("INSERT INTO things (name) VALUES (?)", (f"{number}",))
            return number

    with closing(PostgresDatabase(url, LAYOUT)) as database, ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(count_and_add, range(40))) == [*range(40)]


def test_what_keeps_options_from_the_server_is_refused_at_the_start(postgres_server: PostgresServer) -> None:
    with (
        closing(PostgresFront(postgres_server.port, drops_options=True)) as front,
        pytest.raises(OSError, match=r"expected statement_timeout = 2s, .* found 0; what drops .* such as PgBouncer"),
    ):
        PostgresDatabase(front.in_front_of(postgres_server.database()), LAYOUT)


def test_a_start_that_is_let_in_and_gets_no_answer_is_an_error_soon(
    postgres_server: PostgresServer, front: PostgresFront
) -> None:
    url = postgres_server.database()
    with psycopg.connect(url) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("CREATE TABLE things (name TEXT PRIMARY KEY)")  # the start waits for it in the server
        started = time.monotonic()
        opening = threads.submit(PostgresDatabase, front.in_front_of(url), LAYOUT)
        while not _waits(postgres_server, url):
            assert not opening.done()
        front.silent = True
        with pytest.raises(OSError, match="PostgreSQL failed"):
            opening.result(30)
        assert time.monotonic() - started < 12.0


def _waits(server: PostgresServer, url: str) -> bool:
    with psycopg.connect(url) as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return connection.execute(asked).fetchone() != (0,)


def test_a_connection_that_is_forgotten_on_the_way_is_an_error_soon_and_afterwards_it_is_used_again(
    postgres_server: PostgresServer, front: PostgresFront
) -> None:
    with closing(PostgresDatabase(front.in_front_of(postgres_server.database()), LAYOUT)) as database:
        front.silent = True
        started = time.monotonic()
        with pytest.raises(OSError, match="PostgreSQL failed"), database.reading() as execute:
            execute("SELECT 1")
        assert time.monotonic() - started < 9.0
        front.silent = False
        until = time.monotonic() + 30.0
        while True:
            try:
                with database.reading() as execute:
                    assert execute("SELECT 1").fetchone() == (1,)
                    break
            except OSError:  # it may take a moment to be let in again
                assert time.monotonic() < until


def test_of_several_hosts_the_one_that_writes_is_used_and_a_standby_alone_is_refused(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.database()
    PostgresDatabase(url, LAYOUT).close()
    with postgres_server.standby() as standby:
        alone = url.replace(f"127.0.0.1:{postgres_server.port}", standby)
        with pytest.raises(OSError, match="server is in hot standby mode"):
            PostgresDatabase(alone, LAYOUT)
        both = url.replace("@", f"@{standby},")
        with closing(PostgresDatabase(both, LAYOUT)) as database, database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("written",))


def test_who_is_let_in_no_more_is_told_why(postgres_server: PostgresServer) -> None:
    url = postgres_server.database()
    with closing(PostgresDatabase(url, LAYOUT)) as database:
        postgres_server.cut_off(url)
        told: list[str] = []
        while not any("the last attempt" in one for one in told):
            try:
                with database.reading() as execute:
                    execute("SELECT 1")
            except OSError as error:
                told.append(str(error))
        assert "is not currently accepting connections" in told[-1]
        postgres_server.let_in(url)


def test_tables_of_another_shape_are_refused_where_all_are_needed(postgres_server: PostgresServer) -> None:
    url = postgres_server.database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE things (name TEXT PRIMARY KEY, body TEXT)")
    with pytest.raises(OSError, match=r"found some of another program or release, without things.made_at; give it"):
        PostgresDatabase(url, LAYOUT, whole=True)
