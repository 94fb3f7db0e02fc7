"""What those who run the database do to it: locks, a failover, limits; each is told, and nothing is given twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from tests.servers.postgres import PostgresServer
from tests.servers.serving_replicas import eventually, serving, simulated_event


def test_a_table_of_appeals_that_an_administrator_locks_keeps_penalties_back_and_is_told(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.database()

    async def ask() -> None:
        async with serving(tmp_path, database=url) as client:
            assert (await client.judge(simulated_event(30))).json()["action"] == "penalty"
            with psycopg.connect(url) as administrator:
                administrator.execute("LOCK TABLE appeals IN ACCESS EXCLUSIVE MODE")
                refused = await client.judge({**simulated_event(30), "event_id": "meanwhile"})
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_recorded")
                assert await client.database() == "fails: appeals or penalties are refused"

            async def answers() -> bool:
                return await client.database() == "answers"

            await eventually(answers)
            judged = await client.judge({**simulated_event(30), "event_id": "meanwhile"})
            assert judged.json()["action"] == "penalty"
            assert len(client.log()) == 2

    asyncio.run(ask())


def test_a_machine_with_a_key_of_its_own_is_not_let_in_to_tell_sellers_that_a_decision_is_not_theirs(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url, event = postgres_server.database(), simulated_event(30)
    appeal = {"event_id": event["event_id"], "seller_id": event["seller_id"], "reason": "It was the buyer."}

    async def start_two() -> None:
        async with serving(tmp_path / "a", database=url) as one:
            assert (await one.judge(event)).json()["action"] == "penalty"
            with pytest.raises(ValueError, match="person key: expected the one under which people stand in database"):
                async with serving(tmp_path / "b", database=url):
                    raise AssertionError("it started")
            key = tmp_path / "a" / "person.key"
            async with serving(tmp_path / "c", database=url, person_key_file=str(key)) as other:
                assert (await other.http.post("/v1/appeals", json=appeal)).status_code == 201

    asyncio.run(start_two())
