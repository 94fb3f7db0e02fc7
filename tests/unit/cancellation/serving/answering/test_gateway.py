"""The gateway over ASGI: an answer within the deadline, on record before it is sent, whatever the model does."""

from __future__ import annotations

import asyncio
import json
import resource
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from cancellation.decision.rules import rules_v1
from cancellation.serving.observability import metrics as m
from cancellation.text.encoding import EncodedEvent
from tests.servers.serving_replicas import (
    Client,
    WatchedModel,
    eventually,
    files_that_cannot_grow,
    serving,
    simulated_event,
)


class Gate:
    """Holds the model's calls for events whose id begins with `hung` until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()

    def __call__(self, events: Sequence[EncodedEvent]) -> None:
        if any(event.event_id.startswith("hung") for event in events):
            self.reached.set()
            self.opened.wait(30)


def refuse_poison(events: Sequence[EncodedEvent]) -> None:
    if any(event.event_id.startswith("poison") for event in events):
        raise RuntimeError("no scores for this")


def test_an_answer_is_a_verdict_of_the_model_and_on_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            event = simulated_event(1)
            answer = await client.judge(event)
            assert answer.status_code == 200
            verdict = answer.json()
            assert verdict["source"] == "model"
            assert sum(verdict["probabilities"].values()) == pytest.approx(1.0)
            assert "model;dur=" in answer.headers["server-timing"]
            (record,) = client.log()
            assert record["verdict"] == verdict
            assert len(record["features"]) == 68
            assert record["fallback_reason"] is None
            assert record["model_version"] == verdict["model_version"]
            assert record["caller"].startswith("token-")

    asyncio.run(scenario())


def test_a_hung_model_costs_no_more_than_the_deadline_and_never_a_penalty(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with serving(tmp_path, scored_by=WatchedModel(gate)) as client:
            event = {**simulated_event(1), "event_id": "hung-1"}
            answer = await client.judge(event, **{"x-deadline-ms": "50"})
            assert not gate.opened.is_set(), "it was answered while the model still hung"
            gate.opened.set()
            assert answer.status_code == 200
            assert answer.json()["source"] == "fallback"
            assert answer.json()["action"] != "penalty"
            assert client.log()[0]["fallback_reason"] == "late"
            assert client.metrics.total(m.FALLBACKS, reason="late") == 1

    asyncio.run(scenario())


def test_a_kill_switch_reaches_what_the_model_is_judging(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with serving(tmp_path, scored_by=WatchedModel(gate), rollout={"poll_seconds": 0.02}) as client:
            events = [{**simulated_event(index), "event_id": f"hung-{index}"} for index in range(3)]
            asked = asyncio.create_task(client.http.post("/v1/verdicts:batch", json={"events": events}))
            while not gate.reached.is_set():
                await asyncio.sleep(0.01)
            (tmp_path / "policy.toml.kill").write_text("ID\n")
            while client.replica.gateway.policy.market("ID").state != "off":
                await asyncio.sleep(0.01)
            gate.opened.set()
            verdicts = [result["verdict"] for result in (await asked).json()["results"]]
            assert {verdict["source"] for verdict in verdicts} == {"rules"}
            assert all(verdict["policy_version"].endswith("+kill:ID") for verdict in verdicts)
            assert {(one["state"], one["fallback_reason"]) for one in client.log()} == {("off", None)}

    asyncio.run(scenario())


def test_a_duplicate_waits_no_longer_than_its_own_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with serving(tmp_path, scored_by=WatchedModel(gate)) as client:
            event = {**simulated_event(1), "event_id": "hung-1"}
            first = asyncio.create_task(client.judge(event))
            while not gate.reached.is_set():
                await asyncio.sleep(0.01)
            second = await client.judge(event, **{"x-deadline-ms": "100"})
            assert not first.done(), "it waited for the first one's answer"
            gate.opened.set()
            assert second.json()["source"] == "fallback"
            assert (await first).content == second.content, "there is one answer"
            assert len(client.log()) == 1

    asyncio.run(scenario())


def test_a_large_event_is_turned_away_before_the_work_or_not_at_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with serving(tmp_path, scored_by=WatchedModel(gate), limits={"inline_bytes": 0}) as client:
            events = [{**simulated_event(index), "event_id": f"hung-{index}"} for index in range(8)]
            asked = [asyncio.create_task(client.judge(event)) for event in events]
            turned_away = [await one for one in asked[4:]]
            assert {answer.status_code for answer in turned_away} == {429}
            gate.opened.set()
            assert {(await one).status_code for one in asked[:4]} == {200}

    asyncio.run(scenario())


def test_while_a_call_hangs_the_rules_answer_at_once_and_afterwards_the_model_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with serving(tmp_path, scored_by=WatchedModel(gate), model={"calls": 1, "hung_seconds": 0.25}) as client:
            await client.judge({**simulated_event(1), "event_id": "hung-1"}, **{"x-deadline-ms": "400"})
            answer = await client.judge(simulated_event(2))
            assert answer.json()["source"] == "fallback"
            assert client.log()[-1]["fallback_reason"] == "dead"
            assert (await client.http.get("/readyz")).json()["model"] != "answers"
            gate.opened.set()
            for _ in range(100):
                if client.replica.gateway.model.available():
                    break
                await asyncio.sleep(0.01)
            assert (await client.judge(simulated_event(3))).json()["source"] == "model"

    asyncio.run(scenario())


def test_one_event_that_the_model_cannot_score_leaves_the_others_as_they_are_alone(tmp_path: Path) -> None:
    events = [simulated_event(index) for index in range(8)]
    events[4] = {**events[4], "event_id": "poison-4"}

    async def alone() -> list[bytes]:
        async with serving(tmp_path / "alone") as client:
            return [(await client.judge(event)).content for event in events]

    async def together() -> list[bytes]:
        model = WatchedModel(refuse_poison)
        async with serving(tmp_path / "together", scored_by=model, model={"batch_tokens": 4096}) as client:
            answers = await asyncio.gather(*map(client.judge, events))
            assert client.metrics.total(m.POISONED) == 1
            return [answer.content for answer in answers]

    expected, found = asyncio.run(alone()), asyncio.run(together())
    for place in (0, 1, 2, 3, 5, 6, 7):
        assert found[place] == expected[place]
    assert json.loads(found[4])["source"] == "fallback"


def test_the_same_event_twice_gets_the_same_bytes_and_one_record(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            event = simulated_event(1)
            event["order"]["value"] = 0
            first, again = await asyncio.gather(client.judge(event), client.judge(event))
            negative = {**event, "order": {**event["order"], "value": -0.0}}  # of a sum that some languages write so
            reordered = json.dumps(dict(reversed(negative.items())), indent=1).encode()
            later = await client.judge(reordered)
            assert first.content == again.content == later.content
            assert later.headers["x-repeated"] == "1"
            assert len(client.log()) == 1
            conflict = await client.judge({**event, "order_id": "another"})
            assert conflict.status_code == 409
            assert conflict.json()["error"]["field"] == "event_id"
            assert client.metrics.total(m.DUPLICATES, outcome="conflict") == 1

        async with serving(tmp_path) as restarted:
            assert (await restarted.judge(event)).content == first.content

    asyncio.run(scenario())


@pytest.mark.parametrize(("market", "source"), [("MX", "rules"), ("ZZ", "rules"), ("TH", "model")])
def test_the_policy_decides_who_answers(tmp_path: Path, market: str, source: str) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            event = {**simulated_event(1, "MX"), "market": market}
            assert (await client.judge(event)).json()["source"] == source

    asyncio.run(scenario())


def test_in_a_shadow_market_the_model_is_logged_beside_the_rules(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            answer = (await client.judge(simulated_event(1, "MX"))).json()
            assert answer["source"] == "rules"
            (record,) = await client.logged("shadow")
            assert record["verdict"] == answer
            assert record["shadow"]["model_version"] == client.replica.gateway.model.version
            assert client.metrics.total(m.SHADOW_COPIES, shadow="market", outcome="scored") == 1
            assert client.log()[0]["shadow"] is None

    asyncio.run(scenario())


def test_a_kill_switch_and_a_bad_policy_while_it_runs(tmp_path: Path) -> None:
    async def until_state(client: Client, state: str) -> None:
        for _ in range(300):
            if (await client.http.get("/v1/policy/TH")).json()["state"] == state:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"TH never became {state}")

    async def scenario() -> None:
        async with serving(tmp_path, rollout={"poll_seconds": 0.02}) as client:
            assert (await client.judge(simulated_event(1, "TH"))).json()["source"] == "model"
            kill, policy = tmp_path / "policy.toml.kill", tmp_path / "policy.toml"
            kill.write_text("TH\n")
            await until_state(client, "off")
            assert (await client.judge(simulated_event(2, "TH"))).json()["source"] == "rules"
            kill.unlink()
            await until_state(client, "live")
            good = policy.read_text()
            policy.write_text(good.replace("investigate = 0.45", "investigate = 4.5"))
            for _ in range(300):
                seen = (await client.http.get("/v1/policy/TH")).json()
                if seen["refused"]:
                    break
                await asyncio.sleep(0.01)
            assert "investigate" in seen["refused"]
            assert seen["thresholds"]["investigate"] == 0.45
            assert (await client.judge(simulated_event(3, "TH"))).json()["source"] == "model"

    asyncio.run(scenario())


def test_what_cannot_be_written_down_is_not_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            client.replica._archive.decisions.close()
            answer = await client.judge(simulated_event(1))
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_recorded"
            assert answer.headers["retry-after"] == "1"
            assert client.metrics.total(m.LOG_FAILURES) == 1

    asyncio.run(scenario())


def test_a_log_that_cannot_be_written_is_told_of_once_and_that_it_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [one for one in caplog.messages if one.startswith(("a decision could not", "decision log"))]

    async def scenario() -> None:
        async with serving(tmp_path) as client:
            with files_that_cannot_grow():
                assert {(await client.judge(simulated_event(number))).status_code for number in range(4)} == {503}
            assert len(told()) == 1, told()
            await eventually(partial(_is_answered, client))
            assert told()[1:] == [f"decision log {tmp_path / 'log' / 'decisions'}: works again"]

    asyncio.run(scenario())


async def _is_answered(client: Client) -> bool:
    return (await client.judge(simulated_event(5))).status_code == 200


def test_a_decision_is_explained_when_somebody_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            for index in range(40):
                event = simulated_event(index)
                verdict = (await client.judge(event)).json()
                if verdict["action"] != "none" and verdict["decision_factors"]:
                    break
            path = f"/v1/verdicts/{event['event_id']}"
            explained = (await client.http.get(path)).json()
            again = (await client.http.get(path)).json()
            assert explained == again
            assert [factor["code"] for factor in explained["verdict"]["decision_factors"]] == [
                factor["code"] for factor in verdict["decision_factors"]
            ]
            assert any(factor["evidence"] for factor in explained["verdict"]["decision_factors"])
            assert client.metrics.total(m.EXPLANATIONS, outcome="made") == 1
            assert (await client.judge(event)).json() == verdict
            assert (await client.http.get("/v1/verdicts/nobody")).status_code == 404

    asyncio.run(scenario())


def test_of_chats_that_are_logged_by_reference_there_is_no_evidence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, log_events="reference") as client:
            for index in range(40):
                event = simulated_event(index)
                verdict = (await client.judge(event)).json()
                if verdict["action"] != "none" and verdict["decision_factors"]:
                    break
            assert verdict["decision_factors"], "an event with nothing to explain shows nothing"
            explained = (await client.http.get(f"/v1/verdicts/{event['event_id']}")).json()
            assert explained["verdict"] == verdict
            assert client.metrics.total(m.EXPLANATIONS, outcome="made") == 0
            assert all(factor["evidence"] is None for factor in explained["verdict"]["decision_factors"])

    asyncio.run(scenario())


def test_chats_are_redacted_in_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            event = simulated_event(1)
            event["chat"] = [
                {"at": event["cancelled_at"], "sender": "seller", "text": "call me at +62 812 3456 7890, [SELLER]"}
            ]
            assert (await client.judge(event)).status_code == 200
            written = json.dumps(client.log())
            assert "3456" not in written
            assert "PHONE" in written

    asyncio.run(scenario())


def test_the_rules_answer_also_where_the_process_can_open_no_file_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        rules_v1.cache_clear()  # as in a process that has just started
        async with serving(tmp_path) as client:
            assert (await client.judge(simulated_event(1))).json()["source"] == "model"
            ruled = simulated_event(2, "MX")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                answer = await client.judge(ruled)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (answer.status_code, answer.json()["source"]) == (200, "rules")

    asyncio.run(scenario())
