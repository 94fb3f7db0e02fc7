"""How many replicas a load wants."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.serving.autoscaling import CPU_FRACTION, CpuAndRequests, CpuMeter


def context(*, running: int, requests: float, busy: dict[str, float], target: float = 8.0) -> Any:
    config = SimpleNamespace(get_target_ongoing_requests=lambda: target)
    return SimpleNamespace(
        current_num_replicas=running,
        target_num_replicas=3,
        total_num_requests=requests,
        aggregated_metrics={CPU_FRACTION: busy},
        config=config,
    )


@pytest.mark.parametrize(
    ("running", "requests", "busy", "wanted"),
    [
        (2, 32.0, {}, 4.0),  # by requests alone
        (2, 1.0, {"a": 0.7, "b": 0.7}, 2.0),  # as busy as it should be
        (2, 1.0, {"a": 1.05, "b": 1.05}, 3.0),  # busier, with hardly a request in sight
        (2, 1.0, {"a": 1.05}, 3.0),  # the other has not reported yet
        (4, 4.0, dict.fromkeys("abcd", 0.07), 0.5),  # idle
        (0, 5.0, {}, 3),  # nothing runs: as decided before
    ],
)
def test_the_more_demanding_measure_decides(running: int, requests: float, busy: dict, wanted: float) -> None:
    found, state = CpuAndRequests(0.7)(context(running=running, requests=requests, busy=busy))
    assert found == pytest.approx(wanted)
    assert state == {}


def test_a_target_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="target_cpu_fraction"):
        CpuAndRequests(0.0)


def test_the_meter_tells_work_from_waiting() -> None:
    meter = CpuMeter()
    time.sleep(0.05)
    waiting = meter.fraction()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert meter.fraction() > 2 * waiting
