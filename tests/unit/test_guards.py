"""Rules of the repository that a reviewer should not have to remember."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT

MAY_IMPORT = {
    "jobs": {"relevance", "cancellation", "cluster"},
    "relevance": {"cluster"},
    "cancellation": {"cluster"},
    "cluster": set(),
}
FOLDERS = tuple(MAY_IMPORT)
PURE = [
    "relevance.labels",
    "relevance.prompting.guidelines",
    "relevance.prompting.prompts",
    "relevance.pairs.pair",
    "relevance.engines.interface",
    "relevance.engines.settings",
    "relevance.scoring.shard_steps",
    "relevance.agreement",
    "relevance.evaluation.figures",
    "relevance.evaluation.pairs",
    "relevance.evaluation.run",
    "relevance.evaluation.calibration",
    "relevance.small_model_recipe.catalogue",
    "cancellation.events.event",
    "cancellation.features.vector",
    "cancellation.text.timeline",
    "cancellation.decision.rules",
    "cancellation.text.encoding",
    "cancellation.model.verdict_model",
    "cancellation.decision.policy",
    "cancellation.decision.policy_file",
    "cancellation.decision.verdicts",
    "cancellation.decision.thresholds",
    "cancellation.decision.calibration",
    "cancellation.scoring.explanations",
    "cancellation.events.files",
    "cancellation.scoring.shard_steps",
    "cancellation.comparison.figures",
    "cluster.settings",
    "cluster.commit",
]


def _sources() -> list[Path]:
    return [path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")]


def _imported(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_arrows_point_one_way(path: Path) -> None:
    folder = path.relative_to(PROJECT).parts[0]
    forbidden = ({*FOLDERS, "tests"} - {folder} - MAY_IMPORT[folder]) & _imported(path)
    assert not forbidden, f"{path.name} in {folder}/ imports {forbidden}"


def test_pure_modules_import_without_heavy_libraries() -> None:
    script = (
        f"import importlib, sys\nfor name in {PURE!r}: importlib.import_module(name)\n"
        "print(*sorted({'torch', 'ray', 'vllm', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.split() == []


def _job_files() -> list[Path]:
    return sorted((PROJECT / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", _job_files(), ids=lambda path: path.name)
def test_every_settings_file_of_a_job_is_accepted(path: Path) -> None:
    """Required settings may be missing from a file, a misspelt one may not be in it."""
    import importlib

    from cluster.settings import Settings, load_settings

    module = importlib.import_module(f"jobs.{path.name.partition('.')[0]}")
    (job,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__
    ]
    required = [f"{name}=x" for name, field in job.model_fields.items() if field.is_required()]
    load_settings(job, [str(path), *required])


def test_a_job_is_a_table_of_contents() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (PROJECT / "jobs").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 100} == {}


def test_files_stay_readable() -> None:
    lengths = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in _sources()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_cluster_file_satisfies_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    workers = sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values())
    assert workers == config["max_workers"]
    assert any("constraints.txt" in command for command in config["setup_commands"])
