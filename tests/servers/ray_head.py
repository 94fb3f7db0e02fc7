"""A real `ray start --head` with a token, as a cluster has it, for clients that come from outside."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_head(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Run a head of two cores that starts in a folder; give the environment with which its clients reach it.

    Args:
        folder: Where the head, and so each job without a working directory of its own, starts.
        variables: What its jobs find in their environment besides.
    """
    port, dashboard = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # as a cluster should have it
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
    ports += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    size = ["--num-cpus=2", f"--object-store-memory={300 * 2**20}", f"--temp-dir=/tmp/ray-head-{os.getpid()}"]
    started = subprocess.Popen(
        [RAY, "start", "--head", "--block", "--disable-usage-stats", *ports, *size],
        env=environment | dict(variables or {}),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in started.stdout:
        lines.append(line)
        if "--block" in line:  # the last thing that `ray start` says before it waits
            break
    assert started.poll() is None, "".join(lines)
    try:
        yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        os.killpg(started.pid, signal.SIGKILL)  # the head and all it started; asking it politely takes half a minute
        started.wait()
