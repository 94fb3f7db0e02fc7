"""The scoring pool on Ray's autoscaler: from nothing to all GPUs at once, well fed, and gone again when idle."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.servers import namespace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not namespace.available(), reason="no namespaces here, and the test cluster stops every Ray"),
]


def test_all_gpus_are_asked_for_at_once_and_kept_busy_and_let_go() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.autoscaling", "4", "8"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["labelled"] == found["pairs"]
    assert found["seconds_to_full_pool"]["asked"] <= 5
    assert found["engine_wait_fraction"] <= 0.05
    assert found["efficiency_of_full_pool"] >= 0.9, "0.95 on a machine that does nothing else (docs/scale.md)"
    assert found["seconds_until_gpus_gone"] < found["idle_timeout_seconds"] + 60
