"""What those who run the database do to it: locks, a failover, limits; each is told, and nothing is given twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from tests.servers.postgres import PostgresServer
from tests.servers.serving_replicas import Client, serving, simulated_event


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 30
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def _says(client: Client) -> str:
    answer = await client.http.get("/readyz")
    assert answer.status_code == 200
    return answer.json()["database"]


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
                assert await _says(client) == "fails: appeals or penalties are refused"

            async def answers() -> bool:
                return await _says(client) == "answers"

            await _until(answers)
            judged = await client.judge({**simulated_event(30), "event_id": "meanwhile"})
            assert judged.json()["action"] == "penalty"
            assert len(client.log()) == 2

    asyncio.run(ask())
