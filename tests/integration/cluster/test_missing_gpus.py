"""A cluster without the GPUs that a job asks for: named at once, and waited for only where something adds them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.servers.ray_head import ray_head

SCRIPT = """
import logging, ray
logging.basicConfig(format="%(message)s")
from cluster.session import require_cores, require_gpus
ray.init("auto", log_to_driver=False, logging_level="ERROR")
try:
    require_cores(1)
    {asked}
    print("goes on")
except ValueError as error:
    print(error)
"""
GPUS, CORES = 'require_gpus(2, asked_by="trainer.num_workers=2")', "require_cores(8)"
_EMPTY = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
AUTOSCALER = {
    "cluster_name": "pretended",
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu_worker": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "file_mounts_sync_continuously": False,
    **{f"{name}_commands": [] for name in _EMPTY},
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
}
"""A cluster that could grow: Ray's own provider of pretended nodes."""


@pytest.mark.parametrize(
    ("asked", "autoscaled", "said"),
    [
        (
            GPUS,
            False,
            "trainer.num_workers=2, but the cluster has 0 GPUs (1 nodes, 1 CPUs) and no autoscaler that would add any: "
            "start nodes with GPUs, or set it to 0\n",
        ),
        pytest.param(
            GPUS,
            True,
            "trainer.num_workers=2, but the cluster has 0 GPUs (1 nodes, 1 CPUs) so far: waiting for its autoscaler to "
            "add some\ngoes on\n",
            marks=pytest.mark.slow,  # Ray's provider of pretended nodes was seen to keep a driver for two minutes
        ),
        (
            CORES,
            False,
            "cpus_per_actor=8, but no node has more than 1 cores: set it to 1 or less, or start larger nodes\n",
        ),
    ],
)
def test_what_the_cluster_has_is_named(asked: str, autoscaled: bool, said: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    more = []
    if autoscaled:
        config = tmp_path / "autoscaling.json"
        config.write_text(json.dumps(AUTOSCALER))
        more = [f"--autoscaling-config={config}"]
        environment["RAY_FAKE_CLUSTER"] = "1"  # or the provider does not know the head, and ends it
    with ray_head(tmp_path, environment, "--num-cpus=1", "--num-gpus=0", *more) as head:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(asked=asked)],
            env={**environment, "RAY_ADDRESS": head.address, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
    assert done.stdout.endswith(said), done.stdout
    assert done.returncode == 0


HOLDER = """
import subprocess, sys, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1, num_gpus=1)
class Other:
    def has_begun(self): return True
ray.get((other := Other.remote()).has_begun.remote())
while ray.available_resources().get("CPU", 0): pass  # what a node has left is told a moment later
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
COMER = """
import logging
logging.basicConfig(format="%(message)s")
from cluster.session import SessionSettings, ray_session, require_gpus
with ray_session(SessionSettings()):
    require_gpus(1)
"""


def test_a_job_on_a_cluster_that_others_have_says_what_it_waits_for(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_head(tmp_path, environment, "--num-cpus=1", "--num-gpus=1") as head:
        done = subprocess.run(
            [sys.executable, "-c", HOLDER, COMER],
            env={**environment, "RAY_ADDRESS": head.address, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "are free just now: waiting until other jobs" in line]
    assert [line.partition(" are free")[0] for line in told] == [
        "0 of the cluster's 1 CPUs",
        "0 of the cluster's 1 GPUs",
    ]
