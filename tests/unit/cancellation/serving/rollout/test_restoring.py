"""A database that is being restored from a backup: its tables come first, their rows later."""

from __future__ import annotations

from contextlib import closing
from importlib import resources

import pytest

from cancellation.serving.rollout.policy_store import PolicyStore
from cancellation.serving.shared_state import open_tables
from tests.servers.postgres import PostgresServer


def test_until_its_policy_is_back_all_is_killed_and_no_gateway_begins_with_another(
    postgres_server: PostgresServer,
) -> None:
    first = (resources.files("cancellation.decision") / "policy.toml").read_bytes()
    database, tables = open_tables(postgres_server.database())
    with closing(database):
        tables.begin_with(first)
        tables.change_kill_switch(kill=["BR"])
        store = PolicyStore(tables)
        with database.writing() as execute:
            rows = execute("SELECT name, content FROM rollout").fetchall()
            execute("DELETE FROM rollout")
        store.reload_if_changed()
        assert store.killed == {"*"}
        with pytest.raises(OSError, match="let a restore come to its end"):
            tables.begin_with(first)
        with database.writing() as execute:
            for row in rows:
                execute("INSERT INTO rollout (name, content) VALUES (?, ?)", row)
        store.reload_if_changed()
        assert store.killed == {"BR"}
