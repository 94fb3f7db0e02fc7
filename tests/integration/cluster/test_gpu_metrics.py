"""GPU figures from NVIDIA's interface, by its own Python package, into Ray's metrics, as Prometheus scrapes them."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import ray

from cluster.gpus import BUSY, MEMORY, WAITING, GpuMeter, gauge
from tests.servers.nvml import build_driver

_SECONDS = 60


@ray.remote
class Actor:
    """Has a pretended GPU, and says what its meter found."""

    def __init__(self) -> None:
        self.meter = GpuMeter.start("tests")
        self.waiting = gauge(WAITING)

    def busy(self) -> float:
        """Share of the time since the last call."""
        self.waiting.set(0.05, {"pool": "tests"})
        busy, seconds = self.meter.take()
        return busy / seconds if seconds else -1.0


def _exported(address: str) -> dict[tuple[str, str], float]:
    """Values by metric and GPU."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            text = answer.read().decode()
    except urllib.error.URLError:
        return {}
    found = re.findall(rf"^ray_({BUSY}|{MEMORY}|{WAITING})\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    labels = [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]
    return {(name, given.get("gpu", "")): value for name, given, value in labels if given["pool"] == "tests"}


def test_each_card_of_an_actor_is_in_rays_metrics(local_ray: None, tmp_path: Path) -> None:
    where = {"LD_LIBRARY_PATH": str(build_driver(tmp_path)), "CUDA_VISIBLE_DEVICES": "0,1"}
    actor = Actor.options(num_cpus=0, runtime_env={"env_vars": where}).remote()
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + _SECONDS
    found: dict[tuple[str, str], float] = {}
    shares = []
    while time.monotonic() < deadline and len(found) < 5:
        shares.append(ray.get(actor.busy.remote()))
        found = _exported(address)
        time.sleep(0.5)
    assert found == {
        (BUSY, "0"): 0.25,
        (BUSY, "1"): 0.75,
        (MEMORY, "0"): 0.1,
        (MEMORY, "1"): 0.9,
        (WAITING, ""): 0.05,
    }
    assert {round(share, 6) for share in shares if share >= 0} == {0.5}, "the mean over both, for the run's own figures"
