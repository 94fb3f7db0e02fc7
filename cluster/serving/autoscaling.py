"""Autoscaling of a deployment by two measures at once: requests under way, and how busy its processes are.

Requests alone miss a service whose requests are short and dear; the processor alone misses one that waits for
others. Each measure says how many replicas it wants, and the higher one is asked for; Ray Serve applies limits
and delays.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

CPU_FRACTION = "cpu_fraction"
"""Key under which a replica's `record_autoscaling_stats` gives its `CpuMeter.fraction()`."""


class CpuMeter:
    """Measures how busy this process is: CPU seconds per second of one core, since it was last asked."""

    def __init__(self) -> None:
        self._seen = (time.monotonic(), time.process_time())

    def fraction(self) -> float:
        """Give the share of one core; above 1 where threads use several."""
        before, used_before = self._seen
        self._seen = now, used = time.monotonic(), time.process_time()
        return (used - used_before) / max(now - before, 1e-3)


class CpuAndRequests:
    """A policy for Serve: `AutoscalingPolicy(policy_function="cluster.serving.autoscaling:CpuAndRequests")`."""

    def __init__(self, target_cpu_fraction: float = 0.7) -> None:
        if not target_cpu_fraction > 0.0:
            raise ValueError(f"target_cpu_fraction: expected a share above 0, found {target_cpu_fraction}")
        self.target_cpu_fraction = target_cpu_fraction

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Say how many replicas the present load wants, as a fraction."""
        running = ctx.current_num_replicas
        if running == 0:
            return ctx.target_num_replicas, {}
        by_requests = ctx.total_num_requests / ctx.config.get_target_ongoing_requests()
        busy = (ctx.aggregated_metrics or {}).get(CPU_FRACTION) or {}
        # Replicas that have not reported yet are taken to be as busy as the others.
        by_cpu = sum(busy.values()) / len(busy) * running / self.target_cpu_fraction if busy else 0.0
        return max(by_requests, by_cpu), {}
