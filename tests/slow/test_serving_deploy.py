"""The endpoint as on a cluster: `ray start` with the switches of cluster/serving/serve.yaml, then `serve deploy` of it.

Replicas come and go with the load; new weights come by another `serve deploy`.
"""

from __future__ import annotations

import copy
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from cancellation.model.verdict_model import load_verdict_model
from cluster.serving.ports import own_ports
from tests.conftest import PROJECT
from tests.servers.serving_process import TOKEN, Served, copy_model, free_port
from tests.servers.serving_replicas import simulated_event

BIN = Path(sys.executable).parent
CONFIG = PROJECT / "cluster" / "serving" / "serve.yaml"
PATIENT = {
    # Tests share their machine: nothing is refused for being slow.
    "admission": {
        **dict.fromkeys(("max_loop_lag_ms", "max_queue_age_ms", "standing_ms"), 60_000),
        "max_ongoing": 1000,
    },
    "deadlines": {"default_ms": 20_000, "model_ms": 10_000},
}
SCALING = {"min": 1, "max": 2, "num_cpus": 0.5, "look_back_seconds": 5, "upscale_seconds": 1, "downscale_seconds": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Head:
    """A head node of its own, and what `serve deploy` needs to reach it."""

    dashboard: str
    environment: dict[str, str]
    served: Served
    config: dict[str, Any] = field(default_factory=dict)

    def deploy(self, config: dict[str, Any]) -> None:
        path = self.served.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [BIN / "serve", "deploy", "--address", self.dashboard, path]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> str:
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        answer = httpx.get(f"{self.dashboard}/api/serve/applications/", headers=headers, timeout=30)
        return answer.json()["applications"]["cancellation"]["status"]


def documented_switches() -> dict[str, str]:
    """The variables before `ray start` in the comment of the config file."""
    comment = [line.removeprefix("#") for line in CONFIG.read_text().splitlines() if line.startswith("#  ")]
    words = shlex.split(" ".join(line.strip().removesuffix("\\") for line in comment))
    return dict(word.replace("$PWD", str(PROJECT)).split("=", 1) for word in words if word.startswith("RAY_"))


def filled_in(folder: Path, port: int) -> dict[str, Any]:
    """The config file with names for what stands in it in capitals."""
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = port
    tokens = folder / "tokens"
    tokens.write_text(f"{TOKEN} verdict feedback policy appeal review\n")
    tokens.chmod(0o600)
    arguments = config["applications"][0]["args"]
    arguments |= {
        "data_dir": str(folder / "data"),
        "output": str(folder / "archive"),
        "tokens_file": str(tokens),
        "database": None,
        "person_key_file": None,
    }
    arguments["rollout"]["policy"] = shutil.copy(PROJECT / "cancellation" / "decision" / "policy.toml", folder)
    arguments["model"]["registry_uri"] = registry_uri(folder)
    arguments["gateways"] |= {**SCALING, "target_cpu_fraction": 0.2}
    arguments["models"] |= {**SCALING, "target_ongoing": 0.2}
    return config | {"applications": [{**config["applications"][0], "args": arguments | PATIENT}]}


def registry_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def make_champion(folder: Path, name: str) -> str:
    """Register a copy of the shipped model under another name and give it the alias; its digest."""
    client = MlflowClient(registry_uri(folder))
    model = copy_model(folder, name)
    registered = client.create_model_version("cancellation", str(model))
    client.set_registered_model_alias("cancellation", "champion", registered.version)
    return load_verdict_model(model).version.partition("@")[2]


@pytest.fixture(scope="module")
def replica_ports() -> Iterator[dict[str, str]]:
    with own_ports(free_port()) as ports:
        yield ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, replica_ports: dict[str, str]) -> Iterator[Head]:
    folder, port, dashboard = tmp_path_factory.mktemp("deployed"), free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= documented_switches()
    haproxy = tempfile.mkdtemp(prefix="haproxy-", dir="/tmp")  # short: a socket's path has 107 characters at most
    environment |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(PROJECT),  # on a cluster the project is installed
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        # Other tests may have an endpoint on this machine, with replicas and a HAProxy of its own.
        **replica_ports,
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{haproxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{haproxy}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{haproxy}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{haproxy}/server-state",
    }
    ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
    ports += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    size = ["--num-cpus=4", f"--object-store-memory={300 * 2**20}", f"--temp-dir=/tmp/ray-serve-{os.getpid()}"]
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", *ports, *size],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as http:
            served = Served(url, folder, str(folder / "archive"), process, http)
            served.until(lambda: process.poll() is not None or b"--block" in (folder / "ray.log").read_bytes())
            assert process.poll() is None, (folder / "ray.log").read_text()
            MlflowClient(registry_uri(folder)).create_registered_model("cancellation")
            make_champion(folder, "live")
            one = Head(f"http://127.0.0.1:{dashboard}", environment, served, filled_in(folder, port))
            one.deploy(one.config)
            served.until(lambda: one.status() == "RUNNING")
            # Then a HAProxy that knows no replica may listen still, beside the one that does.
            served.until(lambda: all(httpx.get(f"{url}/healthz").status_code == 200 for _ in range(20)))
            yield one
    finally:
        # The head and all that it started; HAProxy has left the group, and would outlive it.
        for child in (process, *psutil.Process(process.pid).children(recursive=True)):
            with suppress(ProcessLookupError, psutil.Error):
                child.send_signal(signal.SIGKILL)
        process.wait()
        for place in (f"/tmp/ray-serve-{os.getpid()}", haproxy):
            shutil.rmtree(place, ignore_errors=True)


def test_serve_deploy_brings_up_what_the_file_says(head: Head) -> None:
    answer = head.served.judge({**simulated_event(1), "event_id": "first"})
    assert (answer.status_code, answer.json()["source"]) == (200, "model")
    assert answer.json()["model_version"].startswith("live@")
    assert head.served.logged() == ["first"]
    with httpx.Client(base_url=head.served.url, timeout=30) as stranger:
        assert stranger.get("/healthz").status_code == 200
        assert stranger.get("/docs").status_code == 401
        assert stranger.post("/v1/verdicts", json=simulated_event(2)).status_code == 401
    assert httpx.get(f"{head.dashboard}/api/serve/applications/", timeout=30).status_code in (401, 403)


def test_replicas_come_with_the_load_and_go_without_losing_a_request(head: Head) -> None:
    served = head.served

    def replicas() -> tuple[int, int]:
        return len(served.replicas("gateway")), len(served.replicas("model"))

    assert replicas() == (1, 1)
    with served.stream("busy", 50) as busy:
        began = time.monotonic()
        served.until(lambda: replicas() == (2, 2))
        grown = time.monotonic() - began
        served.until_answered(busy, 50)
    with served.stream("calm", 5) as calm:
        began = time.monotonic()
        served.until(lambda: replicas() == (1, 1))
        shrunk = time.monotonic() - began
        served.until_answered(calm, 8)
    requests = len(busy.sent) + len(calm.sent)
    # Gateways grow by their processor's use, models by requests under way: `filled_in`.
    print(f"grown in {grown:.1f} s, shrunk in {shrunk:.1f} s, {requests} requests, all answered")
    assert busy.refusals() == calm.refusals() == {}
    assert busy.answered() | calm.answered() <= set(served.logged())


def test_new_weights_by_another_deploy_drop_nothing(head: Head) -> None:
    served = head.served
    arguments = head.config["applications"][0]["args"]
    with served.stream("weights", 10) as stream:
        served.until_answered(stream, 10)
        arguments["model"]["digest"] = make_champion(served.folder, "better")
        head.deploy(head.config)
        served.until(lambda: any(body["model_version"].startswith("better@") for body in stream.bodies().values()))
        served.until(lambda: head.status() == "RUNNING")
        served.until_answered(stream, 10)
    assert stream.refusals() == {}
    assert stream.answered() <= set(served.logged())


def test_weights_of_another_digest_are_refused_and_the_old_ones_go_on(head: Head) -> None:
    served, wrong = head.served, copy.deepcopy(head.config)
    wrong["applications"][0]["args"]["model"]["digest"] = "00000000"
    with served.stream("refused", 10) as stream:
        served.until_answered(stream, 10)
        head.deploy(wrong)
        served.until(lambda: head.status() in ("DEPLOY_FAILED", "UNHEALTHY"), 240)
        served.until_answered(stream, 10)
    assert stream.refusals() == {}
    assert {body["model_version"].partition("@")[0] for body in stream.bodies().values()} == {"better"}
    assert {body["source"] for body in stream.bodies().values()} == {"model"}
