"""A database that is locked, hangs or is full: answers in time, nothing twice, and whoever watches is told."""

from __future__ import annotations

import asyncio
import mmap
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cancellation.serving.observability import metrics as m
from cancellation.serving.records.people import make_key_file
from jobs.cancellation_rollout import RolloutJob
from jobs.cancellation_rollout import main as rollout
from tests.servers.postgres import PostgresServer
from tests.servers.serving_replicas import Client, eventually, serving, simulated_event
from tests.slow.faults.small_disk import NO_DISK, small_disk

CALLS = 12


async def _punished(client: Client) -> dict[str, Any]:
    """An event from which a penalty has followed."""
    event = simulated_event(30)
    assert (await client.judge(event)).json()["action"] == "penalty"
    return event


async def _decision(client: Client, event_id: str) -> int:
    return (await client.http.get(f"/v1/verdicts/{event_id}")).status_code


def _fill(path: Path, pages_left: int) -> None:
    """Fill the disk that a file lies on, but for some pages."""
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(mmap.PAGESIZE))
        file.truncate(file.tell() - pages_left * mmap.PAGESIZE)


async def _ask(client: Client) -> float:
    """Ask one after the other, as many callers would; give the seconds that all of it took."""
    started = time.monotonic()
    for number in range(CALLS):
        event = {**simulated_event(1), "event_id": f"meanwhile-{number}"}
        assert (await client.judge(event, **{"x-deadline-ms": "5000"})).status_code == 200
    return time.monotonic() - started


def test_while_another_holds_the_file_answers_wait_once_and_it_is_seen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            punished = await _punished(client)
            with closing(sqlite3.connect(tmp_path / "recent.sqlite", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                assert await _ask(client) < CALLS / 2, "each waited for the database"
                told = [one.getMessage() for one in caplog.records if "look at the database" in one.getMessage()]
                assert 1 <= len(told) < CALLS / 2, "a line for each call fills the disk while a database is away"
                assert (await client.database()).startswith("fails")
                assert client.metrics.total(m.DATABASE_FAILS, work="write") == 1
                explained = await client.http.get(f"/v1/verdicts/{punished['event_id']}")
                assert explained.status_code == 200, "it can be read, and explained"
                assert [record["event_id"] for record in client.log()] == [
                    punished["event_id"],
                    *(f"meanwhile-{number}" for number in range(CALLS)),
                ], "on record, each once"
                assert await _decision(client, "meanwhile-3") == 200
                assert await _decision(client, "of-another-replica") == 503, "it may be in the log alone"
                again = await client.judge({**simulated_event(1), "event_id": "meanwhile-3"})
                assert again.headers["x-repeated"] == "1"
                assert (await client.judge({**simulated_event(2), "event_id": "meanwhile-3"})).status_code == 409
                holder.execute("ROLLBACK")

            async def answers() -> bool:
                return await client.database() == "answers"

            await eventually(answers)
            assert client.metrics.total(m.DATABASE_FAILS) == 0
            assert (await client.judge(simulated_event(2))).status_code == 200
            found = await client.http.get(f"/v1/verdicts/{simulated_event(2)['event_id']}")
            assert found.status_code == 200
            assert len(client.log()) == CALLS + 2

            async def not_there() -> bool:
                return await _decision(client, "of-another-replica") == 404

            await eventually(not_there)
        async with serving(tmp_path) as client:
            assert {await _decision(client, f"meanwhile-{number}") for number in range(CALLS)} == {200}

    asyncio.run(scenario())


def test_what_one_replica_has_only_logged_another_of_the_machine_does_not_deny(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as one, serving(tmp_path) as other:
            assert await _decision(other, "meanwhile") == 404
            with closing(sqlite3.connect(tmp_path / "recent.sqlite", isolation_level=None)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                judged = await one.judge({**simulated_event(1), "event_id": "meanwhile"}, **{"x-deadline-ms": "5000"})
                assert judged.status_code == 200
                for path in ("/v1/verdicts/meanwhile", "/v1/statements/meanwhile"):
                    asked = await other.http.get(path)
                    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "not_recorded"), path
                    assert asked.headers["retry-after"] == "1"
                assert await _decision(one, "meanwhile") == 200
                holder.execute("ROLLBACK")

            async def known() -> bool:
                return await _decision(other, "meanwhile") == 200

            async def not_there() -> bool:
                return await _decision(other, "of-nobody") == 404

            await eventually(known)
            await eventually(not_there)

    asyncio.run(scenario())


def test_a_server_that_hangs_costs_one_wait_and_gives_no_penalty(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, database=postgres_server.database()) as client:
            punished = await _punished(client)
            with postgres_server.hanging():
                assert await _ask(client) < CALLS / 2, "each waited for the database"
                assert (await client.database()).startswith("fails")
                refused = await client.judge({**punished, "event_id": "meanwhile"})
                assert refused.status_code == 503 or refused.json()["source"] == "rules"
                asked = await client.http.get(f"/v1/verdicts/{punished['event_id']}")
                assert (asked.status_code, asked.json()["error"]["code"]) == (503, "not_recorded")

            async def answers() -> bool:
                return await client.database() == "answers"

            await eventually(answers)
            assert (await client.http.get(f"/v1/verdicts/{punished['event_id']}")).status_code == 200
            logged = [record["event_id"] for record in client.log()]
            assert len(logged) == len(set(logged)), "nothing was logged twice"
            assert [one["action"] for one in (record["verdict"] for record in client.log())].count("penalty") == 1

    asyncio.run(scenario())


_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER {change} ON decisions {when} FOR EACH ROW EXECUTE FUNCTION refuse()
"""
_AT_COMMIT = "DEFERRABLE INITIALLY DEFERRED"


@contextmanager
def _refusing(url: str, change: str, when: str = "") -> Iterator[None]:
    """A database that refuses to change decisions, at once or only when the transaction is to be made good."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_REFUSE.format(change=change, when=when).encode())
        yield
        connection.execute("DROP FUNCTION refuse() CASCADE")


async def _refused(client: Client, event: dict[str, Any]) -> None:
    answer = await client.judge(event)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_recorded")


async def _killed(url: str, client: Client) -> None:
    """Wait until a kill switch is seen: from then on a repeat that is judged anew says something else."""
    rollout(RolloutJob(database=url, kill=("ID",)))

    async def seen() -> bool:
        return (await client.http.get("/v1/policy/ID")).json()["killed"] and await client.database() == "answers"

    await eventually(seen)


def test_a_penalty_that_the_database_refused_at_the_last_step_is_in_no_log(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.database()

    async def scenario() -> None:
        async with serving(tmp_path, database=url) as client:
            with _refusing(url, "INSERT", _AT_COMMIT):
                await _refused(client, simulated_event(30))
            assert client.log() == []
            await _killed(url, client)
            answer = await client.judge(simulated_event(30))
            assert (answer.status_code, answer.json()["source"]) == (200, "rules")
            assert [record["verdict"] for record in client.log()] == [answer.json()]

    asyncio.run(scenario())


@pytest.mark.parametrize(("when", "lines"), [("", 0), (_AT_COMMIT, 1)])
def test_a_penalty_on_record_that_was_not_logged_for_good_is_what_a_repeat_says_and_the_log_holds(
    tmp_path: Path, postgres_server: PostgresServer, when: str, lines: int
) -> None:
    event, key = simulated_event(30), tmp_path / "key"
    make_key_file(key)
    shared = {"database": (url := postgres_server.database()), "person_key_file": str(key)}

    async def scenario() -> None:
        async with serving(tmp_path / "a", **shared) as one, serving(tmp_path / "b", **shared) as other:
            with _refusing(url, "UPDATE", when):
                await _refused(one, event)
                asked = await other.http.get(f"/v1/verdicts/{event['event_id']}")
                assert (asked.status_code, asked.json()["error"]["code"]) == (503, "not_recorded")
            await _killed(url, other)
            answer = await other.judge(event)
            assert (answer.status_code, answer.json()["action"]) == (200, "penalty")
            assert await _decision(one, event["event_id"]) == 200
            logged = [record["verdict"] for client in (one, other) for record in client.log()]
            assert logged == [answer.json()] * (2 * lines + 1), "the same, or nothing: never two opinions"

    asyncio.run(scenario())


def test_appeals_wait_no_longer_for_a_server_that_hangs_than_verdicts_do(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, database=postgres_server.database()) as client:
            punished = await _punished(client)
            appeal = {"event_id": punished["event_id"], "seller_id": punished["seller_id"], "reason": "I did not ask."}
            opened = await client.http.post("/v1/appeals", json=appeal)
            place = f"/v1/reviews/{opened.json()['appeal_id']}"
            calls: list[tuple[str, str, dict[str, str] | None]] = [
                ("GET", "/v1/reviews", None),
                ("GET", place, None),
                ("GET", f"/v1/statements/{punished['event_id']}", None),
                ("POST", "/v1/appeals", appeal),
                ("POST", place, {"step": "take", "reviewer": "ops-17"}),
                ("POST", "/v1/verdicts", {**punished, "event_id": "another"}),
            ]
            with postgres_server.hanging():
                for method, path, message in calls:
                    started = time.monotonic()
                    answer = await client.http.request(method, path, json=message)
                    assert time.monotonic() - started < 2.5, (method, path)
                    refused = answer.status_code == 503 and answer.headers["retry-after"] == "1"
                    assert refused or answer.json().get("source") == "rules", (method, path)

            async def taken() -> bool:
                return (await client.http.post(place, json={"step": "take", "reviewer": "ops-17"})).status_code == 200

            async def nothing_fails() -> bool:
                return client.metrics.total(m.DATABASE_FAILS) == 0

            await eventually(taken)
            await eventually(nothing_fails)
            assert client.log("appeals")[0]["state"] == "open"

    asyncio.run(scenario())


def test_a_log_that_takes_nothing_makes_the_machine_unready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            assert (await client.http.get("/readyz")).status_code == 200
            client.replica._archive.decisions.close()
            assert (await client.judge(simulated_event(1))).status_code == 503
            answer = await client.http.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (503, "decisions cannot be written down")

    asyncio.run(scenario())


def test_on_a_full_disk_a_decision_that_was_only_logged_is_known_and_is_on_record_when_there_is_room(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        with small_disk(tmp_path / "disk", "3m") as disk:
            if disk is None:
                pytest.skip(NO_DISK)
            async with serving(disk / "data") as client:
                statuses: dict[str, int] = {}
                assert (await client.judge(simulated_event(20))).status_code == 200
                _fill(disk / "filler", 9)  # pages: room for some lines of the log, not for all that a database writes
                for number in range(6):
                    event = simulated_event(number)
                    statuses[event["event_id"]] = (await client.judge(event)).status_code
                logged = [record["event_id"] for record in client.log()]
                assert logged[1:] == [event_id for event_id, status in statuses.items() if status == 200]
                assert client.metrics.total(m.DATABASE_FAILS, work="write") == 1
                for event_id, status in statuses.items():
                    assert await _decision(client, event_id) == (200 if status == 200 else 503)
                (disk / "filler").unlink()

                async def answers() -> bool:
                    return await _decision(client, "nobody-sent-it") == 404

                await eventually(answers)
            async with serving(disk / "data") as client:
                for event_id, status in statuses.items():
                    assert await _decision(client, event_id) == (200 if status == 200 else 404)

    asyncio.run(scenario())


def test_on_a_full_disk_appeals_are_refused_and_their_database_is_said_to_fail_until_there_is_room(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        with small_disk(tmp_path / "disk", "4m") as disk:
            if disk is None:
                pytest.skip(NO_DISK)
            async with serving(disk / "data") as client:
                punished = await _punished(client)
                appeal = {"event_id": punished["event_id"], "seller_id": punished["seller_id"], "reason": "I did not."}
                _fill(disk / "filler", 0)
                assert (await client.http.post("/v1/appeals", json=appeal)).status_code == 503
                until = time.monotonic() + 2.5  # two attempts to write: none may pass for one that went well
                while time.monotonic() < until:
                    assert client.metrics.total(m.DATABASE_FAILS, work="appeals-write") == 1
                    await asyncio.sleep(0.02)
                (disk / "filler").unlink()

                async def taken() -> bool:
                    return (await client.http.post("/v1/appeals", json=appeal)).status_code == 201

                await eventually(taken)

    asyncio.run(scenario())
