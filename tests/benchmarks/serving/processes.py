"""The processes of a measurement: a server until it answers, its callers, and what a rate has to keep."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def server(command: list[str], port: int, seconds: float = 180) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers, and end it afterwards."""
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + seconds
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]}: expected an answer on port {port}, found none")
            time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def load(port: int, tokens: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Load a server from a process of its own."""
    run = uuid.uuid4().hex[:10]
    command = ["tests.benchmarks.serving.load", f"http://127.0.0.1:{port}", str(tokens), str(rate), str(seconds), run]
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  port {port} {rate:g}/s for {seconds:g} s: {json.dumps(found)}", flush=True)
    return found


def holds(found: dict[str, Any], limit_ms: float) -> bool:
    """Whether all requests were answered by the model, the slowest hundredth within the limit."""
    return set(found["statuses"]) == {"200"} and set(found["sources"]) == {"model"} and found["p99_ms"] <= limit_ms
