"""docs/threat_model.md: every claim names tests that are there; and the claims that no other file tests."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

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
    assert len(clusters) == 3
    assert all(cluster["authOptions"] == {"mode": "token"} for cluster in clusters)


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
