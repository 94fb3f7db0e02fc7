"""What whoever throws the kill switch is told, on a real database."""

from __future__ import annotations

from contextlib import closing
from importlib import resources

import pytest

from cancellation.serving.shared_state import open_tables
from jobs.cancellation_rollout import RolloutJob, main
from tests.servers.postgres import PostgresServer


def test_a_market_that_is_none_of_the_policy_is_told_as_its_mistyped_name_holds_nothing_off(
    postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres_server.database()
    database, tables = open_tables(url)
    with closing(database):
        tables.begin_with((resources.files("cancellation.decision") / "policy.toml").read_bytes())
        main(RolloutJob(database=url, kill=("BZ", "ID")))
        first, second = capsys.readouterr().out.splitlines()
        assert first.endswith("killed: BZ ID")
        assert second.startswith("no market of the policy: BZ; it has BR ")
        main(RolloutJob(database=url, kill=("*",), revive=("BZ", "ID")))
        assert capsys.readouterr().out.endswith("killed: *\n")
