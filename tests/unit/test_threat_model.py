"""docs/threat_model.md: every claim names tests that are there; and the claims that no other file tests."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.serving.service import ServiceSettings
from cluster.session import _SHARED_VARIABLES
from tests.conftest import PROJECT

_PAGE = (PROJECT / "docs" / "threat_model.md").read_text(encoding="utf-8")
CLAIMS = re.findall(r"^\| (?!claim )([A-Z].+?) \| (.+) \|$", _PAGE, re.MULTILINE)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|(^|_)KEY")


def _sources() -> dict[str, ast.Module]:
    return {
        path.relative_to(PROJECT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("jobs", "relevance", "cancellation", "cluster")
        for path in (PROJECT / folder).rglob("*.py")
    }


def test_every_claim_is_read() -> None:
    rows = [line for line in _PAGE.splitlines() if line.startswith("|") and not line.startswith(("|---", "| claim"))]
    assert len(rows) == len(CLAIMS) > 10


@pytest.mark.parametrize(("claim", "tests"), CLAIMS, ids=[claim[:40] for claim, _ in CLAIMS])
def test_a_claim_names_tests_that_are_there(claim: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert len(named) == tests.count("`") // 2 > 0, f"{claim}: expected tests alone"
    for path, function in named:
        tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in defined, f"{claim}: {path} has no {function}"


def test_every_start_of_a_shared_ray_asks_for_a_token() -> None:
    assert ServiceSettings().auth
    assert "RAY_AUTH_MODE=token" in (PROJECT / "cluster" / "serving" / "serve.yaml").read_text(encoding="utf-8")
    clusters = []
    for path in (PROJECT / "cluster" / "kuberay" / "base").glob("*.yaml"):
        for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            spec = resource.get("spec") or {}
            clusters += [spec[name] for name in ("rayClusterConfig", "rayClusterSpec") if name in spec]
    started = yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text(encoding="utf-8"))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in started[key] if "ray start" in command]
        before = start.partition("ray start")[0]
        assert before.index("marketplace.env") < before.index("RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}"), key
    assert len(clusters) == 3
    assert all(cluster["authOptions"] == {"mode": "token"} for cluster in clusters)


def test_ports_that_people_reach_are_on_the_machines_own_interface() -> None:
    """Of what is started outside of Kubernetes, where policies say who reaches a port."""
    assert ServiceSettings().host == "127.0.0.1"
    cluster = yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text(encoding="utf-8"))
    (head,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1 " in head
    assert "security_group" not in cluster["provider"], "Ray's own group lets in SSH alone"
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"--host (\S+)", makefile) == ["127.0.0.1"]


def _pins(name: str) -> dict[str, str]:
    text = (PROJECT / name).read_text(encoding="utf-8")
    return {
        canonicalize_name(found[1]): found[2] for found in re.finditer(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def test_what_make_install_installs_is_pinned_with_hashes() -> None:
    """But torch, whose build is another on a machine with a GPU."""
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    locked, pinned = _pins("requirements.lock"), _pins("constraints.txt")
    assert len(locked) > 150
    assert {name: version for name, version in locked.items() if pinned.get(name) != version} == {}
    for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.partition("\n")[0]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        canonicalize_name(Requirement(one).name)
        for one in (*project["dependencies"], *project["optional-dependencies"]["test"])
    }
    assert wanted - set(locked) == {"torch", "setuptools"}, "`make lock` is to be run"
    assert "--require-hashes -r requirements.lock" in (PROJECT / "Makefile").read_text(encoding="utf-8")


def test_a_secret_in_a_tracked_file_is_found(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "find-secrets", tmp_path / ".ci")
    settings = tmp_path / "settings.toml"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for content, secret in (
        ("rate = 20\n", False),
        (f'key = "AKIA{"Q7" * 8}"\n', True),
        ("-----BEGIN RSA PRIVATE " + "KEY-----", True),
    ):
        settings.write_text(content)
        subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
        done = subprocess.run([tmp_path / ".ci" / "find-secrets"], env=environment, capture_output=True, text=True)
        assert bool(done.returncode) == secret, done.stdout + done.stderr
        assert ("settings.toml" in done.stdout) == secret
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert ".ci/find-secrets" in lint[1]


def test_no_pod_runs_as_root() -> None:
    pods = 0
    for path in (PROJECT / "cluster" / "kuberay" / "base").glob("*.yaml"):
        for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            spec = resource.get("spec") or {}
            cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
            if cluster is None:
                continue
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                pod = group["template"]["spec"]
                assert pod["securityContext"]["runAsNonRoot"]
                assert pod["securityContext"]["runAsUser"] > 0
                (container,) = pod["containers"]
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
                pods += 1
    assert pods == 8


def test_what_is_sent_to_workers_in_sight_is_no_secret() -> None:
    """A runtime environment is shown in the dashboard."""
    assert [name for name in _SHARED_VARIABLES if _SECRET.search(name)] == []
    assert _SECRET.search("HF_TOKEN")
    assert _SECRET.search("OPENAI_API_KEY")


def test_nothing_is_unpickled_and_no_models_code_is_run() -> None:
    wrong = []
    for path, tree in _sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                wrong += [f"{path}: {name}" for name in names & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}]
            if isinstance(node, ast.Call):
                given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                called = ast.unparse(node.func)
                if called in ("torch.load", "np.load", "numpy.load"):
                    safe = (
                        given.get("weights_only") is True if called == "torch.load" else not given.get("allow_pickle")
                    )
                    wrong += [] if safe else [f"{path}:{node.lineno} {called}"]
                if given.get("trust_remote_code"):
                    wrong.append(f"{path}:{node.lineno} trust_remote_code")
    assert wrong == []
