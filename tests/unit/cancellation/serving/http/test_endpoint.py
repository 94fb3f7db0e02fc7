"""The endpoint over ASGI: who may, how large, how deep, and what a refusal says and does not say."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cancellation.decision.policy import load_policy
from cancellation.serving.observability import metrics as m
from cancellation.serving.observability.metrics import METRICS
from tests.servers.serving_replicas import Client, serving, simulated_event

JSON = {"content-type": "application/json"}


def with_client(folder: Path, work: Callable[[Client], Awaitable[None]], **settings: Any) -> None:
    async def scenario() -> None:
        async with serving(folder, **settings) as client:
            await work(client)

    asyncio.run(scenario())


def test_without_a_token_only_health_answers(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        del client.http.headers["Authorization"]
        for path in ("/healthz", "/readyz"):
            assert (await client.http.get(path)).status_code == 200
        for path in ("/metrics", "/openapi.json", "/docs", "/v1/policy/TH", "/v1/verdicts/x", "/nothing"):
            answer = await client.http.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        refused = await client.http.post("/v1/verdicts", content=b"x" * 10_000_000, headers=JSON)
        assert refused.status_code == 401
        assert client.metrics.total(m.REFUSED_CALLERS, status="401") == 7

    with_client(tmp_path, work)


def test_a_token_opens_what_its_scopes_say(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-for-feedback feedback\n")
    tokens.chmod(0o600)

    async def work(client: Client) -> None:
        assert (await client.judge(simulated_event(1))).status_code == 403
        assert (await client.http.get("/v1/policy/TH")).status_code == 403
        given = await client.http.post("/v1/feedback", json={"event_id": "e", "outcome": "appealed"})
        assert (given.status_code, given.json()) == (202, {"accepted": True, "known": False})
        assert client.log("feedback")[0]["outcome"] == "appealed"

    with_client(tmp_path, work, tokens_file=str(tokens))


REFUSED_FIELDS = [
    ({"chat": [{"at": "yesterday", "sender": "buyer", "text": "SECRET"}]}, "chat[0].at"),
    ({"chat": [{"at": "2026-01-01T00:00:00Z", "sender": "SECRET", "text": "x"}]}, "chat[0].sender"),
    ({"market": "SECRET"}, "market"),
    ({"order": {"placed_at": "SECRET"}}, "order.promised_ship_at"),
    ({"SECRET": 1}, None),
    ({"chat": [{"at": "2026-01-01T00:00:00Z", "sender": "buyer", "text": "SECRET" * 1000}]}, "chat[0].text"),
    ({"buyer_reason": ["SECRET"]}, "buyer_reason"),
]


def test_a_refusal_names_the_field_and_never_quotes_it(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        for change, field in REFUSED_FIELDS:
            answer = await client.judge({**simulated_event(1), **change})
            assert answer.status_code == 422
            assert answer.json()["error"]["field"] == field
            assert "SECRET" not in answer.text
        assert client.log() == []

    with_client(tmp_path, work)


HOSTILE = [
    (b"{" * 200_000, JSON, 422),
    (b"[" * 1_000_000, JSON, 422),
    (b'{"a":' * 100_000, JSON, 422),
    (b"\xff\xfe", JSON, 422),
    (b'{"event_id": 1e999999}', JSON, 422),
    (b"", JSON, 422),
    (b"{}", {"content-type": "text/plain"}, 415),
    (b"{}", {}, 415),
    (b"{}", {**JSON, "content-encoding": "gzip"}, 415),
    (b" " * 10_000_000, JSON, 413),
]


def test_hostile_bodies_are_refused_quickly(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        for body, headers, status in HOSTILE:
            started = time.process_time()
            answer = await client.http.post("/v1/verdicts", content=body, headers=headers)
            assert answer.status_code == status, body[:10]
            assert set(answer.json()["error"]) == {"code", "field", "message"}
            assert time.process_time() - started < 1.0

    with_client(tmp_path, work)


NO_NUMBERS = ("soon", "-1", "0", "0.0", "nan", "inf", "1e3", "1_000", "+5", "0x10", "5.", ".5", "٣", "5 000", "9" * 13)
NO_DEADLINES = (*NO_NUMBERS, "", " 5 ")


def test_a_deadline_is_digits_and_anything_else_names_the_header(tmp_path: Path) -> None:
    event = json.dumps(simulated_event(1)).encode()

    async def work(client: Client) -> None:
        for said in NO_DEADLINES:
            for path, body in (("verdicts", event), ("verdicts:batch", b'{"events": [' + event + b"]}")):
                headers = [(b"content-type", b"application/json"), (b"x-deadline-ms", said.encode())]
                answer = await client.http.post(f"/v1/{path}", content=body, headers=headers)
                assert (answer.status_code, answer.json()["error"]["field"]) == (422, "X-Deadline-Ms"), said
        assert client.log() == []
        for said in ("20000", "20000.5", "0020000", "999999999999"):
            assert (await client.judge(event, **{"x-deadline-ms": said})).json()["source"] == "model", said

    with_client(tmp_path, work)


@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("X-Deadline-Ms", ("1", "20000"), 422),
        ("X-Deadline-Ms", ("20000", "20000"), 422),
        ("Content-Type", ("text/plain", "application/json"), 415),
        ("Content-Encoding", ("gzip", "identity"), 415),
        ("Authorization", ("Bearer somebody-elses-token", None), 401),
    ],
)
def test_of_two_headers_of_one_name_none_wins_unseen(
    tmp_path: Path, name: str, values: tuple[str, str | None], status: int
) -> None:
    async def work(client: Client) -> None:
        own = client.http.headers.pop("Authorization")
        given = {"Content-Type": "application/json", "Authorization": own}
        headers = [(name, value or given[name]) for value in values]
        headers += [(other, value) for other, value in given.items() if other != name]
        body = json.dumps(simulated_event(1)).encode()
        answer = await client.http.post("/v1/verdicts", content=body, headers=headers)
        assert answer.status_code == status
        assert client.log() == []

    with_client(tmp_path, work)


def test_what_no_database_can_hold_is_refused_and_what_is_kept_otherwise_is_judged(tmp_path: Path) -> None:
    event, bad = simulated_event(1), "nul\0"
    chat = [{"at": event["cancelled_at"], "sender": "seller", "text": "please\0 cancel"}]
    refused = [
        ("verdicts", {**event, "event_id": bad}, "event_id"),
        ("feedback", {"event_id": bad, "outcome": "confirmed"}, "event_id"),
        ("feedback", {"event_id": "a", "outcome": "confirmed", "reviewer": bad}, "reviewer"),
        ("appeals", {"event_id": bad, "seller_id": "a", "reason": "No."}, "event_id"),
        ("appeals", {"event_id": "a", "seller_id": "a", "reason": "No\0."}, "reason"),
        ("reviews/a", {"step": "take", "reviewer": bad}, "reviewer"),
    ]

    async def work(client: Client) -> None:
        for path, body, field in refused:
            answer = await client.http.post(f"/v1/{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
            assert "expected text without U+0000" in answer.json()["error"]["message"]
        assert (await client.judge({**event, "chat": chat, "seller_id": bad})).status_code == 200
        for path in ("verdicts", "statements", "appeals", "reviews"):
            assert (await client.http.get(f"/v1/{path}/nul%00")).status_code == 404

    with_client(tmp_path, work)


def test_a_body_without_a_length_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(200):
            yield b" " * 65_536

    async def work(client: Client) -> None:
        answer = await client.http.post("/v1/verdicts", content=endless(), headers=JSON)
        assert answer.status_code == 413

    with_client(tmp_path, work)


def test_a_large_hostile_chat_holds_up_nobody_else(tmp_path: Path) -> None:
    event = simulated_event(1)
    text = "\u200b\ufb03\u0345" * 1333
    event["chat"] = [{"at": event["cancelled_at"], "sender": "seller", "text": text} for _ in range(60)]
    body = json.dumps({**event, "event_id": "large"}, ensure_ascii=False).encode()
    assert 500_000 < len(body) < 2**20

    async def work(client: Client) -> None:
        large = asyncio.create_task(client.judge(body))
        await asyncio.sleep(0)
        for index in range(5):
            answer = await client.judge(simulated_event(index + 2))
            assert answer.json()["source"] == "model"
        assert not large.done() or (await large).status_code == 200
        assert (await large).status_code == 200

    with_client(tmp_path, work)


def test_a_batch_answers_each_event_by_itself(tmp_path: Path) -> None:
    events = [simulated_event(index) for index in range(6)]

    async def work(client: Client) -> None:
        broken = {**simulated_event(9), "market": "nowhere"}
        answer = await client.http.post("/v1/verdicts:batch", json={"events": [*events, broken, 17]})
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["status"] for result in results] == [200] * 6 + [422, 422]
        assert results[6]["error"]["field"] == "market"
        assert [result["verdict"]["event_id"] for result in results[:6]] == [event["event_id"] for event in events]
        assert (await client.judge(events[3])).json() == results[3]["verdict"]
        assert len(client.log()) == 6
        for wrong in ({"events": []}, {"events": [1] * 257}, {"events": {}}, {}, []):
            refused = await client.http.post("/v1/verdicts:batch", json=wrong)
            assert refused.status_code == 422

    with_client(tmp_path, work)


def test_overload_is_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        answers = await asyncio.gather(*(client.judge(simulated_event(index)) for index in range(40)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert client.metrics.total(m.SHED, reason="ongoing") == len(refused)
        assert len(client.log()) == len(answers) - len(refused)
        assert (await client.judge(simulated_event(50))).status_code == 200

    with_client(tmp_path, work, admission={"max_ongoing": 5})


def test_the_policy_of_a_market_now_and_then(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        told = await client.http.get("/v1/policy/TH")
        now = told.json()
        assert (now["state"], now["killed"], now["known"]) == ("live", False, True)
        assert told.headers["cache-control"] == "no-store", "a cache between would tell of it after the kill switch"
        assert (await client.http.get("/v1/policy/ZZ")).json()["known"] is False
        then = await client.http.get("/v1/policy/TH", params={"at": "2099-01-01T00:00:00+07:00"})
        assert then.json()["policy_version"] == now["policy_version"]
        early = await client.http.get("/v1/policy/TH", params={"at": "2001-01-01T00:00:00Z"})
        assert early.status_code == 404
        assert (await client.http.get("/v1/policy/TH", params={"at": "then"})).status_code == 422
        assert (await client.http.get("/v1/policy/nowhere")).status_code == 422

    with_client(tmp_path, work)


def test_a_ledger_that_cannot_be_read_is_told_of_once_and_that_it_can_be_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: Client) -> None:
        ledger, instant = tmp_path / "policy.ledger.jsonl", {"at": "2099-01-01T00:00:00Z"}
        aside = ledger.rename(tmp_path / "aside")
        ledger.mkdir()
        assert {(await client.http.get("/v1/policy/TH", params=instant)).status_code for _ in range(4)} == {503}
        ledger.rmdir()
        aside.rename(ledger)
        assert (await client.http.get("/v1/policy/TH", params=instant)).status_code == 200

    with_client(tmp_path, work)
    told = [one for one in caplog.messages if "the ledger of policies" in one]
    assert [one.partition(":")[0] for one in told] == [
        "the ledger of policies cannot be read",
        "reading the ledger of policies",
    ]


Change = Callable[[str], str]


async def _punished(client: Client) -> dict[str, Any]:
    """The first of a few events whose score is above the shipped policy's penalty threshold."""
    shipped = load_policy().market("ID").penalty
    for index in range(80):
        verdict = (await client.judge(simulated_event(index))).json()
        if verdict["score"] > shipped:
            return verdict
    raise AssertionError("no event is above the threshold")


@pytest.mark.parametrize(
    ("change", "reason", "why"),
    [
        (lambda text: text.replace('"small@', '"other@'), "other_model", "proven for model other@"),
        (
            lambda text: re.sub(r"(?m)^temperature = .*$", "temperature = 1.8", text),
            "other_calibration",
            "at temperature 1.8",
        ),
        (lambda text: text.replace("demo = true", ""), "not_real", "rests on written cases"),
        (lambda text: text.replace('source = "written"', ""), "no_source", "does not say what it rests on"),
    ],
)
def test_without_a_proof_of_its_own_no_penalty_and_the_policy_says_why(
    tmp_path: Path, change: Change, reason: str, why: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(change((resources.files("cancellation.decision") / "policy.toml").read_text()))

    async def work(client: Client) -> None:
        verdict = await _punished(client)
        assert (verdict["source"], verdict["action"]) == ("model", "investigate")
        assert client.metrics.total(m.PENALTIES_WITHHELD, market="ID", reason=reason) == 1
        assert why in (await client.http.get("/v1/policy/ID")).json()["penalty_refused"]
        assert 'ray_cancellation_penalty_refused{market="ID"} 1' in (await client.http.get("/metrics")).text

    with_client(tmp_path / "data", work, rollout={"policy": str(policy)})


def test_a_market_that_the_model_never_saw_is_looked_at_by_people(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    shipped = (resources.files("cancellation.decision") / "policy.toml").read_text()
    policy.write_text(shipped.replace("markets.ID", "markets.AR"))

    async def work(client: Client) -> None:
        for index in range(40):
            verdict = (await client.judge({**simulated_event(index), "market": "AR"})).json()
            assert (verdict["source"], verdict["action"] == "penalty") == ("model", False)
        assert client.metrics.total(m.PENALTIES_WITHHELD, market="AR", reason="untrained_market") > 0
        said = (await client.http.get("/v1/policy/AR")).json()
        assert "was not trained on AR" in said["penalty_refused"]
        assert said["trained"] is False

    with_client(tmp_path / "data", work, rollout={"policy": str(policy)})


def test_the_shipped_policy_punishes_as_a_demo_and_every_verdict_says_so(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        verdict = await _punished(client)
        assert verdict["action"] == "penalty"
        assert verdict["policy_version"].endswith("+demo")
        said = (await client.http.get("/v1/policy/ID")).json()
        assert (said["penalty_refused"], said["demo"], said["evidence"]["source"]) == (None, True, "written")
        assert said["policy_version"] == verdict["policy_version"]
        assert client.metrics.total(m.PENALTIES_WITHHELD) == 0

    with_client(tmp_path, work)


def test_unknown_paths_and_methods(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        for path in ("/", "/v1", "/v1/verdicts/", "/v2/verdicts", "/v1/policy/"):
            missed = await client.http.get(path)
            assert (missed.status_code, missed.headers["cache-control"]) == (404, "no-store"), path
        wrong = await client.http.get("/v1/verdicts")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")

    with_client(tmp_path, work)


def test_the_description_has_examples_that_fit_their_schemas(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        described = (await client.http.get("/openapi.json")).json()
        schemas = described["components"]["schemas"]
        post = described["paths"]["/v1/verdicts"]["post"]
        event = post["requestBody"]["content"]["application/json"]["example"]
        jsonschema.validate(event, schemas["CancellationEvent"])
        verdict = post["responses"]["200"]["content"]["application/json"]["example"]
        jsonschema.validate(verdict, schemas["Verdict"])
        assert (await client.judge(event)).json() == verdict
        get = described["paths"]["/v1/verdicts/{event_id}"]["get"]
        decision = get["responses"]["200"]["content"]["application/json"]["example"]
        jsonschema.validate(decision["verdict"], schemas["Verdict"])
        assert decision["verdict"]["decision_factors"]
        assert all(factor["evidence"] for factor in decision["verdict"]["decision_factors"])
        page = await client.http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert verdict["event_id"] in page.text

    with_client(tmp_path, work)


def test_the_metrics_are_all_there_by_name(tmp_path: Path) -> None:
    async def work(client: Client) -> None:
        await client.judge(simulated_event(1))
        text = (await client.http.get("/metrics")).text
        for metric in METRICS:
            assert f"# TYPE {metric.exported} {metric.kind}" in text
        assert 'ray_cancellation_requests_total{route="/v1/verdicts",status="200"} 1' in text
        assert 'ray_cancellation_score_count{market="ID"} 1' in text

    with_client(tmp_path, work)
