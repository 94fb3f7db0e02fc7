"""A Ray head of a test's own, as `ray start` makes one, ended with all that it started."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class RayHead:
    """Where it is reached."""

    address: str
    dashboard: str


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_head(
    folder: Path, environment: Mapping[str, str], *arguments: str, command: str = f"{RAY} start --head"
) -> Iterator[RayHead]:
    """Start a head in a folder and an environment.

    Args:
        folder: Where the head, and so each job without a working directory of its own, starts.
        environment: All that it and its jobs find there.
        arguments: Of `ray start`.
        command: For a shell; ports, sizes and the arguments come behind it.
    """
    port, dashboard = free_port(), free_port()
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
    ports += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    # Sockets below it have paths that must be short.
    size = [f"--object-store-memory={300 * 2**20}", f"--temp-dir=/tmp/ray-head-{os.getpid()}-{port}"]
    rest = shlex.join(["--block", "--disable-usage-stats", *ports, *size, *arguments])
    started = subprocess.Popen(
        ["bash", "-c", f"{command} {rest}"],
        env=dict(environment),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        lines = []
        for line in started.stdout:
            lines.append(line)
            if "--block" in line:  # the last thing that `ray start` says before it waits
                break
        assert started.poll() is None, "".join(lines)
        yield RayHead(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}")
    finally:
        os.killpg(started.pid, signal.SIGKILL)  # with all that it started; asking it politely takes half a minute
        started.wait()


@contextmanager
def guarded_head(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Run a head of two cores with a token, as a cluster should have it; give its clients' environment.

    Args:
        folder: Where the head starts.
        variables: What its jobs find in their environment besides.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_head(folder, environment | dict(variables or {}), "--num-cpus=2") as head:
        yield {**environment, "RAY_API_SERVER_ADDRESS": head.dashboard}
