"""ray_cluster.yaml and the image that its nodes run: no registry and no cloud is at hand, but all that they name is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text())


def steps() -> list[tuple[str, list[str]]]:
    """Instructions of the Dockerfile with their words."""
    text = re.sub(r"\\\n", " ", (PROJECT / "cluster" / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], shlex.split(line)[1:]) for line in lines]


def pinned() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}


def sources() -> list[str]:
    return [word for kind, words in steps() if kind == "COPY" for word in words[:-1] if not word.startswith("--chown=")]


def test_it_satisfies_rays_own_schema(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    workers = sum(kind.get("max_workers", 0) for kind in cluster["available_node_types"].values())
    assert workers == cluster["max_workers"]


def test_workers_have_a_role_and_nodes_install_nothing_when_they_start(cluster: dict[str, Any]) -> None:
    for name, kind in cluster["available_node_types"].items():
        if name != cluster["head_node_type"]:  # Ray gives the head one of its own
            assert kind["node_config"]["IamInstanceProfile"] == {"Name": "marketplace-worker"}, name
    commands = [command for key, some in cluster.items() if key.endswith("_commands") for command in some]
    assert not [command for command in commands if re.search(r"\b(pip|conda|apt|apt-get)\b", command)]


def test_every_node_reads_the_environment_before_ray_starts(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"] == {"/home/ray/marketplace.env": "~/marketplace.env"}
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in cluster[key] if "ray start" in command]
        guarded = "RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}"
        assert start.startswith(f"set -a && . ~/marketplace.env && {guarded} && set +a && ray start "), key


def test_the_image_is_rays_own_of_the_pinned_version() -> None:
    ((kind, (image,)), *_) = steps()
    assert kind == "FROM"
    version, python, _ = image.removeprefix("rayproject/ray:").split("-")
    assert version == pinned()["ray"]
    assert python == "py" + "".join(re.search(r">=(\d)\.(\d+)", PYPROJECT["requires-python"]).groups())


def test_each_package_that_the_image_installs_is_pinned() -> None:
    commands = [words for kind, words in steps() if kind == "RUN" and words[0] == "pip"]
    assert [words[-1] for words in commands] == ["torch", ".[vllm]", "."]
    for words in commands:
        assert words[:3] == ["pip", "install", "--no-cache-dir"]
        assert ("--no-deps" if words[-1] == "." else "-c constraints.txt") in " ".join(words)
        extras = re.findall(r"\.\[(.+)\]", words[-1])
        for extra in extras:
            for wanted in map(Requirement, PYPROJECT["optional-dependencies"][extra]):
                assert str(wanted.specifier).startswith("=="), f"{wanted} is pinned nowhere"
    for wanted in map(Requirement, PYPROJECT["dependencies"]):
        assert wanted.specifier.contains(pinned()[canonicalize_name(wanted.name)]), str(wanted)


def test_what_the_image_copies_is_there_and_makes_the_whole_project(tmp_path: Path) -> None:
    """Its last step, done with what the steps before have copied and nothing else."""
    for name in sources():
        assert (PROJECT / name).exists(), name
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copyfile
        copy(PROJECT / name, tmp_path / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    done = subprocess.run(pip, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name.partition("-")[0] for path in (tmp_path / "wheels").iterdir()] == ["marketplace_llm"]


def test_all_gpu_workers_may_come_at_once(cluster: dict[str, Any]) -> None:
    assert cluster["upscaling_speed"] >= cluster["available_node_types"]["gpu_worker"]["max_workers"]
