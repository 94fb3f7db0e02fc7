"""A replica that comes back after a mistake was made beside it answers as the one before it did."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cancellation.serving.places import own_draining_path
from tests.servers.serving_replicas import serving, simulated_event, token_of


def test_a_replica_comes_back_with_the_policy_that_was_accepted_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            before = (await client.judge(simulated_event(1))).json()["policy_version"]
        policy = tmp_path / "policy.toml"
        policy.write_text(policy.read_text().replace('state = "live"', 'state = "lvie"', 1))
        async with serving(tmp_path) as client:
            assert (await client.judge(simulated_event(2))).json()["policy_version"] == before
            shown = (await client.http.get("/v1/policy/ID")).json()
            assert "expected off or shadow or live, found 'lvie'" in str(shown["refused"])

    asyncio.run(scenario())


def test_a_policy_that_was_removed_is_not_replaced_by_the_one_that_ships(tmp_path: Path) -> None:
    async def scenario() -> None:
        policy = tmp_path / "policy.toml"
        async with serving(tmp_path):
            policy.write_text(policy.read_text().replace('state = "live"', 'state = "off"'))
        async with serving(tmp_path) as client:
            before = (await client.http.get("/v1/policy/ID")).json()
            assert before["state"] == "off"
        policy.unlink()
        async with serving(tmp_path) as client:
            shown = (await client.http.get("/v1/policy/ID")).json()
            assert shown == {**before, "refused": f"policy {policy}: cannot be read; put it back"}
            assert not policy.exists()

    asyncio.run(scenario())


def test_a_replica_comes_back_with_the_tokens_that_were_accepted_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            ready = (await client.http.get("/readyz")).json()
            assert ready["tokens"] == "as the file says"
        with (tmp_path / "tokens.txt").open("a") as tokens:
            tokens.write("a-token-that-is-new-0123 verdikt\n")
        async with serving(tmp_path) as client:
            assert (await client.judge(simulated_event(3))).status_code == 200
            new = {"Authorization": "Bearer a-token-that-is-new-0123"}
            assert (await client.http.get("/v1/policy/ID", headers=new)).status_code == 401
            ready = await client.http.get("/readyz")
            assert (ready.status_code, ready.json()["tokens"]) == (200, "refused: nobody new is let in")
            shown = (await client.http.get("/metrics")).text
            assert "cancellation_tokens_refused 1" in shown

    asyncio.run(scenario())


def test_tokens_whose_file_was_removed_are_let_in_by_the_replica_that_comes_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path):
            pass
        tokens = tmp_path / "tokens.txt"
        token = token_of(tokens)
        tokens.unlink()
        async with serving(tmp_path, token=token) as client:
            assert (await client.judge(simulated_event(5))).status_code == 200
            assert (await client.http.get("/readyz")).json()["tokens"] == "refused: nobody new is let in"
        assert not tokens.exists()

    asyncio.run(scenario())


def test_of_two_services_of_one_folder_the_one_that_stops_is_not_ready_and_the_other_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, service_name="8001") as old, serving(tmp_path, service_name="8002") as new:
            own_draining_path(old.replica.settings).touch()
            assert (await old.http.get("/readyz")).json()["status"] == "draining"
            assert (await new.http.get("/readyz")).json()["status"] == "ready"
            (tmp_path / "draining").touch()
            assert (await new.http.get("/readyz")).json()["status"] == "draining"

    asyncio.run(scenario())


def test_a_kill_switch_for_a_market_that_the_policy_does_not_have_holds_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path):
            pass
        kill = tmp_path / "policy.toml.kill"
        kill.write_text("UK\nBR\n")
        async with serving(tmp_path) as client:
            ready = await client.http.get("/readyz")
            assert (ready.status_code, ready.json()["kill_switch"]) == (200, "names no market of the policy: UK")
            shown = {code: (await client.http.get(f"/v1/policy/{code}")).json() for code in ("UK", "BR", "ID")}
            assert {code: (one["known"], one["killed"], one["state"]) for code, one in shown.items()} == {
                "UK": (False, True, "off"),
                "BR": (True, True, "off"),
                "ID": (True, False, "live"),
            }
        assert "UK is killed, and is no market of the policy; it has BR " in caplog.text
        kill.write_text("BR\n")
        async with serving(tmp_path) as client:
            assert "kill_switch" not in (await client.http.get("/readyz")).json()

    asyncio.run(scenario())
