"""Three gateways as on three machines, each with its own disk, on one PostgreSQL: one answer, one policy, one
ledger."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cancellation.serving.records.people import make_key_file
from cancellation.serving.settings import RolloutSettings
from jobs.cancellation_rollout import RolloutJob
from jobs.cancellation_rollout import main as rollout
from tests.servers.postgres import PostgresServer
from tests.servers.serving_replicas import Client, serving, simulated_event


@asynccontextmanager
async def three(folder: Path, url: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        key = folder / "person.key"
        make_key_file(key)
        machines = [serving(folder / str(n), database=url, person_key_file=str(key)) for n in range(3)]
        yield [await stack.enter_async_context(machine) for machine in machines]


async def _explained(client: Client, path: str) -> dict[str, Any]:
    """Ask until the evidence is there: a busy machine may need more than the time of one call for it."""
    while True:
        decision = (await client.http.get(path)).json()
        if decision["verdict"]["decision_factors"][0]["evidence"] is not None:
            return decision


async def until(clients: Sequence[Client], holds: Callable[[dict[str, Any]], bool]) -> float:
    """Wait until each one's view of the market says so; give the seconds that took."""
    started = time.monotonic()
    while True:
        views = [(await client.http.get("/v1/policy/ID")).json() for client in clients]
        if all(holds(view) for view in views):
            return time.monotonic() - started
        assert time.monotonic() - started < 60, views
        await asyncio.sleep(0.05)


def test_an_event_has_one_answer_whichever_gateway_is_asked(tmp_path: Path, postgres_server: PostgresServer) -> None:
    async def ask() -> None:
        async with three(tmp_path, postgres_server.database()) as clients:
            event = simulated_event(1)
            first, *others = await asyncio.gather(*(client.judge(event) for client in clients))
            assert {answer.content for answer in others} == {first.content}
            assert sum(len(client.log()) for client in clients) == 1
            assert (await clients[2].judge({**event, "seller_id": "another"})).status_code == 409
            path = f"/v1/verdicts/{event['event_id']}"
            explained = await _explained(clients[0], path)
            assert [(await client.http.get(path)).json() for client in clients] == [explained] * 3
            feedback = {"event_id": event["event_id"], "outcome": "appealed"}
            said = [await client.http.post("/v1/feedback", json=feedback) for client in clients]
            assert [answer.json()["known"] for answer in said] == [True] * 3
            assert [answer.headers.get("x-repeated") for answer in said] == [None, "1", "1"]

    asyncio.run(ask())


def test_the_file_that_a_database_began_with_may_be_gone(tmp_path: Path, postgres_server: PostgresServer) -> None:
    async def ask() -> None:
        first, key = tmp_path / "first.toml", tmp_path / "key"
        make_key_file(key)
        shutil.copyfile("cancellation/decision/policy.toml", first)
        rollout_settings = RolloutSettings(policy=str(first))
        settings = {"database": postgres_server.database(), "rollout": rollout_settings, "person_key_file": str(key)}
        async with serving(tmp_path / "1", **settings):
            pass
        first.unlink()
        async with serving(tmp_path / "2", **settings) as client:
            assert (await client.http.get("/v1/policy/ID")).json()["state"] == "live"

    asyncio.run(ask())


def test_a_chat_with_a_null_character_is_on_record_and_an_id_with_one_is_of_nothing(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    event = simulated_event(1)
    event["chat"] = [{"at": event["cancelled_at"], "sender": "seller", "text": "please\0 cancel"}]

    async def ask() -> None:
        async with serving(tmp_path, database=postgres_server.database()) as client:
            assert (await client.judge(event)).status_code == 200
            assert (await client.http.get(f"/v1/verdicts/{event['event_id']}")).status_code == 200
            assert (await client.http.get("/v1/verdicts/nul%00")).status_code == 404
            assert (await client.http.get("/v1/statements/nul%00")).status_code == 404

    asyncio.run(ask())


def test_a_kill_switch_thrown_once_is_in_force_on_every_gateway_in_five_seconds(
    tmp_path: Path, postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgres_server.database()

    async def ask() -> None:
        async with three(tmp_path, url) as clients:
            at = time.time()
            rollout(RolloutJob(database=url, kill=("ID",)))
            assert capsys.readouterr().out.endswith("killed: ID\n")
            assert await until(clients, lambda view: view["killed"]) < 5
            for number, client in enumerate(clients):
                answer = (await client.judge(simulated_event(10 + number))).json()
                assert (answer["source"], answer["policy_version"].endswith("+kill:ID")) == ("rules", True)
            rollout(RolloutJob(database=url, revive=("ID",)))
            assert await until(clients, lambda view: not view["killed"]) < 5
            history = [
                (await client.http.get("/v1/policy/ID", params={"at": stamp})).json()
                for stamp in (_instant(at), _instant(time.time()))
                for client in clients
            ]
            assert history == [history[0]] * 3 + [history[3]] * 3
        assert not list(tmp_path.rglob("policy.toml*")), "a file that changes nothing must not lie there to be edited"

    asyncio.run(ask())


def test_while_the_database_is_away_there_are_answers_and_no_penalties(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.database()

    async def ask() -> None:
        async with serving(tmp_path, database=url) as client:
            penalised = [
                index
                for index in (30, 35, 50)  # the shipped model and policy punish these
                if (await client.judge(simulated_event(index))).json()["action"] == "penalty"
            ]
            event = {**simulated_event(penalised[0]), "event_id": "at-first"}
            postgres_server.cut_off(url)
            refused = await client.judge(event)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_recorded")
            assert await until([client], lambda view: view["killed"]) < 15
            by_rules = await client.judge(event)
            assert (by_rules.status_code, by_rules.json()["source"], by_rules.json()["action"] == "penalty") == (
                200,
                "rules",
                False,
            )

    asyncio.run(ask())


def test_while_the_database_is_away_nobody_is_told_that_a_decision_does_not_exist(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url, event = postgres_server.database(), simulated_event(30)
    appeal = {"event_id": event["event_id"], "seller_id": event["seller_id"], "reason": "No."}
    feedback = {"event_id": event["event_id"], "outcome": "confirmed", "label": "inconclusive"}

    async def ask() -> None:
        async with serving(tmp_path, database=url) as client:
            assert (await client.judge(event)).json()["action"] == "penalty"
            now = _instant(time.time() + 1)  # whole seconds: the policy may be younger than this one's beginning
            calls = [
                ("GET", f"/v1/verdicts/{event['event_id']}", None, 200),
                ("GET", f"/v1/statements/{event['event_id']}", None, 200),
                ("GET", f"/v1/policy/ID?at={now}", None, 200),
                ("POST", "/v1/feedback", feedback, 422),
                ("POST", "/v1/appeals", appeal, 201),
            ]
            postgres_server.cut_off(url)
            for method, path, body, _ in calls:
                answer = await client.http.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_recorded"), path
                assert answer.headers["retry-after"] == "1"
            postgres_server.let_in(url)
            for method, path, body, status in calls:
                while (answer := await client.http.request(method, path, json=body)).status_code == 503:
                    await asyncio.sleep(0.05)
                assert answer.status_code == status, path

    asyncio.run(ask())


def test_a_database_that_lets_nobody_in_is_the_reason_of_a_refused_start(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async def start() -> None:
        async with serving(tmp_path, database=postgres_server.url("nowhere")):
            pass

    with pytest.raises(OSError, match=r"verdicts@127.0.0.1:\d+/nowhere: PostgreSQL failed .*does not exist"):
        asyncio.run(start())


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
