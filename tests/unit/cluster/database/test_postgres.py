"""A PostgreSQL database whose server misbehaves."""

from __future__ import annotations

from contextlib import closing

import pytest

from cluster.database.postgres import PostgresDatabase
from tests.servers.postgres import PostgresServer

LAYOUT = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY)"


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
