"""What callers are promised, held against a gateway replica behind a real port: slow bodies, edges of JSON and HTTP,
the same thing sent twice, tokens that change, a policy that changes under way, a database that is busy.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cancellation.serving.records.segments import read_segment
from jobs.cancellation_serve_demo import ServeDemoJob
from jobs.cancellation_serve_demo import main as demo
from tests.servers.serving_process import FEEDBACK_TOKEN, TOKEN
from tests.servers.serving_replicas import listening, simulated_event
from tests.servers.tls_front import tls_front

JSON = {"content-type": "application/json"}
HALF = b'Content-Length: 5000\r\n\r\n{"event_id":'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("promises")


@pytest.fixture(scope="module")
def http(data: Path) -> Iterator[httpx.Client]:
    tokens = data / "tokens"
    tokens.write_text(f"{TOKEN} verdict feedback policy appeal review\n{FEEDBACK_TOKEN} feedback\n")
    tokens.chmod(0o600)
    settings = {"limits": {"body_seconds": 4.0}, "tokens_file": str(tokens), "rollout": {"poll_seconds": 0.2}}
    with listening(data, **settings) as client:
        yield client


def to_its_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def stalled(http: httpx.Client, path: str, sent: bytes) -> Iterator[socket.socket]:
    """A caller who stops in the middle of a request."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.settimeout(60)
        connection.sendall(head.encode() + sent)
        yield connection


def judge(http: httpx.Client, event: dict[str, Any], **headers: str) -> httpx.Response:
    return http.post("/v1/verdicts", json=event, headers=headers)


def logged(data: Path, name: str = "decisions") -> list[dict[str, Any]]:
    paths = sorted((data / "log" / name).glob("*-*"))
    return [record for path in paths for record in read_segment(path).records]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_callers_who_stop_in_the_middle_of_a_body_keep_nobody_waiting(http: httpx.Client) -> None:
    paths = ["/v1/verdicts"] * 40 + ["/v1/verdicts:batch"] * 8 + ["/v1/feedback"] * 8
    with ExitStack() as stack:
        stopped = [stack.enter_context(stalled(http, path, HALF)) for path in paths]
        for index in range(3):
            answer = judge(http, {**simulated_event(index), "event_id": f"beside-{index}"})
            assert (answer.status_code, answer.json()["source"]) == (200, "model")
        assert http.post("/v1/verdicts:batch", json={"events": [simulated_event(7)]}).status_code == 200
        for connection in stopped:
            answer = to_its_end(connection)
            assert b" 408 " in answer.splitlines()[0]
            assert b"too_slow" in answer


def test_what_is_no_method_is_told_so_in_plain_text(http: httpx.Client) -> None:
    answer = http.request("FOO", "/v1/verdicts")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")


def test_a_body_that_comes_in_drops_is_refused_and_one_that_keeps_pace_is_not(http: httpx.Client) -> None:
    body = json.dumps({**simulated_event(9), "event_id": "drops"}).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    with stalled(http, "/v1/verdicts", length) as slow:
        answers: list[bytes] = []
        reading = threading.Thread(target=lambda: answers.append(slow.recv(65536)))
        reading.start()
        for place in range(len(body)):
            if not reading.is_alive():
                break
            slow.sendall(body[place : place + 1])
            reading.join(0.2)
        reading.join(30)
        assert b" 408 " in answers[0].splitlines()[0]
    with stalled(http, "/v1/verdicts", length) as steady:
        for start in range(0, len(body), len(body) // 3):
            steady.sendall(body[start : start + len(body) // 3])
            time.sleep(0.1)  # parts of their own, all together long before the four seconds are over
        assert b" 200 " in steady.recv(65536).splitlines()[0]


def test_one_bad_event_of_a_batch_is_refused_alone(http: httpx.Client) -> None:
    good = json.dumps({**simulated_event(20), "event_id": "in-batch"})
    deep = '{"event_id":' + "[" * 985 + "]" * 985 + "}"
    bad = [
        '{"value": NaN}',
        '{"event_id": "a", "event_id": "b"}',
        deep,
        "[" * 100_000 + "]" * 100_000,
        "1" * 5000,
        "17",
    ]
    body = '{"events": [' + " , ".join([good, *bad[:4], good, bad[5]]) + "]}"
    answer = http.post("/v1/verdicts:batch", content=body, headers=JSON)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(one["index"], one["status"]) for one in results] == list(enumerate([200, 422, 422, 422, 422, 200, 422]))
    assert "NaN" in results[1]["error"]["message"]
    assert results[0]["verdict"] == results[5]["verdict"]
    for key in (r'"\u0065vents"', r'"\u0065\u0076\u0065\u006E\u0074\u0073"'):
        spelt = http.post("/v1/verdicts:batch", content=f"{{{key}: [{good}]}}", headers=JSON)
        assert (spelt.status_code, spelt.json()["results"]) == (200, results[:1])
    for other in (r'{"\u0065vent": [1]}', r'{"\events": [1]}', r'{"\u0000events": [1]}'):
        assert http.post("/v1/verdicts:batch", content=other, headers=JSON).status_code == 422
    for broken in ('{"events": [{]}', '{"events": [1', '{"events": [1] } x', '{"events": [1], "more": 1}'):
        assert http.post("/v1/verdicts:batch", content=broken, headers=JSON).status_code == 422


def test_the_same_event_otherwise_spelt_is_the_same_event(http: httpx.Client) -> None:
    event = {**simulated_event(30), "event_id": "spelt"}
    event["cancelled_at"] = "2026-11-22T08:00:00+07:00"
    event["order"] = {
        "placed_at": "2026-11-20T08:00:00+07:00",
        "promised_ship_at": "2026-11-21T08:00:00+07:00",
        "value": 150000,
        "currency": "IDR",
    }
    event |= {"chat": [{"at": "2026-11-21T08:00:00Z", "sender": "seller", "text": "habis"}], "fulfilment": []}
    event = {name: event[name] for name in event if name not in ("calls", "seller_activity", "concurrent_orders")}
    again = {name: event[name] for name in reversed(event)}
    again["cancelled_at"] = "2026-11-22T01:00:00z"
    again["chat"] = [{"text": "habis", "sender": "seller", "at": "2026-11-21T15:00:00.000+07:00"}]
    again["order"] = {**event["order"], "placed_at": "2026-11-20T01:00:00Z", "paid_at": None, "value": 150000.0}
    first, second = judge(http, event), judge(http, again)
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    assert second.headers["x-repeated"] == "1"
    other = judge(http, {**again, "order": {**again["order"], "value": 150001}})
    assert other.status_code == 409
    unknown = {name: value for name, value in again.items() if name != "fulfilment"}
    assert judge(http, unknown).status_code == 409, "not known is not none"


def test_edges_of_http(http: httpx.Client) -> None:
    for path in ("/healthz", "/readyz"):
        head = http.head(path)
        assert (head.status_code, head.content) == (200, b"")
    for query in ("at=", "att=2026-01-01T00:00:00Z", "at=2099-01-01T00:00:00Z&at=", "at"):
        assert http.get(f"/v1/policy/ID?{query}").status_code == 422, query
    assert http.get("/v1/policy/ID?at=2099-01-01T00:00:00z").status_code == 200
    event = json.dumps({**simulated_event(31), "event_id": "edges"}).encode()
    for encoding in ("identity", "Identity"):
        answer = http.post("/v1/verdicts", content=event, headers={**JSON, "content-encoding": encoding})
        assert answer.status_code == 200
    marked = http.post("/v1/verdicts", content=b"\xef\xbb\xbf" + event, headers=JSON)
    assert marked.status_code == 422
    assert "byte-order mark" in marked.json()["error"]["message"]


def test_a_token_taken_out_of_the_file_is_out_within_seconds(http: httpx.Client, data: Path) -> None:
    tokens = data / "tokens"
    before, new = tokens.read_text(), "a-token-that-came-while-it-ran"

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return http.post(
            "/v1/feedback", json={"event_id": "nobody", "outcome": "appealed"}, headers=headers
        ).status_code

    assert (status(FEEDBACK_TOKEN), status(new)) == (202, 401)
    tokens.write_text(f"{TOKEN} verdict feedback policy appeal review\n{new} feedback\n")
    until(lambda: (status(FEEDBACK_TOKEN), status(new)) == (401, 202), 5)
    # A file with a mistake lets nobody in, but whoever was taken out of it is out.
    tokens.write_text(f"{TOKEN} verdict feedback policy appeal review\nshort feedback\n{FEEDBACK_TOKEN} feedback\n")
    until(lambda: status(new) == 401, 5)
    assert (status(FEEDBACK_TOKEN), status(TOKEN)) == (401, 202)
    assert "ray_cancellation_tokens_refused 1" in http.get("/metrics", headers=_full()).text
    tokens.write_text(before)
    until(lambda: status(FEEDBACK_TOKEN) == 202, 5)


def _full() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


def test_over_tls_a_verdict_and_metrics_come_to_who_trusts_the_certificate_and_plain_http_gets_nothing(
    http: httpx.Client, data: Path, tmp_path: Path
) -> None:
    event = {**simulated_event(34), "event_id": "over-tls"}
    with tls_front(tmp_path, f"{http.base_url.host}:{http.base_url.port}") as front:
        with httpx.Client(base_url=front.url, verify=front.trusting, headers=_full(), timeout=60) as secure:
            answer = secure.post("/v1/verdicts", json=event)
            assert (answer.status_code, answer.json()["source"]) == (200, "model")
            assert "ray_cancellation" in secure.get("/metrics").text
            assert secure.get("/metrics", headers={"Authorization": "Bearer nobody"}).status_code == 401
            # A machine that drains gets nothing new from the balancer, though it would still answer.
            (data / "draining").touch()
            until(lambda: secure.get("/healthz").status_code == 503)
            (data / "draining").unlink()
            until(lambda: secure.get("/healthz").status_code == 200)
        before = front.trusting
        front.renew()
        front.until_it_answers()
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{front.url}/healthz", verify=before)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(f"{front.url}/v1/verdicts", json=event, headers=_full())
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{front.port}/v1/verdicts", json=event, headers=_full())


def test_feedback_is_written_down_once_and_must_not_contradict_itself(http: httpx.Client, data: Path) -> None:
    verdict = judge(http, {**simulated_event(50), "event_id": "fed-back"}).json()["verdict"]
    other = next(name for name in ("induced", "not_induced") if name != verdict)

    def send(**message: Any) -> httpx.Response:
        return http.post("/v1/feedback", json={"event_id": "fed-back", **message})

    for contradiction in (
        {"outcome": "confirmed", "label": other},
        {"outcome": "rejected", "label": verdict},
        {"outcome": "confirmed", "market": "ZZ"},
        {"outcome": "confirmed", "verdict": other},
        {"event_id": "long-ago", "outcome": "confirmed", "verdict": "induced", "label": "not_induced"},
    ):
        assert send(**contradiction).status_code == 422, contradiction
    first, second = (send(outcome="confirmed", label=verdict, reviewer="ops-1") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert (first.content, second.headers["x-repeated"]) == (second.content, "1")
    assert send(outcome="confirmed", label=verdict, reviewer="ops-2").status_code == 202
    for outcome in ("rejected", "confirmed"):  # whoever looks at it a third time has the last word
        assert "x-repeated" not in send(outcome=outcome, reviewer="ops-2").headers
    assert "x-repeated" not in send(outcome="confirmed", label=verdict, reviewer="ops-2").headers
    assert send(event_id="long-ago", outcome="appealed", market="BR", verdict="induced").json()["known"] is False
    written = [one for one in logged(data, "feedback") if one["event_id"] in ("fed-back", "long-ago")]
    assert [(one["event_id"], one["reviewer"], one["market"], one["verdict"]) for one in written] == [
        ("fed-back", "ops-1", "ID", verdict),
        *[("fed-back", "ops-2", "ID", verdict)] * 4,
        ("long-ago", None, "BR", "induced"),
    ]


def test_a_database_that_another_holds_keeps_nobody_from_being_heard(http: httpx.Client, data: Path) -> None:
    event_ids = [f"while-it-is-held-{number}" for number in range(3)]
    answers: list[httpx.Response] = []

    def ask() -> None:
        for event_id in event_ids:  # the first waits a second for its turn at the database, and all go on without
            answers.append(judge(http, {**simulated_event(60), "event_id": event_id}))

    with sqlite3.connect(data / "recent.sqlite", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        asking = threading.Thread(target=ask)
        asking.start()
        num_heard = 0
        while asking.is_alive():
            assert http.get("/healthz").status_code == 200
            num_heard += 1
        holder.execute("ROLLBACK")
    # Counted, as single ones are slow on a busy machine. An event loop that waited would hear two for each event.
    assert num_heard > 2 * len(event_ids) + 2, "the event loop waited for the database"
    assert [answer.status_code for answer in answers] == [200] * len(event_ids)
    assert {*event_ids} <= {record["event_id"] for record in logged(data)}
    until(lambda: http.get("/readyz").json()["database"] == "answers", 30)


def test_the_demo_says_with_what_its_calls_were_refused(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a-token-that-nobody-knows verdict\n")
    given = {"url": str(http.base_url), "tokens_file": str(tmp_path / "tokens"), "rate": 20, "seconds": 1, "samples": 1}
    with pytest.raises(RuntimeError, match=r"expected answers, found \d+ of status 401; give a token of its file"):
        demo(ServeDemoJob.model_validate(given))
