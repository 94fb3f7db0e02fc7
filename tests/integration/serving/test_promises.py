"""What callers and operators do to the endpoint on a bad day: real Ray Serve, real HTTP, model and gateway in one.

One server for all tests of this file, which is stopped under load by the last.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.conftest import PROJECT
from tests.servers.serving_process import FEEDBACK_TOKEN, TOKEN, Served, served
from tests.servers.serving_replicas import simulated_event

pytestmark = pytest.mark.timeout(600)
PATIENT = {"RAY_raylet_start_wait_time_s": "120"}  # tests share their machine
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("promises")
    settings = [
        # Tests share their machine: nothing is refused for being slow, but places are as few as they are.
        "serving.admission.max_loop_lag_ms=60000",
        "serving.admission.max_queue_age_ms=60000",
        "serving.admission.standing_ms=60000",
        "serving.deadlines.default_ms=20000",
        "serving.deadlines.batch_ms=30000",
        "serving.deadlines.model_ms=10000",
        "serving.model.hung_seconds=10",
        "serving.limits.body_seconds=4",
        "service.client_seconds=6",
        "serving.decision_log.segment_seconds=2",
        "serving.shipper.interval_seconds=0.5",
        "serving.gateways.num_cpus=0.5",
    ]
    with served(folder, output=str(folder / "archive"), environment=PATIENT, settings=settings) as one:
        yield one


@contextmanager
def stalled(endpoint: Served, path: str, sent: bytes) -> Iterator[socket.socket]:
    """A caller who stops in the middle of a request."""
    where = urlsplit(endpoint.url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.settimeout(60)
        connection.sendall(head.encode() + sent)
        yield connection


def test_callers_who_stop_in_the_middle_of_a_body_keep_nobody_waiting(endpoint: Served) -> None:
    half = b'Content-Length: 5000\r\n\r\n{"event_id":'
    paths = ["/v1/verdicts"] * 40 + ["/v1/verdicts:batch"] * 8 + ["/v1/feedback"] * 8
    with ExitStack() as stack:
        stopped = [stack.enter_context(stalled(endpoint, path, half)) for path in paths]
        for index in range(5):
            answer = endpoint.judge({**simulated_event(index), "event_id": f"beside-{index}"})
            assert (answer.status_code, answer.json()["source"]) == (200, "model")
        batch = endpoint.http.post("/v1/verdicts:batch", json={"events": [simulated_event(7)]})
        assert batch.status_code == 200
        for connection in stopped:
            answer = connection.recv(65536)
            assert b" 408 " in answer.splitlines()[0]
            assert b"too_slow" in answer
    assert endpoint.judge({**simulated_event(8), "event_id": "afterwards"}).status_code == 200


def test_a_body_that_comes_in_drops_is_refused_and_one_that_keeps_pace_is_not(endpoint: Served) -> None:
    body = json.dumps({**simulated_event(9), "event_id": "drops"}).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    with stalled(endpoint, "/v1/verdicts", length) as slow:
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
    with stalled(endpoint, "/v1/verdicts", length) as steady:
        for start in range(0, len(body), len(body) // 3):
            steady.sendall(body[start : start + len(body) // 3])
            time.sleep(0.3)
        assert b" 200 " in steady.recv(65536).splitlines()[0]


def test_a_header_that_does_not_come_is_not_waited_for(endpoint: Served) -> None:
    with stalled(endpoint, "/v1/verdicts", b"X-Half-A-Hea") as connection:
        started = time.monotonic()
        answer = connection.recv(65536)
        assert time.monotonic() - started < 30
        assert answer == b"" or b" 408 " in answer.splitlines()[0]


def test_one_bad_event_of_a_batch_is_refused_alone(endpoint: Served) -> None:
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
    answer = endpoint.http.post("/v1/verdicts:batch", content=body, headers=JSON)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [(one["index"], one["status"]) for one in results] == list(enumerate([200, 422, 422, 422, 422, 200, 422]))
    assert "NaN" in results[1]["error"]["message"]
    assert results[0]["verdict"] == results[5]["verdict"]
    for broken in ('{"events": [{]}', '{"events": [1', '{"events": [1] } x', '{"events": [1], "more": 1}'):
        assert endpoint.http.post("/v1/verdicts:batch", content=broken, headers=JSON).status_code == 422


def test_the_same_event_otherwise_spelt_is_the_same_event(endpoint: Served) -> None:
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
    first, second = endpoint.judge(event), endpoint.judge(again)
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    assert second.headers["x-repeated"] == "1"
    other = endpoint.judge({**again, "order": {**again["order"], "value": 150001}})
    assert other.status_code == 409
    unknown = {name: value for name, value in again.items() if name != "fulfilment"}
    assert endpoint.judge(unknown).status_code == 409, "not known is not none"


def test_edges_of_http(endpoint: Served) -> None:
    http = endpoint.http
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


def test_a_token_taken_out_of_the_file_is_out_within_seconds(endpoint: Served) -> None:
    tokens = endpoint.folder / "tokens"
    before = tokens.read_text()
    new = "a-token-that-came-while-it-ran"

    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        feedback = {"event_id": "nobody", "outcome": "confirmed"}
        return httpx.post(f"{endpoint.url}/v1/feedback", json=feedback, headers=headers, timeout=30).status_code

    def put(text: str) -> None:
        tokens.write_text(text)

    assert (status(FEEDBACK_TOKEN), status(new)) == (202, 401)
    put(f"{TOKEN} verdict feedback policy\n{new} feedback\n")
    endpoint.until(lambda: (status(FEEDBACK_TOKEN), status(new)) == (401, 202), 5)
    # A file with a mistake lets nobody in, but whoever was taken out of it is out.
    put(f"{TOKEN} verdict feedback policy\nshort feedback\n{FEEDBACK_TOKEN} feedback\n")
    endpoint.until(lambda: status(new) == 401, 5)
    assert (status(FEEDBACK_TOKEN), status(TOKEN)) == (401, 202)
    endpoint.until(lambda: endpoint.measured("ray_cancellation_tokens_refused") == 1)
    put(before)
    endpoint.until(lambda: status(FEEDBACK_TOKEN) == 202, 5)


def test_a_shipper_that_dies_is_started_again_and_seen_to_be_down(endpoint: Served) -> None:
    def shippers() -> list[psutil.Process]:
        (gateway,) = endpoint.replicas("gateway")
        return [child for child in gateway.children() if "cancellation.serving.records.archive" in child.cmdline()]

    assert endpoint.http.get("/readyz").json()["shipper"] == "runs"
    (first,) = shippers()
    first.kill()
    endpoint.until(lambda: endpoint.http.get("/readyz").json()["shipper"].startswith("down"), 5)
    endpoint.until(lambda: endpoint.http.get("/readyz").json()["shipper"] == "runs", 30)
    assert shippers()[0].pid != first.pid
    endpoint.until(lambda: endpoint.measured("ray_cancellation_log_shipper_restarts_total") >= 1)
    endpoint.judge({**simulated_event(40), "event_id": "shipped-by-the-second"})
    endpoint.until(lambda: "shipped-by-the-second" in endpoint.archived())


def test_a_stop_under_load_cuts_nothing_off_and_says_what_it_could_not_ship(endpoint: Served) -> None:
    archive = endpoint.folder / "archive"
    batches: list[Any] = []

    def batch() -> None:
        events = [{**simulated_event(index), "event_id": f"last-batch-{index}"} for index in range(256)]
        batches.append(endpoint.http.post("/v1/verdicts:batch", json={"events": events}, timeout=60))

    with endpoint.stream("stopping", 20) as stream:
        endpoint.until_answered(stream, 20)
        # The archive is away from here on: nothing can be made where a file is.
        archive.rename(endpoint.folder / "archive-before")
        archive.write_text("away")
        sender = threading.Thread(target=batch)
        sender.start()
        time.sleep(0.3)  # the batch is under way
        endpoint.process.send_signal(signal.SIGTERM)
        told = time.perf_counter()
        endpoint.until(lambda: endpoint.http.get("/readyz").status_code == 503, 10)
        assert endpoint.http.get("/readyz").json()["status"] == "draining"
        sender.join()
        endpoint.process.wait(120)
    (answer,) = batches
    assert answer.status_code == 200
    assert {one["status"] for one in answer.json()["results"]} == {200}
    # After the notice HAProxy says 404, the application being gone, and then nobody listens.
    assert {one.status for one in stream.sent if one.due_at < told + 2.5} == {200}
    assert stream.statuses() <= {200, 404, 0}
    archive.unlink()
    (endpoint.folder / "archive-before").rename(archive)
    assert stream.answered() <= set(endpoint.logged())
    last = endpoint.printed().strip().splitlines()[-1]
    assert "not shipped" in last
    assert str(endpoint.folder / "data" / "log") in last


def test_the_reason_for_which_a_replica_does_not_start_is_the_last_line(tmp_path: Any) -> None:
    for number, (change, said) in enumerate(
        [
            (lambda folder: (folder / "tokens").write_text("short verdict\n"), "tokens line 1: expected a token of"),
            (lambda folder: (folder / "data").write_text("no folder\n"), "data"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokens").write_text(f"{TOKEN} verdict\n")
        (folder / "tokens").chmod(0o600)
        change(folder)
        arguments = [f"serving.data_dir={folder / 'data'}", f"serving.tokens_file={folder / 'tokens'}"]
        command = [sys.executable, "-m", "jobs.cancellation_serve", "service.port=0", *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=240)
        assert done.returncode != 0
        assert said in (done.stdout + done.stderr).strip().splitlines()[-1]
