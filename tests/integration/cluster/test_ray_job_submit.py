"""`ray job submit` by the commands of docs/run_on_a_cluster.md, against a head that ray_cluster.yaml's command starts.

As on a cluster the code travels, driver and workers agree, and both get addresses and tokens from ~/marketplace.env.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from cluster.commit import read_job_manifest
from tests.builders.pairs_data import make_pairs, read_committed, write_pairs
from tests.builders.tiny_models import save_tiny_model
from tests.conftest import PROJECT
from tests.servers.hub import HubServer
from tests.servers.ray_head import ray_head
from tests.servers.s3 import S3Server

HUB_TOKEN = "hf_of_a_test"
DASHBOARD = "http://127.0.0.1:8265"


def documented_commands() -> list[str]:
    """The commands of the page's first block, in order."""
    page = (PROJECT / "docs" / "run_on_a_cluster.md").read_text()
    block = re.search(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    return block.replace("\\\n", " ").splitlines()


def documented(start: str) -> str:
    (command,) = [command for command in documented_commands() if command.startswith(start)]
    return command


@dataclass
class Shell:
    """A shell of somebody whose home is a folder of the test's own, and who has set nothing there."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"HOME": str(self.home), "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        bash = ["bash", "-c", command]
        return subprocess.run(bash, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A hub whose model is gated."""
    server = HubServer({"team/tiny": save_tiny_model(tmp_path / "model")}, gated="team/tiny", token=HUB_TOKEN)
    yield server
    server.stop()


@pytest.fixture
def shell(tmp_path: Path, s3_server: S3Server, hub: HubServer) -> Shell:
    """With the environment file that the page's first two commands make, filled in."""
    shell = Shell(tmp_path / "home")
    shell.home.mkdir()
    for start in ("cp ", "sed "):
        done = shell.run(documented(start))
        assert done.returncode == 0, done.stderr
    file = shell.home / "marketplace.env"
    assert re.search(r"^RAY_AUTH_TOKEN=[0-9a-f]{64}$", file.read_text(), re.MULTILINE)
    assert file.stat().st_mode & 0o077 == 0
    values = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "HF_TOKEN": HUB_TOKEN, "HF_ENDPOINT": hub.url}
    for name, value in {**values, "HF_HOME": f"{tmp_path}/hub", **s3_server.environment()}.items():
        kept = [line for line in file.read_text().splitlines() if not line.removeprefix("#").startswith(f"{name}=")]
        file.write_text("\n".join([*kept, f"{name}={value}", ""]))
    return shell


@pytest.fixture
def dashboard(shell: Shell) -> Iterator[str]:
    """A head node started by the cluster file's own command, but for what else would meet others on this machine."""
    commands = yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text())["head_start_ray_commands"]
    (start,) = [command for command in commands if "ray start" in command]
    for name in ("--port=6379", "--autoscaling-config=~/ray_bootstrap_config.yaml"):
        assert name in start
        start = start.replace(name, "")
    with ray_head(shell.home, shell.environment, "--num-cpus=2", command=start) as head:
        yield head.dashboard


@pytest.mark.timeout(900)
def test_a_submitted_job_gets_its_code_and_its_environment_as_the_page_says(
    shell: Shell, dashboard: str, bucket: str, tmp_path: Path
) -> None:
    write_pairs(make_pairs(60), f"{bucket}/pairs/ds=2026-11-22")
    submit, job = documented("ray job submit").split(" python -m jobs.relevance_score ")
    given = [argument for argument in job.split() if not argument.endswith(".toml") and argument != "--estimate"]
    assert [argument.partition("=")[0] for argument in given] == ["input", "output", "model"]
    given = " ".join(given).replace("s3://bucket", bucket).replace("models:/relevance@champion", "team/tiny")
    job = f"{sys.executable} -m jobs.relevance_score {given} scoring.shard_rows=30 cache_dir={tmp_path}/cache"
    token = documented("set -a")
    assert DASHBOARD in submit
    done = shell.run(f"{token}\n{submit.replace(DASHBOARD, dashboard)} {job}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "succeeded" in done.stdout
    assert len(read_committed(f"{bucket}/scores/ds=2026-11-22")) == 60
    assert read_job_manifest(f"{bucket}/scores/ds=2026-11-22")["figures"]["counts"]["labelled"] == 60
    _assert_joined(done.stdout, f"sqlite:///{tmp_path}/mlflow.db")
    assert HUB_TOKEN not in done.stdout + done.stderr

    without = shell.run(f"{submit.replace(DASHBOARD, dashboard)} {job}")
    assert without.returncode != 0, "the jobs API is guarded"


def _assert_joined(log: str, tracking: str) -> None:
    """Lines of the driver and of several workers, and the MLflow run, have one id."""
    client = MlflowClient(tracking)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    marked = [line for line in log.splitlines() if " run=" in line]
    assert marked
    assert [line for line in marked if f" run={run.data.tags['job_run_id']} " not in line] == []
    workers = {found[1] for line in marked if (found := re.search(r"\bpid=(\d+)", line))}
    assert workers, f"no line of a worker: {marked}"
    assert [line for line in marked if "cluster.sharded.job: shard" in line]
