"""A schedule as Kubernetes CronJobs: each creates a RayJob a day, which runs the flow's steps one after the other.

The RayJob is made of one that cluster/kuberay describes, as an overlay renders it: its image, account, head and worker
pools are those. A CronJob's pod fills in the day and creates it, and may do nothing else.
"""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cluster.schedule import create_rayjob
from cluster.schedule.plan import Flow, Schedule

DAY = create_rayjob.DAY
_ACCOUNT = "schedule"
_FOLDER, _FILE = "/etc/schedule", "rayjob.json"
_PATTERN = "relevance-score-DAY"
"""The RayJob of cluster/kuberay that has all pools."""


class _Readable(yaml.SafeDumper):
    """Writes texts of several lines as such."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Readable.add_representer(str, _Readable.represent_str)


def render_cronjobs(schedule: Schedule, manifests: str, overrides: Mapping[str, str]) -> str:
    """Write the manifests of a product's schedule.

    Args:
        schedule: What runs when.
        manifests: What `kubectl kustomize` says of an overlay.
        overrides: Values that differ from the schedule's file: the RayJob's own command has them too.

    Raises:
        ValueError: If the overlay has no RayJob to go by, or it lacks a pool.
    """
    pattern = _find(manifests)
    namespace = pattern["metadata"].get("namespace", "default")
    found = _account(namespace)
    for flow in schedule.flows:
        found += _flow(schedule, flow, pattern, overrides)
    return yaml.dump_all(found, Dumper=_Readable, sort_keys=False, width=120)


def _find(manifests: str) -> dict[str, Any]:
    for resource in yaml.safe_load_all(manifests):
        if resource and resource["kind"] == "RayJob" and resource["metadata"]["name"] == _PATTERN:
            return resource
    raise ValueError(f"manifests: expected the RayJob {_PATTERN} of cluster/kuberay, found none")


def _account(namespace: str) -> list[dict[str, Any]]:
    """Make who CronJobs are: somebody who may create RayJobs, and not even look at them."""
    metadata = {"name": _ACCOUNT, "namespace": namespace, "labels": {"part": _ACCOUNT}}
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    subject = {"kind": "ServiceAccount", "name": _ACCOUNT, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _ACCOUNT}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": reference,
        },
    ]


def _flow(
    schedule: Schedule, flow: Flow, pattern: Mapping[str, Any], overrides: Mapping[str, str]
) -> list[dict[str, Any]]:
    name = f"{schedule.product}-{flow.name}"
    ray_job = _ray_job(schedule, flow, name, pattern, overrides)
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    metadata = {"name": name, "namespace": pattern["metadata"].get("namespace", "default"), "labels": {"part": name}}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{name}-rayjob"},
        "data": {_FILE: json.dumps(ray_job, indent=2)},
    }
    container = {
        "name": "create",
        "image": head["containers"][0]["image"],
        "command": ["python", "-m", create_rayjob.__name__, f"{_FOLDER}/{_FILE}"],
        "securityContext": copy.deepcopy(head["containers"][0]["securityContext"]),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "rayjob", "mountPath": _FOLDER, "readOnly": True}],
    }
    pod = {
        "serviceAccountName": _ACCOUNT,
        "restartPolicy": "Never",
        "securityContext": copy.deepcopy(head["securityContext"]),
        "containers": [container],
        "volumes": [{"name": "rayjob", "configMap": {"name": f"{name}-rayjob"}}],
    }
    template = {"metadata": {"labels": {"part": name}}, "spec": pod}
    spec = {
        "schedule": flow.at,
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 6 * 3600,
        "jobTemplate": {"metadata": {"labels": {"part": name}}, "spec": {"backoffLimit": 4, "template": template}},
    }
    return [config, {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}]


def _ray_job(
    schedule: Schedule, flow: Flow, name: str, pattern: Mapping[str, Any], overrides: Mapping[str, str]
) -> dict[str, Any]:
    found = copy.deepcopy(dict(pattern))
    found["metadata"] |= {"name": f"{name}-{DAY}", "labels": {"part": name}}
    given = [f"values.{key}={value}" for key, value in overrides.items()]
    words = ["python", "-m", "jobs.schedule", f"product={schedule.product}", f"flow={flow.name}", f"day={DAY}", *given]
    found["spec"]["entrypoint"] = shlex.join(words)
    cluster = found["spec"]["rayClusterSpec"]
    groups: Sequence[dict[str, Any]] = cluster["workerGroupSpecs"]
    if unknown := set(flow.keep_workers) - {group["groupName"] for group in groups}:
        raise ValueError(f"{name}: the RayJob {_PATTERN} has no worker pool {', '.join(sorted(unknown))}")
    cluster["workerGroupSpecs"] = [group for group in groups if group["groupName"] in flow.keep_workers]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"]["metadata"]["labels"]["part"] = name
    return found
