"""Appeals through the endpoint: from the seller's words to the reversal, the monitor, and oblivion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow.dataset as ds
import pytest

from cancellation.events.event import parse_event
from cancellation.monitoring.run import MonitorSettings, monitor_day
from cancellation.serving.observability import metrics as m
from cancellation.serving.records.people import make_key_file
from cancellation.serving.settings import ServingSettings
from jobs.cancellation_forget import ForgetJob
from jobs.cancellation_forget import main as forget
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.servers.serving_replicas import Client, serving, simulated_event

WORDS = "I never asked for it; call me on +62 812 3456 7890."


async def contestable(client: Client, count: int = 1) -> list[dict[str, Any]]:
    """Judge simulated events until something has followed from so many found induced, the first of them a penalty."""
    found: list[dict[str, Any]] = []
    for index in range(30, 110):  # the shipped model and policy punish number 30
        event = simulated_event(index)
        verdict = (await client.judge(event)).json()
        followed = verdict["action"] == "penalty" or (found and verdict["action"] != "none")
        if followed and verdict["verdict"] == "induced":
            found.append(event)
        if len(found) == count:
            return found
    raise AssertionError("nothing follows from any of the events")


async def lodge(client: Client, event: dict[str, Any], reason: str = WORDS, **more: Any) -> httpx.Response:
    return await client.http.post(
        "/v1/appeals", json={"event_id": event["event_id"], "seller_id": event["seller_id"], "reason": reason, **more}
    )


async def step(client: Client, appeal_id: str, name: str, reviewer: str = "ops-17", **more: Any) -> httpx.Response:
    return await client.http.post(f"/v1/reviews/{appeal_id}", json={"step": name, "reviewer": reviewer, **more})


async def overturn(client: Client, event: dict[str, Any]) -> str:
    appeal_id = (await lodge(client, event)).json()["appeal_id"]
    await step(client, appeal_id, "take")
    granted = await step(client, appeal_id, "overturn", label="not_induced", reason="The buyer wanted it.")
    assert granted.json()["state"] == "overturned"
    return appeal_id


def shipped(archive: Path, log: str) -> list[dict[str, Any]]:
    return ds.dataset(archive / log, format="parquet", partitioning=None).to_table().to_pylist()


def test_an_investigation_that_accused_nobody_is_overturned_with_its_own_verdict(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path / "data", output=str(tmp_path / "archive")) as client:
            for index in range(30, 300):
                verdict = (await client.judge(event := simulated_event(index))).json()
                if (verdict["action"], verdict["verdict"]) == ("investigate", "not_induced"):
                    break
            assert verdict["action"] == "investigate"
            appeal_id = await overturn(client, event)
            assert (await client.http.get(f"/v1/appeals/{appeal_id}")).json()["state"] == "overturned"
            assert client.metrics.total(m.FEEDBACK, outcome="confirmed") == 1
        (said,) = [row for row in shipped(tmp_path / "archive", "feedback") if row["outcome"] != "appealed"]
        assert (said["outcome"], said["label"]) == ("confirmed", "not_induced")

    asyncio.run(scenario())


def test_a_penalty_that_was_taken_back_is_not_given_again_and_a_later_decision_is_one_of_its_own(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as client:
            (event,) = await contestable(client)
            first = await overturn(client, event)
        async with serving(tmp_path, retention_hours=1e-9) as client:  # what was decided is forgotten at once
            again = await client.judge(event)
            assert (again.status_code, again.json()["action"]) == (200, "investigate")
            assert "x-repeated" not in again.headers
            assert client.metrics.total(m.PENALTIES_WITHHELD, reason="overturned") == 1
            other = {**event, "order_id": "of-somebody-else"}
            assert (await client.judge(other)).json()["action"] == "penalty"
            assert (await client.judge(event)).json()["action"] == "investigate"
        async with serving(tmp_path) as client:
            statement = (await client.http.get(f"/v1/statements/{event['event_id']}")).json()
            assert "penalty" not in statement["what"]
            assert statement["contest"].startswith("If you think that this is wrong, you can appeal")
            second = await lodge(client, event)
            assert (second.status_code, second.json()["round"]) == (201, 2)
            assert second.json()["decision"]["action"] == "investigate"
            assert (await lodge(client, event)).json() == second.json()
            assert (await lodge(client, event, "Other words.")).status_code == 409
            assert (await client.http.get(f"/v1/appeals/{first}")).json()["state"] == "overturned"

    asyncio.run(scenario())


def test_an_appeal_is_granted_and_everybody_who_has_to_know_reads_of_it(tmp_path: Path) -> None:
    archive = tmp_path / "archive"

    async def scenario() -> tuple[str, dict[str, Any]]:
        async with serving(tmp_path / "data", output=str(archive)) as client:
            (event,) = await contestable(client)
            statement = (await client.http.get(f"/v1/statements/{event['event_id']}")).json()
            assert "put a penalty on your seller account" in statement["what"]
            assert statement["why"]
            assert all(why["place"] for why in statement["why"])
            opened = await lodge(client, event)
            appeal_id = opened.json()["appeal_id"]
            assert (opened.status_code, opened.headers["location"]) == (201, f"/v1/appeals/{appeal_id}")
            assert opened.json()["history"][0]["reason"] == "I never asked for it; call me on <PHONE>."
            again = await lodge(client, event)
            assert (again.status_code, again.headers["x-repeated"], again.json()) == (200, "1", opened.json())
            second = await lodge(client, event, "Other words.")
            assert (second.status_code, second.json()["error"]["code"]) == (409, "conflict")
            assert f"an appeal under way, {appeal_id}" in second.json()["error"]["message"]
            (waiting,) = (await client.http.get("/v1/reviews")).json()["appeals"]
            assert waiting == opened.json()
            assert (await step(client, appeal_id, "take")).json()["state"] == "with_reviewer"
            same = await step(client, appeal_id, "overturn", label="induced", reason="x")
            assert (same.status_code, same.json()["error"]["field"]) == (422, "label")
            words = {"label": "not_induced", "reason": "The buyer wanted it."}
            assert (await step(client, appeal_id, "overturn", **words)).status_code == 200
            assert (await step(client, appeal_id, "overturn", **words)).headers["x-repeated"] == "1"
            assert (await step(client, appeal_id, "uphold", reason="No.")).status_code == 409
            told = (await client.http.get(f"/v1/statements/{event['event_id']}")).json()["contest"]
            assert "the decision was wrong and its action is reversed. The reason: The buyer wanted it." in told
            case = (await client.http.get(f"/v1/appeals/{appeal_id}")).json()
            assert [entry["state"] for entry in case["history"]] == ["open", "with_reviewer", "overturned"]
            assert (await client.http.get("/v1/reviews")).json() == {"overdue": 0, "appeals": []}
            assert client.metrics.total(m.APPEALS, market="ID") == 3
            assert client.metrics.total(m.FEEDBACK, outcome="rejected") == 1
            return appeal_id, event

    appeal_id, event = asyncio.run(scenario())
    (reversal,) = shipped(archive, "reversals")
    assert (reversal["appeal_id"], reversal["event_id"]) == (appeal_id, event["event_id"])
    assert (reversal["action"], reversal["market"], reversal["reviewer"]) == ("penalty", "ID", "ops-17")
    assert "reason" not in reversal
    history = sorted(shipped(archive, "appeals"), key=lambda row: row["received_at"])
    assert [(row["state"], row["author"]) for row in history] == [
        ("open", "seller"),
        ("with_reviewer", "ops-17"),
        ("overturned", "ops-17"),
    ]
    assert parse_event(history[-1]["event"]).event_id == event["event_id"]
    day = datetime.now(UTC).date()
    found = monitor_day(
        str(archive), str(tmp_path / "out"), day, profile=None, profile_missing=None, settings=MonitorSettings()
    )
    assert [(one.event_id, one.right) for one in found.feedback[-1].reviews] == [(event["event_id"], False)]
    assert sum(found.feedback[-1].appeals.values()) == 1
    assert found.precision[""].measured == 0.0
    (wrong,) = [one for one in found.decision.triggers if one.name == "wrong_predictions"]
    assert wrong.reason.startswith("1 of 1,000 confirmed wrong predictions")


def test_what_cannot_be_appealed_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async def refused(client: Client, event: dict[str, Any], status: int, said: str, **more: Any) -> None:
        answer = await lodge(client, event, **more)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]["message"]
        assert "SECRET" not in answer.text

    async def scenario() -> None:
        async with serving(tmp_path) as client:
            (event,) = await contestable(client)
            await refused(
                client, {**event, "seller_id": "SECRET"}, 422, "expected the seller whom the decision is about"
            )
            await refused(client, {**event, "event_id": "SECRET"}, 404, "expected the id of a decision")
            await refused(client, event, 404, "expected the id of a decision", market="TH")
            for nothing in ("  ", "\u200b", " \u200b\u2060 "):
                await refused(client, event, 422, "at least one word", reason=nothing)
            await refused(client, event, 422, "expected a day such as", day="SECRET")
            nothing = await _without_consequence(client)
            await refused(client, nothing, 409, "nothing followed from this decision")
            reasons = await client.http.get(f"/v1/statements/{nothing['event_id']}")
            assert (reasons.status_code, reasons.json()["error"]["code"]) == (409, "nothing_followed")
            assert (await client.http.get("/v1/appeals/SECRET")).status_code == 404
            assert (await step(client, "SECRET", "take")).status_code == 404
            for body in ({}, {"step": "drop", "reviewer": "a"}, {"step": "uphold", "reviewer": "a"}):
                assert (await client.http.post("/v1/reviews/x", json=body)).status_code == 422
            assert (await client.http.get("/v1/reviews?markt=ID")).status_code == 422
            assert client.log("appeals") == client.log("reversals") == []

    async def late() -> None:
        async with serving(tmp_path / "late", appeals={"window_days": 1e-9}) as client:
            (event,) = await contestable(client)
            await refused(client, event, 409, "found a later one")

    asyncio.run(scenario())
    asyncio.run(late())


async def _without_consequence(client: Client) -> dict[str, Any]:
    for index in range(200):
        event = simulated_event(index)
        if (await client.judge(event)).json()["action"] == "none":
            return event
    raise AssertionError("something follows from every event")


def test_sellers_and_reviewers_have_scopes_of_their_own_and_the_page_needs_none(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-for-sellers appeal\na-token-for-reviewers review\n")
    tokens.chmod(0o600)
    allowed = {
        "a-token-for-sellers": {("POST", "/v1/appeals"), ("GET", "/v1/appeals/x"), ("GET", "/v1/statements/x")},
        "a-token-for-reviewers": {("GET", "/v1/reviews"), ("GET", "/v1/reviews/x"), ("POST", "/v1/reviews/x")},
    }
    calls = set.union(*allowed.values())

    async def scenario() -> None:
        async with serving(tmp_path / "data", tokens_file=str(tokens)) as client:
            for token, own in allowed.items():
                client.http.headers["Authorization"] = f"Bearer {token}"
                forbidden = {
                    (method, path)
                    for method, path in calls
                    if (await client.http.request(method, path, json={})).status_code == 403
                }
                assert forbidden == calls - own
            wrong = await client.http.delete("/v1/reviews/x")
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")
            del client.http.headers["Authorization"]
            assert {(await client.http.request(method, path, json={})).status_code for method, path in calls} == {401}
            page = await client.http.get("/reviews")
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")

    asyncio.run(scenario())


@asynccontextmanager
async def gateways(folder: Path, url: str, key: Path) -> AsyncIterator[list[Client]]:
    """Gateways as on three machines."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serving(folder / str(n), database=url, person_key_file=str(key)))
            for n in range(3)
        ]


def test_of_two_reviewers_on_two_machines_who_decide_at_once_one_is_told_409(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    make_key_file(tmp_path / "key")

    async def scenario() -> None:
        async with gateways(tmp_path, postgres_server.database(), tmp_path / "key") as clients:
            first, second, third = clients
            events = await contestable(first, 4)
            for event in events:
                opened = await asyncio.gather(*(lodge(client, event) for client in clients))
                assert sorted(answer.status_code for answer in opened) == [200, 200, 201]
                (appeal_id,) = {answer.json()["appeal_id"] for answer in opened}
                assert (await step(third, appeal_id, "take", "ann")).status_code == 200
                assert (await step(first, appeal_id, "take", "bob")).status_code == 409
                assert (await step(first, appeal_id, "take", "bob", takes_over_from="ann")).status_code == 200
                decided = await asyncio.gather(
                    step(first, appeal_id, "uphold", "bob", reason="It stands."),
                    step(second, appeal_id, "overturn", "bob", label="inconclusive", reason="Nobody knows."),
                )
                assert sorted(answer.status_code for answer in decided) == [200, 409]
                (won,) = [answer.json() for answer in decided if answer.status_code == 200]
                assert (await third.http.get(f"/v1/appeals/{appeal_id}")).json() == won
            reversed_events = [record["event_id"] for client in clients for record in client.log("reversals")]
            upheld = [
                record for client in clients for record in client.log("feedback") if record["outcome"] == "confirmed"
            ]
            assert len(reversed_events) + len(upheld) == len(events)

    asyncio.run(scenario())


def test_a_decision_of_long_ago_is_appealed_out_of_the_archive(tmp_path: Path) -> None:
    archive, key = str(tmp_path / "archive"), tmp_path / "key"
    make_key_file(key)
    day = str(datetime.now(UTC).date())

    async def before() -> dict[str, Any]:
        async with serving(tmp_path / "then", output=archive, person_key_file=str(key)) as client:
            return (await contestable(client))[0]

    async def after(event: dict[str, Any]) -> None:
        async with serving(tmp_path / "now", output=archive, person_key_file=str(key)) as client:
            name, place = event["event_id"], {"market": "ID", "day": day}
            assert (await lodge(client, event)).status_code == 404
            assert (await lodge(client, event, market="ID", day="2020-01-01")).status_code == 404
            reasons = (await client.http.get(f"/v1/statements/{name}", params=place)).json()
            assert reasons["why"]
            assert all(why["place"] for why in reasons["why"])
            opened = await lodge(client, event, **place)
            assert opened.status_code == 201
            review = (await client.http.get(f"/v1/reviews/{opened.json()['appeal_id']}")).json()
            assert parse_event(review["event"]).event_id == name
            assert review["statement"]["why"] == reasons["why"]

    asyncio.run(after(asyncio.run(before())))


def test_an_archive_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, bucket: str, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        # The shipper's own process, and the policy's, write there; only reading is held up.
        async with serving(tmp_path, output=bucket, appeals={"archive_seconds": 0.5}) as client:
            params = {"market": "ID", "day": str(datetime.now(UTC).date())}
            with s3_server.hold("GET", "decisions", times=float("inf")):
                for name in ("the-first", "one-behind-it"):
                    answer = await client.http.get(f"/v1/statements/{name}", params=params)
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

    asyncio.run(ask())
    assert sum("no answer in 0.5 s" in message for message in caplog.messages) == 1, "a line for each call"


def test_overdue_appeals_come_first_and_are_counted(tmp_path: Path) -> None:
    async def opened(decide_days: float, place: int) -> str:
        async with serving(tmp_path, appeals={"decide_days": decide_days}) as client:
            return (await lodge(client, (await contestable(client, place + 1))[place])).json()["appeal_id"]

    in_time, late = asyncio.run(opened(14, 0)), asyncio.run(opened(1e-9, 1))

    async def seen() -> None:
        async with serving(tmp_path) as client:
            queue = (await client.http.get("/v1/reviews?market=ID")).json()
            assert [one["appeal_id"] for one in queue["appeals"]] == [late, in_time]
            assert ([one["overdue"] for one in queue["appeals"]], queue["overdue"]) == ([True, False], 1)
            assert (await client.http.get("/v1/reviews?market=TH")).json()["appeals"] == []
            text = ""
            async with asyncio.timeout(60):
                while 'ray_cancellation_appeals_overdue{market="ID"} 1' not in text:
                    await asyncio.sleep(0.05)
                    text = (await client.http.get("/metrics")).text
            assert 'ray_cancellation_appeals_waiting{market="ID",state="open"} 2' in text

    asyncio.run(seen())


def test_an_appeal_is_forgotten_with_its_seller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"

    async def appealed() -> list[tuple[str, dict[str, Any]]]:
        async with serving(data, output=str(archive)) as client:
            return [(await overturn(client, event), event) for event in await contestable(client, 2)]

    async def known(appeals: list[str]) -> list[int]:
        async with serving(data) as client:
            return [(await client.http.get(f"/v1/appeals/{name}")).status_code for name in appeals]

    (gone, event), (stays, other) = asyncio.run(appealed())
    assert event["seller_id"] != other["seller_id"]
    (tmp_path / "people.txt").write_text(f"seller {event['seller_id']}\n")
    forget(
        ForgetJob(
            people=str(tmp_path / "people.txt"),
            serving=ServingSettings(data_dir=str(data), output=str(archive)),
        )
    )
    found, left = capsys.readouterr().out.splitlines()
    # A decision, three entries, two messages, a reversal.
    assert found.startswith("found: 7 rows of the archive")
    assert "1 recent answers, 1 appeals, 0 rows of monitored days, 0 relabelled" in found
    assert left.startswith("left: 0 rows of the archive")
    assert asyncio.run(known([gone, stays])) == [404, 200]
    for log in ("appeals", "reversals", "feedback"):
        assert {row["event_id"] for row in shipped(archive, log)} == {other["event_id"]}
    assert event["event_id"] not in json.dumps(shipped(archive, "decisions"), default=str)
