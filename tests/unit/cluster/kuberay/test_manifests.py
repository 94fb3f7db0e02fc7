"""cluster/kuberay: shapes that Kubernetes and KubeRay accept, and nothing named that the code does not have."""

from __future__ import annotations

import copy
import importlib
import os
import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from cancellation.serving.app import APP_NAME
from cancellation.serving.settings import ServingSettings
from cluster.serving.service import ServiceSettings, prepare_environment
from cluster.settings import Settings, load_settings
from tests.conftest import PROJECT
from tests.unit.cluster.kuberay.rendered import (
    MANIFESTS,
    OVERLAYS,
    misfits,
    one,
    pod_templates,
    ray_cluster,
    rendered,
)

IN_IMAGE = "/home/ray/project"
"""Where an image holds the project."""

overlays = pytest.mark.parametrize("overlay", OVERLAYS)
_JOBS = ("relevance-score", "relevance-finetune")
jobs = pytest.mark.parametrize("job", _JOBS)


def _serve(overlay: str) -> tuple[ServeDeploySchema, ServingSettings]:
    config = ServeDeploySchema.model_validate(
        yaml.safe_load(one(overlay, "RayService", "verdicts")["spec"]["serveConfigV2"])
    )
    (application,) = config.applications
    return config, ServingSettings.model_validate(application.args)


def _settings(overlay: str, job: str) -> tuple[Settings, str]:
    """What a RayJob's command resolves to, by the job's own reading of it; and the job's module."""
    python, flag, module, *arguments = shlex.split(one(overlay, "RayJob", job)["spec"]["entrypoint"])
    assert (python, flag) == ("python", "-m")
    arguments = [argument.replace(IN_IMAGE, str(PROJECT)) for argument in arguments]
    loaded = importlib.import_module(module)
    (cls,) = [
        value
        for value in vars(loaded).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module
    ]
    return load_settings(cls, arguments), module


def _mount_of(path: str, template: dict[str, Any]) -> dict[str, Any]:
    """The mount that holds a path of the first container, with the volume behind it as `volume`."""
    spec = template["spec"]
    mounts = [
        mount
        for mount in spec["containers"][0]["volumeMounts"]
        if PurePosixPath(path).is_relative_to(mount["mountPath"])
    ]
    assert len(mounts) == 1, f"{path} lies in {[mount['mountPath'] for mount in mounts]}"
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mounts[0]["name"]]
    return mounts[0] | {"volume": volume}


@overlays
def test_every_resource_fits_its_schema(overlay: str) -> None:
    kinds = [resource["kind"] for resource in rendered(overlay)]
    assert kinds.count("RayJob") == 2
    assert {"RayService", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount", "ConfigMap"} < set(kinds)
    for resource in rendered(overlay):
        assert misfits(resource) == [], resource["metadata"]["name"]


@pytest.mark.parametrize(
    ("kind", "place", "said"),
    [
        ("RayService", ("spec", "serveConfig"), "'serveConfig' was unexpected"),
        ("RayJob", ("spec", "ttlSecondsAfterFinish"), "'ttlSecondsAfterFinish' was unexpected"),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "replicas"), "'replicas' was unexpected"),
        (
            "RayService",
            ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "terminationGracePeriod"),
            "'terminationGracePeriod' was unexpected",
        ),
        ("PodDisruptionBudget", ("spec", "minAvailabel"), "'minAvailabel' was unexpected"),
    ],
)
def test_a_misspelt_field_is_found(kind: str, place: tuple[str, ...], said: str) -> None:
    resource = copy.deepcopy(next(found for found in rendered("staging") if found["kind"] == kind))
    inner = resource
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = 1
    assert said in "; ".join(misfits(resource))


@overlays
@jobs
def test_a_jobs_command_is_one_that_the_job_accepts(overlay: str, job: str) -> None:
    settings, module = _settings(overlay, job)
    assert module == f"jobs.{job.replace('-', '_')}"
    bucket = f"s3://marketplace-{overlay}/"
    places = [value for _, value in _texts(settings) if value.startswith("s3://")]
    assert len(places) >= 2
    assert all(place.startswith(bucket) for place in places), places


def _texts(settings: Settings, prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in settings:
        if isinstance(value, Settings):
            found += _texts(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            found.append((f"{prefix}{name}", value))
    return found


@overlays
def test_pools_have_the_gpus_that_jobs_ask_for(overlay: str) -> None:
    scoring = _settings(overlay, "relevance-score")[0].scoring
    trainer = _settings(overlay, "relevance-finetune")[0].trainer
    wanted = {
        "relevance-score": (scoring.max_actors, scoring.gpus_per_actor, scoring.cpus_per_actor),
        "relevance-finetune": (trainer.num_workers, 1 if trainer.use_gpu else 0, trainer.cpus_per_worker),
    }
    for job, (workers, gpus, cpus) in wanted.items():
        (group,) = [
            group
            for group in ray_cluster(one(overlay, "RayJob", job))["workerGroupSpecs"]
            if group["groupName"] == "gpu"
        ]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert int(resources["limits"]["nvidia.com/gpu"]) >= gpus
        assert int(resources["requests"]["cpu"]) > cpus
        assert group["maxReplicas"] == workers


@overlays
def test_the_endpoints_application_fits_ray_and_the_settings(overlay: str) -> None:
    config, settings = _serve(overlay)
    (application,) = config.applications
    assert (application.name, application.import_path) == (APP_NAME, "cancellation.serving.app:build")
    assert not settings.open_docs
    assert settings.output.startswith(f"s3://marketplace-{overlay}/")
    assert config.http_options.request_timeout_s == ServiceSettings().request_timeout_seconds
    workers = ray_cluster(one(overlay, "RayService", "verdicts"))["workerGroupSpecs"][0]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    # A GPU is asked for by no replica, so all of them have to fit into this pool; Ray counts whole requests.
    for size in ("min", "max"):
        asked = sum(getattr(kind, size) * kind.num_cpus for kind in (settings.gateways, settings.models))
        assert asked <= workers[f"{size}Replicas"] * cpus


@overlays
def test_what_the_endpoint_reads_is_mounted_for_reading_and_what_it_writes_for_writing(overlay: str) -> None:
    _, settings = _serve(overlay)
    cache = settings.model.cache_dir.replace("~", "/home/ray")
    for _, template in pod_templates(one(overlay, "RayService", "verdicts")):
        for path, source in ((settings.rollout.policy, "configMap"), (settings.tokens_file, "secret")):
            mount = _mount_of(path, template)
            assert mount["readOnly"]
            assert source in mount["volume"]
            assert "subPath" not in mount, "a mount by subPath never sees a change"
        for path in (settings.data_dir, cache):
            mount = _mount_of(path, template)
            assert not mount.get("readOnly")
            assert "emptyDir" in mount["volume"]
        disk = _mount_of(settings.data_dir, template)["volume"]["emptyDir"]["sizeLimit"]
        assert int(disk.removesuffix("Gi")) * 2**30 > 2 * settings.decision_log.max_bytes
        tokens = _mount_of(settings.tokens_file, template)["volume"]["secret"]
        assert tokens["defaultMode"] == 0o440, "others may not read it, or the endpoint refuses the file"
        assert template["spec"]["securityContext"]["fsGroup"] == template["spec"]["securityContext"]["runAsUser"]


@overlays
@jobs
def test_models_are_kept_on_a_volume(overlay: str, job: str) -> None:
    cache = _settings(overlay, job)[0].cache_dir.replace("~", "/home/ray")
    for _, template in pod_templates(one(overlay, "RayJob", job)):
        assert "emptyDir" in _mount_of(cache, template)["volume"]
        assert _mount_of("/dev/shm", template)["volume"]["emptyDir"]["medium"] == "Memory"


def _switches() -> dict[str, str]:
    """What the service turns, but what is one machine's own."""
    turned: dict[str, str] = {}
    prepare_environment(ServiceSettings(), turned)
    of_one_machine = (
        "_STATS_PORT",
        "_METRICS_PORT",
        "_HTTP_PORT",
        "_GRPC_PORT",
        "_LOC",
        "_PATH",
        "_BASE",
        "_FILE",
        "_NBTHREAD",
        "HAPROXY_BINARY",
        "_USAGE_STATS_ENABLED",
        "_HAPROXY_METRICS_ENABLED",
    )
    return {name: value for name, value in turned.items() if not name.endswith(of_one_machine) and "_AUTH_" not in name}


@overlays
def test_rays_switches_are_those_that_the_service_turns(overlay: str) -> None:
    for _, template in pod_templates(one(overlay, "RayService", "verdicts")):
        given = {variable["name"]: variable["value"] for variable in template["spec"]["containers"][0]["env"]}
        assert given.pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
        haproxy = PurePosixPath(given.pop("RAY_SERVE_HAPROXY_BINARY_PATH"))
        assert os.access(PROJECT / haproxy.relative_to(IN_IMAGE), os.X_OK)
        assert given == _switches()


def test_rays_switches_of_another_cluster_are_those_too() -> None:
    head = (PROJECT / "cluster" / "serving" / "serve.yaml").read_text(encoding="utf-8").partition("\nproxy_location")[0]
    words = shlex.split(
        re.sub(r"\\?\n#", " ", head[head.index("RAY_SERVE_HAPROXY_BINARY_PATH=") : head.index("ray start")])
    )
    given = dict(word.split("=", 1) for word in words)
    assert given.pop("RAY_SERVE_HAPROXY_BINARY_PATH") == "$PWD/cluster/serving/haproxy"
    assert given.pop("RAY_AUTH_MODE") == "token"
    assert given == _switches()


@overlays
def test_a_pod_that_goes_has_time_to_drain(overlay: str) -> None:
    from ray._private import ray_constants

    _, settings = _serve(overlay)
    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
    for _, template in pod_templates(one(overlay, "RayService", "verdicts")):
        variables = {variable["name"]: variable["value"] for variable in template["spec"]["containers"][0]["env"]}
        drain = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        slowest = max(settings.gateways.drain_seconds, settings.models.drain_seconds) + ServiceSettings().drain_seconds
        assert slowest < drain < template["spec"]["terminationGracePeriodSeconds"]


@overlays
def test_maintenance_leaves_pods_that_answer_and_can_go_on(overlay: str) -> None:
    budget = one(overlay, "PodDisruptionBudget", "verdicts")["spec"]
    pools = ray_cluster(one(overlay, "RayService", "verdicts"))["workerGroupSpecs"]
    (pool,) = [
        pool
        for pool in pools
        if budget["selector"]["matchLabels"].items() <= pool["template"]["metadata"]["labels"].items()
    ]
    assert isinstance(budget["minAvailable"], int)
    assert 0 < budget["minAvailable"] < pool["minReplicas"]
    assert "maxUnavailable" not in budget


@overlays
def test_pods_are_ready_when_the_endpoint_says_so(overlay: str) -> None:
    config, _ = _serve(overlay)
    source = (PROJECT / "cancellation" / "serving" / "http" / "endpoint.py").read_text(encoding="utf-8")
    for pool, template in pod_templates(one(overlay, "RayService", "verdicts")):
        if pool == "head":
            continue
        container = template["spec"]["containers"][0]
        probe = container["readinessProbe"]["httpGet"]
        assert probe["port"] == config.http_options.port
        assert f'"{probe["path"]}": {{"GET": (None,' in source
        assert {"name": "verdicts", "containerPort": config.http_options.port} in container["ports"]


@overlays
def test_ray_is_guarded_by_a_token_and_its_ports_by_a_policy(overlay: str) -> None:
    config, _ = _serve(overlay)
    for resource in rendered(overlay):
        if resource["kind"] in ("RayService", "RayJob"):
            cluster = ray_cluster(resource)
            assert cluster["authOptions"] == {"mode": "token"}
            assert cluster["rayVersion"] == ray.__version__
            for _, template in pod_templates(resource):
                assert template["metadata"]["labels"]["part"] == resource["metadata"]["labels"]["part"]
                assert template["spec"]["securityContext"]["runAsNonRoot"]
    policy = one(overlay, "NetworkPolicy", "ray")["spec"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "part", "operator": "Exists"}]}
    assert all(rule["from"] for rule in policy["ingress"]), "nobody is let in from everywhere"
    callers = one(overlay, "NetworkPolicy", "verdicts")["spec"]["ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in callers] == [[config.http_options.port]]


@overlays
def test_what_submits_a_job_reaches_the_dashboard(overlay: str) -> None:
    """KubeRay's Kubernetes Job for it has a pod of its own template, with the labels alone that Kubernetes gives."""
    labels = {"job-name", "batch.kubernetes.io/job-name", "controller-uid", "batch.kubernetes.io/controller-uid"}
    let_in = [
        [port["port"] for port in rule.get("ports", [])]
        for rule in one(overlay, "NetworkPolicy", "ray")["spec"]["ingress"]
        for source in rule["from"]
        for wanted in source.get("podSelector", {}).get("matchExpressions", [])
        if wanted["operator"] == "Exists" and wanted["key"] in labels
    ]
    assert let_in == [[8265]]


@overlays
def test_no_secret_stands_in_the_manifests(overlay: str) -> None:
    assert "Secret" not in {resource["kind"] for resource in rendered(overlay)}
    secrets = ("TOKEN", "PASSWORD", "SECRET", "KEY")
    for resource in rendered(overlay):
        for _, template in pod_templates(resource) if resource["kind"] in ("RayService", "RayJob") else ():
            variables = template["spec"]["containers"][0].get("env", [])
            assert [variable["name"] for variable in variables if variable["name"].endswith(secrets)] == []


def test_the_day_is_filled_in_before_anything_is_created() -> None:
    """Kubernetes refuses capitals in names: a job whose DAY was forgotten is not created."""
    for overlay in OVERLAYS:
        for job in _JOBS:
            resource = one(overlay, "RayJob", job)
            assert resource["metadata"]["name"] == f"{job}-DAY"
            assert "DAY" in resource["spec"]["entrypoint"]


def test_environments_differ_only_where_they_should() -> None:
    texts = {overlay: (MANIFESTS / overlay / "serve.yaml").read_text(encoding="utf-8") for overlay in OVERLAYS}
    given = {
        overlay: yaml.safe_load(text.replace(overlay, "ENV"))["applications"][0]["args"]
        for overlay, text in texts.items()
    }
    differ = {
        name
        for name in given["staging"].keys() | given["production"].keys()
        if given["staging"].get(name) != given["production"].get(name)
    }
    assert differ == {"database", "gateways", "models", "shadows"}


@overlays
def test_what_is_not_in_the_manifests_is_created_by_a_command_of_the_page(overlay: str) -> None:
    page = (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
    made = {(resource["kind"], resource["metadata"]["name"]) for resource in rendered(overlay)}
    for kind, key, command in (
        ("Secret", "secretKeyRef", "secret generic"),
        ("ConfigMap", "configMapKeyRef", "configmap"),
    ):
        for name in _named(rendered(overlay), kind, key) - {name for found, name in made if found == kind}:
            assert f"create {command} {name} " in page, f"{kind} {name} is mounted or read, and nobody creates it"
    for name in re.findall(r"part(?:=| in \()([\w-]+(?:, [\w-]+)*)", page):
        parts = {resource["metadata"]["labels"]["part"] for resource in rendered(overlay)}
        assert set(name.split(", ")) <= parts


def _named(found: Any, kind: str, key: str) -> set[str]:
    """Names of Secrets or ConfigMaps that anything inside refers to."""
    if isinstance(found, list | tuple):
        return set().union(*(_named(item, kind, key) for item in found)) if found else set()
    if not isinstance(found, dict):
        return set()
    names = set()
    for name, value in found.items():
        if isinstance(value, dict):
            if name in (key, f"{kind[0].lower()}{kind[1:]}Ref"):
                names.add(value["name"])
            if name == kind[0].lower() + kind[1:]:
                names |= {value[field] for field in ("secretName", "name") if field in value}
        names |= _named(value, kind, key)
    return names
