"""The comparison as a user calls it: tiny rows on a local Ray, then again, when nothing is left to do."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from cancellation.events.table import write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.settings import load_settings
from cluster.tracking import tracking_uri
from jobs.cancellation_compare import CompareJob, main
from tests.conftest import PROJECT

pytestmark = pytest.mark.usefixtures("local_ray")
SMOKE = str(PROJECT / "jobs" / "cancellation_compare.smoke.toml")
SMALLER = [
    'comparison.approaches=["rules","trees","trees+text"]',
    "comparison.num_events=120",
    "comparison.stacking_events=300",
    "comparison.resamples=20",
    "comparison.speed_events=20",
    "comparison.trees.max_iter=5",
    "training.vocab_size=600",
    "training.events.simulation.num_events=400",
    "training.events.num_validation=80",
]


def test_rows_are_made_once_and_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        f"trainer.checkpoints={tmp_path}/checkpoints",
        "tracking.experiment=compare-test",
    ]
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places]))
    assert "has the highest recall at precision 0.95" in capsys.readouterr().out
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert all(f"| {name} |" in table for name in ("rules", "trees", "trees+text"))
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    rows = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out" / "results").iterdir()}
    assert len(rows) == 3
    assert all(set(row["sets"]) == {"test_wordings", "test_tactics"} for row in rows.values())

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")} == files
    assert (tmp_path / "out" / "comparison.md").read_text() == table

    ours = [f"comparison.sets.ours={_labelled(tmp_path, 80)}", "comparison.num_events=0"]
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places, *ours]))
    alone = (tmp_path / "out" / "comparison.md").read_text()
    assert alone.count("| ours | ") == 3
    assert "held-out" not in alone
    assert "recall at precision 0.95 on ours" in alone
    kept = set((tmp_path / "out" / "results").iterdir())
    _labelled(tmp_path, 90)  # other events under the same name
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places, *ours]))
    assert len(set((tmp_path / "out" / "results").iterdir()) - kept) == 3

    client = mlflow.MlflowClient(tracking_uri(None))
    experiment = client.get_experiment_by_name("compare-test")
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags}
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 4
    assert {run.data.tags["approach"] for run in children} == {"rules", "trees", "trees+text"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= parents
    assert all({"test_wordings.accuracy", "ours.accuracy"} & set(run.data.metrics) for run in children)


def _labelled(folder: Path, count: int) -> Path:
    path = folder / "ours.parquet"
    write_labelled(str(path), simulate(SimulationSettings(num_events=count), seed=9100))
    return path
