"""Services of one machine get ranges of ports that nobody else has, and are told which setting is in the way."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.serving.ports import check_free, check_host, own_ports
from tests.conftest import PROJECT
from tests.servers.serving_process import TOKEN, free_port


def ports_of(switches: dict[str, str]) -> list[int]:
    return sorted(int(port) for port in switches.values())


def test_services_whose_ports_are_200_apart_get_ranges_of_their_own() -> None:
    with ExitStack() as stack:
        ranges = [ports_of(stack.enter_context(own_ports(port))) for port in (8000, 8200, 8400, 8001)]
    for ports in ranges:
        assert ports[0] >= 10_000
        assert ports[-1] < 32_768
        assert len(set(ports)) == 4
    ends = sorted((ports[0], ports[-1]) for ports in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_a_range_is_free_again_when_its_service_has_ended_or_was_killed() -> None:
    script = (
        "from cluster.serving.ports import own_ports\nwith own_ports(8077) as ports: print(ports, flush=True); input()"
    )
    with own_ports(8077) as ports:
        first = ports
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == str(first)
        with own_ports(8077) as ports:
            assert ports != first
        other.kill()
        other.wait()
    with own_ports(8077) as ports:
        assert ports == first


def test_a_range_in_which_somebody_listens_or_in_which_the_endpoint_is_is_passed_over() -> None:
    with own_ports(8111) as ports:
        inside = ports_of(ports)[0] + 40
    with socket.create_server(("127.0.0.1", inside)), own_ports(8111) as ports:
        assert inside not in range(ports_of(ports)[0], ports_of(ports)[-1] + 1)
    with own_ports(8111, [inside]) as ports:
        assert inside not in range(ports_of(ports)[0], ports_of(ports)[-1] + 1)
    with own_ports(10_050 + 50 * 100) as ports:
        assert ports_of(ports)[0] // 100 != 150


def test_the_setting_of_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RuntimeError, match=rf"^service\.stats_port: .* listens on {port}; end that, or set another"),
    ):
        check_free({"service.port": ("127.0.0.1", free_port()), "service.stats_port": ("", port)})


def test_a_service_that_cannot_have_a_port_does_not_start_and_says_which_setting_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN} verdict\n")
    (tmp_path / "tokens").chmod(0o600)
    with socket.create_server(("", 0)) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as one HAProxy beside another does
        taken = other.getsockname()[1]
        ports = [f"service.port={free_port()}", f"service.stats_port={free_port()}", f"service.metrics_port={taken}"]
        given = [f"serving.data_dir={tmp_path / 'data'}", f"serving.tokens_file={tmp_path / 'tokens'}"]
        command = [sys.executable, "-m", "jobs.cancellation_serve", "session.num_cpus=1", *ports, *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert f"service.metrics_port: expected a free port, found somebody who listens on {taken}" in done.stderr


@pytest.mark.parametrize("host", ["::", "::1", "127.0.0.2", "no-such-host.invalid"])
def test_an_interface_behind_which_haproxy_would_find_no_replica_is_refused(host: str, tmp_path: Path) -> None:
    given = [f"service.host={host}", f"service.port={free_port()}", f"serving.data_dir={tmp_path}"]
    command = [sys.executable, "-m", "jobs.cancellation_serve", "session.num_cpus=1", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert "service.host: expected an interface on which calls to 127.0.0.1 arrive" in done.stderr
    assert f"found {host}" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", ""])
def test_interfaces_of_this_machine_alone_and_of_all_are_taken(host: str) -> None:
    check_host(host)


def test_a_limit_of_open_files_with_which_haproxy_does_not_start_is_named_with_how_to_raise_it() -> None:
    def checked(limit: int, connections: str) -> str:
        look = "from cluster.serving.ports import check_open_files; check_open_files()"
        command = ["bash", "-c", f"ulimit -n {limit} && exec {sys.executable} -c '{look}'"]
        environment = {**os.environ, "RAY_SERVE_HAPROXY_MAXCONN": connections}
        done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=60)
        return (done.stderr.strip().splitlines() or [""])[-1]

    said = checked(4096, "4096")
    if _may_raise_limits():
        assert said == "", "whoever may raise it has it raised"
    else:
        assert "expected a limit of at least 10500, as HAProxy needs, found 4096; raise it" in said
    assert checked(4096, "1000") == ""


def _may_raise_limits() -> bool:
    effective = int(re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1], 16)
    return bool(effective >> 24 & 1)  # CAP_SYS_RESOURCE
