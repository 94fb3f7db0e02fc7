"""Overlays as `kubectl kustomize` renders them, and what their resources may hold."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import PROJECT

MANIFESTS = PROJECT / "cluster" / "kuberay"
OVERLAYS = ("staging", "production")
KUBERNETES = "1.32"
"""Version of Kubernetes' own schemas."""

_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
"""The definitions say `int32`."""

_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_ANYTHING = {"type": "object"}
"""A pod template: Kubernetes' own schema looks at it (`misfits`)."""


def _exactly(*required: str, **fields: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


_CREDENTIAL = _exactly(
    value=_TEXT, valueFrom=_exactly("secretKeyRef", secretKeyRef=_exactly("key", key=_TEXT, name=_TEXT))
)
_GROUP = {"rayStartParams": _TEXTS, "template": _ANYTHING}
_CLUSTER = _exactly(
    "headGroupSpec",
    rayVersion=_TEXT,
    authOptions=_exactly(mode={"enum": ["disabled", "token"]}, secretName=_TEXT),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_exactly(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=_ANYTHING,
    ),
    gcsFaultToleranceOptions=_exactly(
        redisAddress=_TEXT, redisUsername=_CREDENTIAL, redisPassword=_CREDENTIAL, externalStorageNamespace=_TEXT
    ),
    headGroupSpec=_exactly("template", **_GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _exactly(
            "groupName", "minReplicas", "maxReplicas", "template",
            groupName=_TEXT, replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT, idleTimeoutSeconds=_COUNT,
            **_GROUP,
        ),
    },
)  # fmt: skip
KUBERAY = {
    "RayService": _exactly(
        "serveConfigV2", "rayClusterConfig",
        serveConfigV2=_TEXT,
        rayClusterConfig=_CLUSTER,
        excludeHeadPodFromServeSvc=_FLAG,
        upgradeStrategy=_exactly(type={"enum": ["NewCluster", "None"]}),
    ),
    "RayJob": _exactly(
        "entrypoint", "rayClusterSpec",
        entrypoint=_TEXT,
        rayClusterSpec=_CLUSTER,
        backoffLimit=_COUNT,
        activeDeadlineSeconds={**_COUNT, "minimum": 1},
        shutdownAfterJobFinishes=_FLAG,
        ttlSecondsAfterFinished=_COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        runtimeEnvYAML=_TEXT,
    ),
}  # fmt: skip
"""The fields of KubeRay's v1 API (operator 1.5.1 and later) that the manifests use or could.

No package of a registry brings the definitions (each is a megabyte, most of it Kubernetes' pods over again). Name,
type, obligation and allowed values of each field were compared, one by one, with the Go types that the definitions are
generated from: `raycluster_types.go`, `rayservice_types.go` (as of after 1.5) and `rayjob_types.go` (an older one) in
KubeRay's `ray-operator/apis/ray/v1`. The list is stricter where a value has a meaning to the operator alone:
`submissionMode` and the type of an upgrade are any text to the definitions, `entrypoint` and `serveConfigV2` may be
missing. A field that is new to the manifests is looked up there and added. On a cluster `kubectl apply
--dry-run=server` asks the definitions themselves.
"""


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    """Render an overlay; skips the test where there is no kubectl."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which renders the overlays, is not on this machine")
    done = subprocess.run(["kubectl", "kustomize", MANIFESTS / overlay], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(overlay: str, kind: str, name: str) -> dict[str, Any]:
    """Give the one resource of a kind whose name begins so."""
    (found,) = [doc for doc in rendered(overlay) if doc["kind"] == kind and doc["metadata"]["name"].startswith(name)]
    return found


def ray_cluster(resource: dict[str, Any]) -> dict[str, Any]:
    """Give the Ray cluster that a RayService or RayJob describes."""
    return resource["spec"].get("rayClusterConfig") or resource["spec"]["rayClusterSpec"]


def pod_templates(resource: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pools of a Ray cluster, the head first: name and pod template."""
    cluster = ray_cluster(resource)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def misfits(resource: dict[str, Any]) -> list[str]:
    """Say what of a resource its schemas refuse: KubeRay's fields as above, everything else by Kubernetes' own."""
    if resource["kind"] not in KUBERAY:
        return _misfits_of_kubernetes(resource)
    checker = jsonschema.Draft202012Validator(KUBERAY[resource["kind"]])
    found = [f"{error.json_path}: {error.message}" for error in checker.iter_errors(resource["spec"])]
    if resource["apiVersion"] != "ray.io/v1":
        found.append(f"apiVersion: {resource['apiVersion']}")
    if not found:
        for pool, template in pod_templates(resource):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": pool}, "template": template}
            found += [f"{pool}: {problem}" for problem in _misfits_of_kubernetes(pod)]
    return found


def _misfits_of_kubernetes(resource: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []
