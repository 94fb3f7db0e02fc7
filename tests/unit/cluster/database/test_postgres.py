"""A PostgreSQL database whose server misbehaves."""

from __future__ import annotations

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier

import psutil
import psycopg
import pytest

from cluster.database.postgres import PostgresDatabase
from tests.servers.postgres import PostgresServer

LAYOUT = """
CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY);
CREATE INDEX IF NOT EXISTS things_by_name ON things (name);
"""


def test_who_comes_to_tables_that_are_there_waits_for_no_vacuum_and_keeps_nobody_from_writing(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.database()
    PostgresDatabase(url, LAYOUT).close()
    with psycopg.connect(url) as vacuum:
        vacuum.execute("LOCK TABLE things IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
        with closing(PostgresDatabase(url, LAYOUT)) as database, database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("written",))


def test_only_who_names_the_same_waits_for_whoever_is_alone(postgres_server: PostgresServer) -> None:
    with (
        closing(PostgresDatabase(postgres_server.database(), LAYOUT)) as database,
        database.writing(alone="one"),
        database.writing(alone="another"),
        pytest.raises(OSError, match=r"lock timeout.*; try again; pg_stat_activity"),
        database.writing(alone="one"),
    ):
        pass


def test_a_server_that_hangs_in_the_middle_is_an_error_and_afterwards_it_is_used_again(
    postgres_server: PostgresServer,
) -> None:
    with closing(PostgresDatabase(postgres_server.database(), LAYOUT)) as database:
        with database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("kept",))
        with (
            pytest.raises(OSError, match="PostgreSQL failed"),
            database.writing() as execute,
            postgres_server.hanging(),
        ):
            execute("INSERT INTO things (name) VALUES (?)", ("lost",))
        while True:
            try:
                with database.reading() as execute:
                    assert execute("SELECT name FROM things").fetchall() == [("kept",)]
                    break
            except OSError:  # it may take a moment to be let in again
                continue


def test_attempts_to_connect_that_were_given_up_leave_the_server_nothing_to_wait_for(
    postgres_server: PostgresServer,
) -> None:
    def connections() -> int:
        found = psutil.Process(os.getpid()).net_connections("tcp")
        return sum(bool(one.raddr) and one.raddr.port == postgres_server.port for one in found)

    def let_in() -> int:
        with database.reading() as execute:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            return execute(asked).fetchone()[0]

    with closing(PostgresDatabase(postgres_server.database(), LAYOUT)) as database:
        with postgres_server.hanging():
            given_up = time.monotonic() + 9.0  # six until what is in use is cut off, then attempts of two seconds each
            while time.monotonic() < given_up:
                with pytest.raises(OSError, match="PostgreSQL failed"), database.reading() as execute:
                    execute("SELECT 1")
        until = time.monotonic() + 10.0  # PostgreSQL itself waits 60 s for somebody who says nothing
        while True:
            with suppress(OSError):  # it may take a moment to be let in again
                if connections() <= let_in():
                    break
            assert time.monotonic() < until, f"{connections()} connections"
            time.sleep(0.1)


def test_a_server_that_was_started_again_costs_one_call_and_not_one_for_each_connection(
    postgres_server: PostgresServer,
) -> None:
    url, at_once = postgres_server.database(), 8
    all_there = Barrier(at_once)

    def read_together() -> None:
        with database.reading() as execute:
            execute("SELECT 1")
            all_there.wait(30)

    def read(times: int) -> None:
        for _ in range(times):
            with database.reading() as execute:
                execute("SELECT 1")

    with closing(PostgresDatabase(url, LAYOUT)) as database:
        with ThreadPoolExecutor(at_once) as threads:
            for reading in [threads.submit(read_together) for _ in range(at_once)]:
                reading.result()
        postgres_server.cut_off(url)
        postgres_server.let_in(url)
        with pytest.raises(OSError, match="PostgreSQL failed"):
            read(10**6)  # the server takes a moment to end them
        read(at_once)


def test_connections_to_a_server_that_only_reads_are_given_up_for_those_that_its_address_leads_to_now(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.database()
    name = url.rpartition("/")[2]
    PostgresDatabase(url, LAYOUT).close()
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # as a standby is
    with closing(PostgresDatabase(url, "SELECT 1")) as database:
        with database.reading() as execute:
            assert execute("SELECT name FROM things").fetchall() == []
        postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        with pytest.raises(OSError, match="read-only transaction"), database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("lost",))
        with database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("kept",))


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
def test_any_text_is_held_whatever_a_client_is_told_to_speak(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    url = _encoded(postgres_server, encoding)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with closing(PostgresDatabase(url, LAYOUT)) as database:
        with database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("ไม่มีของ 😀",))
        with database.reading() as execute:
            assert execute("SELECT name FROM things").fetchall() == [("ไม่มีของ 😀",)]


def test_a_database_that_cannot_hold_any_text_is_refused_at_the_start(postgres_server: PostgresServer) -> None:
    with pytest.raises(OSError, match=r"latin1: expected a database that holds any text, found the encoding LATIN1"):
        PostgresDatabase(_encoded(postgres_server, "LATIN1"), LAYOUT)


def _encoded(server: PostgresServer, encoding: str) -> str:
    """A database of an encoding that the server's own need not be."""
    name = f"of_{encoding.lower()}"
    server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    return server.url(name)


def test_a_role_without_all_rights_is_refused_with_what_to_grant_where_all_are_needed(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url, role = postgres_server.database(), f"r{secrets.token_hex(6)}"
    postgres_server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'of-the-tests'")
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"127.0.0.1:*:*:{role}:of-the-tests\n")
    passwords.chmod(0o600)
    theirs = f"{url.replace('verdicts@', f'{role}@')}?passfile={passwords}"

    def grant(what: str) -> None:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(f"GRANT {what} TO {role}".encode())

    with pytest.raises(OSError, match=r"permission denied for schema public.*GRANT its role .* CREATE on the schema"):
        PostgresDatabase(theirs, LAYOUT, whole=True)
    PostgresDatabase(url, LAYOUT).close()
    grant("SELECT, INSERT, UPDATE ON things")
    with pytest.raises(OSError, match=r"SELECT, INSERT, UPDATE, DELETE on all its tables.* may not on things; let"):
        PostgresDatabase(theirs, LAYOUT, whole=True)
    PostgresDatabase(theirs, LAYOUT).close()
    grant("DELETE ON things")
    with closing(PostgresDatabase(theirs, LAYOUT, whole=True)) as database, database.writing() as execute:
        execute("INSERT INTO things (name) VALUES (?)", ("written",))
