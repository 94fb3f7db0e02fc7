"""A schedule on Kubernetes: shapes that it accepts, a RayJob like those of the overlay, and who creates it."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from cluster.launch import run_job
from cluster.schedule.create_rayjob import create
from cluster.schedule.cronjobs import render_cronjobs
from cluster.schedule.plan import load_schedule
from jobs.schedule import ScheduleJob, main
from tests.conftest import PROJECT
from tests.unit.cluster.kuberay.rendered import OVERLAYS, misfits, pod_templates, rendered

BUCKET = {"root": "s3://bucket", "model": "models:/relevance@champion"}
overlays = pytest.mark.parametrize("overlay", OVERLAYS)
products = pytest.mark.parametrize("product", ["relevance", "cancellation"])


def _made(overlay: str, product: str) -> list[dict[str, Any]]:
    schedule = load_schedule(PROJECT / product / "schedule.toml", BUCKET)
    text = render_cronjobs(schedule, yaml.safe_dump_all(rendered(overlay)), BUCKET)
    return list(yaml.safe_load_all(text))


def _ray_jobs(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(one["data"]["rayjob.json"]) for one in resources if one["kind"] == "ConfigMap"]


@overlays
@products
def test_every_resource_fits_its_schema(overlay: str, product: str) -> None:
    made = _made(overlay, product)
    kinds = [resource["kind"] for resource in made]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", *["ConfigMap", "CronJob"] * 2]
    for resource in [*made, *_ray_jobs(made)]:
        assert misfits(resource) == [], resource["metadata"]["name"]


@overlays
@products
def test_a_rayjob_is_like_the_overlays_and_runs_the_flow(
    overlay: str, product: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = next(one for one in rendered(overlay) if one["metadata"]["name"] == "relevance-score-DAY")
    for ray_job, flow in zip(_ray_jobs(_made(overlay, product)), ("daily", "weekly"), strict=True):
        name = f"{product}-{flow}"
        assert ray_job["metadata"] == pattern["metadata"] | {"name": f"{name}-DAY", "labels": {"part": name}}
        python, flag, module, *arguments = shlex.split(ray_job["spec"]["entrypoint"])
        assert (python, flag, module) == ("python", "-m", "jobs.schedule")
        accepted = [one.replace("DAY", "2026-11-22") for one in arguments]
        run_job(main, ScheduleJob, arguments=[*accepted, "--dry-run"])
        settings = json.loads(capsys.readouterr().out)
        assert (settings["product"], settings["flow"], settings["day"]) == (product, flow, "2026-11-22")
        assert settings["values"] == BUCKET
        pools = dict(pod_templates(ray_job))
        assert ("gpu" in pools) == (name == "relevance-daily"), "only scoring needs GPUs"
        for template in pools.values():
            assert template["metadata"]["labels"]["part"] == name, "the network policy goes by it"


def test_a_cronjobs_pod_may_create_rayjobs_and_nothing_else() -> None:
    made = _made("production", "cancellation")
    (role,) = [one for one in made if one["kind"] == "Role"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    for cron in (one for one in made if one["kind"] == "CronJob"):
        assert cron["spec"]["timeZone"] == "Etc/UTC"
        pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == role["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        path = container["command"][-1]
        assert path == f"{container['volumeMounts'][0]['mountPath']}/rayjob.json"
        assert pod["volumes"][0]["configMap"]["name"] == f"{cron['metadata']['name']}-rayjob"
        assert container["image"].startswith("registry.example.com/")


def test_an_overlay_without_the_rayjob_or_a_pool_is_refused() -> None:
    schedule = load_schedule(PROJECT / "relevance" / "schedule.toml")
    with pytest.raises(ValueError, match="expected the RayJob relevance-score-DAY"):
        render_cronjobs(schedule, "kind: Namespace\nmetadata: {name: x}\n", {})
    manifests = yaml.safe_dump_all(rendered("staging")).replace("groupName: gpu", "groupName: tpu")
    with pytest.raises(ValueError, match="relevance-daily: the RayJob relevance-score-DAY has no worker pool gpu"):
        render_cronjobs(schedule, manifests, {})


class _Kubernetes(ThreadingHTTPServer):
    """Answers as Kubernetes' API does when something is created: a name is there once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.names: dict[str, dict[str, Any]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answers(BaseHTTPRequestHandler):
    server: _Kubernetes

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = f"{self.path}/{body['metadata']['name']}"
        allowed = self.headers["Authorization"] == "Bearer of-the-pod"
        status = 403 if not allowed else 409 if key in self.server.names else 201
        if status == 201:
            self.server.names[key] = body
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"message": "as Kubernetes says it"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kubernetes() -> Iterator[_Kubernetes]:
    with _Kubernetes() as server:
        yield server
        server.shutdown()


def test_a_day_is_created_once(kubernetes: _Kubernetes) -> None:
    content = json.dumps(_ray_jobs(_made("staging", "cancellation"))[0])
    where = {"server": kubernetes.url, "token": "of-the-pod", "ca_file": None}
    assert create(content, "2026-11-22", **where) == "RayJob cancellation-daily-2026-11-22 is created"
    assert create(content, "2026-11-22", **where) == "RayJob cancellation-daily-2026-11-22 is there already"
    (path,), (made,) = kubernetes.names, kubernetes.names.values()
    namespace = made["metadata"]["namespace"]
    assert path == f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs/cancellation-daily-2026-11-22"
    assert "day=2026-11-22" in made["spec"]["entrypoint"]
    assert "DAY" not in json.dumps(made)
    with pytest.raises(RuntimeError, match=r"Kubernetes answered 403: .*as Kubernetes says it"):
        create(content, "2026-11-23", server=kubernetes.url, token="another's", ca_file=None)
    with pytest.raises(RuntimeError, match="does not answer"):
        create(content, "2026-11-23", server="http://127.0.0.1:9", token="of-the-pod", ca_file=None)
