"""Whose clock the ledger goes by: a gateway whose own is off records no change for another hour."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing

import pytest

from cancellation.serving.rollout.policy_sources import LAYOUT, PolicyTables
from cancellation.serving.rollout.policy_store import PolicyStore
from cluster.database.postgres import PostgresDatabase
from tests.conftest import PROJECT
from tests.servers.postgres import PostgresServer

_SEES_IT = """
import sys, time
right = time.time
time.time = lambda: right() + 3600 * float(sys.argv[2])
from cancellation.serving.rollout.policy_sources import LAYOUT, PolicyTables
from cancellation.serving.rollout.policy_store import PolicyStore
from cluster.database.postgres import PostgresDatabase
PolicyStore(PolicyTables(PostgresDatabase(sys.argv[1], LAYOUT)))
"""


@pytest.mark.parametrize("hours", [3, -3])
def test_what_was_in_force_at_an_instant_does_not_depend_on_whose_clock_is_off(
    postgres_server: PostgresServer, hours: int
) -> None:
    url = postgres_server.database()
    with closing(PostgresDatabase(url, LAYOUT)) as database:
        tables = PolicyTables(database)
        tables.begin_with((PROJECT / "cancellation/decision/policy.toml").read_bytes())
        store = PolicyStore(tables)
        live = time.time()
        tables.change_kill_switch(kill=["*"])
        done = subprocess.run([sys.executable, "-c", _SEES_IT, url, str(hours)], cwd=PROJECT, timeout=120)
        assert done.returncode == 0
        assert not store.at("ID", live).killed
        assert store.at("ID", time.time()).killed
