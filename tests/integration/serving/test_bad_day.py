"""The whole endpoint behind HAProxy on a bad day: a proxy that is late, callers who stall, a shipper that dies, a stop.

One server for most tests of this file, which the SIGTERM stops; Ctrl-C has one of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from cancellation.serving.settings import ServingSettings
from jobs.cancellation_serve import ServeJob, main
from tests.conftest import PROJECT
from tests.servers.serving_process import TOKEN, Served, Stream, free_port, served
from tests.servers.serving_replicas import simulated_event
from tests.slow.faults.small_disk import NO_DISK, small_disk

pytestmark = pytest.mark.timeout(600)


SETTINGS = [
    # Tests share their machine: nothing is refused for being slow, but places are as few as they are.
    "serving.admission.max_loop_lag_ms=60000",
    "serving.admission.max_queue_age_ms=60000",
    "serving.admission.standing_ms=60000",
    "serving.deadlines.default_ms=20000",
    "serving.deadlines.batch_ms=30000",
    "serving.deadlines.model_ms=10000",
    "serving.model.hung_seconds=10",
    # Far apart: the gateway has to be heard before HAProxy, also where it gets to a body seconds late.
    "serving.limits.body_seconds=3",
    "service.client_seconds=12",
    "serving.decision_log.segment_seconds=2",
    "serving.shipper.interval_seconds=0.5",
    "serving.gateways.num_cpus=0.5",
]


@pytest.fixture(scope="module")
def announced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, httpx.Response]]:
    """A server whose HAProxy hears of the replica late, and what the first call got after it said that it serves."""
    folder = tmp_path_factory.mktemp("promises")
    with late_proxy(folder), running(folder) as one:
        yield one, one.http.get("/healthz")


@pytest.fixture(scope="module")
def endpoint(announced: tuple[Served, httpx.Response]) -> Served:
    return announced[0]


@contextmanager
def late_proxy(folder: Path) -> Iterator[None]:
    """Stop the process that tells HAProxy of replicas for some seconds when the first replica starts."""
    ended = threading.Event()

    def of(process: psutil.Process, name: str) -> list[psutil.Process]:
        found = []
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                found += [child] if name in " ".join(child.cmdline()) else []
        return found

    def hold() -> None:
        while not ended.wait(0.2):
            for job in of(psutil.Process(), f"serving.data_dir={folder}"):
                if of(job, "ray::ServeReplica:cancellation:gateway"):
                    (manager,) = of(job, "ray::HAProxyManager")
                    manager.suspend()
                    ended.wait(8)
                    manager.resume()
                    return

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        ended.set()
        holding.join()


def running(folder: Path) -> AbstractContextManager[Served]:
    return served(folder, output=str(folder / "archive"), environment={}, settings=SETTINGS)


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body. HAProxy itself waits for the rest of the body, so that the connection ends later."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


@contextmanager
def stalled(endpoint: Served, path: str, sent: bytes) -> Iterator[socket.socket]:
    """A caller who stops in the middle of a request."""
    where = urlsplit(endpoint.url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.settimeout(60)
        connection.sendall(head.encode() + sent)
        yield connection


def test_what_is_announced_answers(announced: tuple[Served, httpx.Response]) -> None:
    assert announced[1].status_code == 200


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
            status, body = answered(connection)
            assert (status, json.loads(body)["error"]["code"]) == (408, "too_slow")
    assert endpoint.judge({**simulated_event(8), "event_id": "afterwards"}).status_code == 200


def test_a_header_that_does_not_come_is_not_waited_for(endpoint: Served) -> None:
    with stalled(endpoint, "/v1/verdicts", b"X-Half-A-Hea") as connection:
        started = time.monotonic()
        answer = connection.recv(65536)
        assert time.monotonic() - started < 30
        assert answer == b"" or b" 408 " in answer.splitlines()[0]


def test_whoever_asks_for_another_protocol_is_answered_in_this_one(endpoint: Served) -> None:
    asked = {"Connection": "Upgrade", "Sec-WebSocket-Key": "c29tZWJvZHkncyBub25jZQ==", "Sec-WebSocket-Version": "13"}
    for protocol in ("websocket", "h2c"):
        headers = {**asked, "Upgrade": protocol}
        assert endpoint.http.get("/v1/policy/ID", headers=headers).json()["market"] == "ID"
        answer = endpoint.judge({**simulated_event(9), "event_id": f"over-{protocol}"}, **headers)
        assert (answer.status_code, answer.json()["event_id"]) == (200, f"over-{protocol}")


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


def test_a_killed_controller_costs_no_answer_and_is_replaced(endpoint: Served) -> None:
    def controllers() -> set[int]:
        found = psutil.Process(endpoint.process.pid).children(recursive=True)
        return {one.pid for one in found if one.is_running() and one.name().startswith("ray::ServeContr")}

    with endpoint.stream("controller", 20) as stream:
        endpoint.until_answered(stream, 20)
        (first,) = controllers()
        psutil.Process(first).kill()
        endpoint.until(lambda: controllers() - {first})
        endpoint.until_answered(stream, 200)  # it finds the replicas again, and tells HAProxy of them
    assert stream.refusals() == {}


def stopped_under_load(endpoint: Served, stop: Callable[[], None]) -> Stream:
    """Stop an endpoint while singles come and a batch is under way; both have to be answered."""
    batches: list[Any] = []

    def batch() -> None:
        events = [{**simulated_event(index), "event_id": f"last-batch-{index}"} for index in range(256)]
        batches.append(endpoint.http.post("/v1/verdicts:batch", json={"events": events}, timeout=60))

    with endpoint.stream("stopping", 20) as stream:
        endpoint.until_answered(stream, 20)
        sender = threading.Thread(target=batch)
        sender.start()
        endpoint.until(lambda: endpoint.http.get("/v1/verdicts/last-batch-0").status_code == 200)  # it is under way
        stop()
        told = time.perf_counter()
        endpoint.until(lambda: endpoint.http.get("/readyz").status_code == 503, 10)
        assert endpoint.http.get("/readyz").json()["status"] == "draining"
        sender.join()
        endpoint.process.wait(300)
    (answer,) = batches
    assert answer.status_code == 200
    assert {one["status"] for one in answer.json()["results"]} == {200}
    # After the notice HAProxy says 503, the application being gone, and then nobody listens.
    assert {one.status for one in stream.sent if one.due_at < told + 2.5} == {200}
    assert stream.statuses() <= {200, 503, 0}
    return stream


def test_a_stop_under_load_cuts_nothing_off_and_says_what_it_could_not_ship(endpoint: Served) -> None:
    archive = endpoint.folder / "archive"
    # The archive is away from here on: nothing can be made where a file is.
    archive.rename(endpoint.folder / "archive-before")
    archive.write_text("away")
    stream = stopped_under_load(endpoint, endpoint.process.terminate)
    archive.unlink()
    (endpoint.folder / "archive-before").rename(archive)
    assert stream.answered() <= set(endpoint.logged())
    last = endpoint.printed().strip().splitlines()[-1]
    assert "not shipped" in last
    assert str(endpoint.folder / "data" / "log") in last


def test_ctrl_c_in_a_terminal_cuts_nothing_off_and_ships_the_log(tmp_path: Path) -> None:
    with running(tmp_path) as endpoint:
        stream = stopped_under_load(endpoint, endpoint.ctrl_c)
        assert stream.answered() <= set(endpoint.archived())
        assert "Traceback" not in endpoint.printed()
        assert "infinite retries" not in endpoint.printed(), "a controller that goes as it was asked is no news"
        assert list((endpoint.folder / "data").glob("draining*")) == []  # another service may share the folder


def test_a_ray_that_loses_a_process_ends_the_service_which_cuts_nothing_off_and_says_why(tmp_path: Path) -> None:
    with running(tmp_path) as endpoint:
        (raylet,) = (one for one in psutil.Process(endpoint.process.pid).children() if one.name() == "raylet")
        stream = stopped_under_load(endpoint, raylet.kill)
        assert endpoint.process.returncode == 1
        assert "Ray's raylet died" in endpoint.printed().strip().splitlines()[-1]
        assert stream.answered() <= set(endpoint.logged())


@pytest.mark.parametrize(
    ("token", "settings", "said"),
    [
        ("short", [], "tokens line 1: expected a token of"),
        (TOKEN, ["serving.model.digest=00000000"], "expected files of digest 00000000, found"),
    ],
)
def test_the_reason_for_which_a_replica_does_not_start_is_the_last_line(
    tmp_path: Path, token: str, settings: list[str], said: str
) -> None:
    (tmp_path / "tokens").write_text(f"{token} verdict\n")
    (tmp_path / "tokens").chmod(0o600)
    ports = [f"service.{name}={free_port()}" for name in ("port", "stats_port", "metrics_port")]
    given = [f"serving.data_dir={tmp_path / 'data'}", f"serving.tokens_file={tmp_path / 'tokens'}", *settings]
    command = [sys.executable, "-m", "jobs.cancellation_serve", "session.num_cpus=4", *ports, *given]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=400)
    assert done.returncode != 0
    assert said in (done.stdout + done.stderr).strip().splitlines()[-1]


def test_a_disk_without_room_for_rays_own_files_is_named_and_not_waited_for(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        if disk is None:
            pytest.skip(NO_DISK)
        begin = "from cluster.session import SessionSettings, ray_session\nwith ray_session(SessionSettings()): pass"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment["TMPDIR"] = str(disk)
        done = subprocess.run(
            [sys.executable, "-c", begin], env=environment, cwd=PROJECT, capture_output=True, text=True
        )
        last = done.stderr.strip().splitlines()[-1]
        assert f"{disk}: expected room for Ray's files, 16 MiB at least, found 1; make some" in last


def test_a_disk_that_takes_nothing_is_named_with_what_to_do_before_anything_is_started(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        if disk is None:
            pytest.skip(NO_DISK)
        with suppress(OSError):
            (disk / "filler").write_bytes(bytes(2**21))
        job = ServeJob(serving=ServingSettings(data_dir=str(disk / "data")))
        with pytest.raises(OSError, match=r"serving\.data_dir .*/disk/data: .*No space left on device; free it"):
            main(job)
