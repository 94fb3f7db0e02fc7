"""Many fine-tunings judged together: a sweep over numbers of labels, and cross-validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.tracking import TrackingSettings, open_client
from cluster.training.train import TrainerSettings
from jobs.relevance_crossvalidate import CrossvalidateJob
from jobs.relevance_crossvalidate import main as crossvalidate
from jobs.relevance_sweep import SweepJob, main
from relevance.evaluation.figures import EvaluationSettings
from relevance.finetuning.recipe import FinetuningSettings
from relevance.training.loop import TrainingSettings
from tests.builders.pairs_data import write_learnable_pairs

FINETUNING = FinetuningSettings(epochs=2, training=TrainingSettings(pairs_per_step=32, bf16=False))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_compares_nested_sets_and_reads_finished_cells_back(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    job = SweepJob(
        bases=(str(tiny_model),),
        num_labels=(60, 0),
        seeds=(0, 1),
        input=str(write_learnable_pairs(tmp_path / "pairs.csv", num_queries=40)),
        output=str(tmp_path / "sweep"),
        finetuning=FINETUNING,
        trainer=TrainerSettings(checkpoints=str(tmp_path / "checkpoints")),
        evaluation=EvaluationSettings(bootstrap_samples=100),
        tracking=TrackingSettings(uri=uri),
    )
    main(job)
    cells = [json.loads(path.read_text()) for path in (tmp_path / "sweep" / "cells").glob("*.json")]
    numbers = sorted((cell["num_labels"], cell["seed"]) for cell in cells)
    assert [seed for _, seed in numbers] == [0, 1, 0, 1]
    assert all(60 <= number < 65 for number, _ in numbers[:2]), "whole queries"
    assert [number for number, _ in numbers[2:]] == [149, 149], "of 150 pairs, one has the title of a held-out one"
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {tiny_model.name}@")]
    assert len(rows) == 2, "both seeds of a number of labels in one row"
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")

    client = open_client(uri)
    experiment = client.get_experiment_by_name("relevance_sweep").experiment_id
    runs = client.search_runs([experiment])
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    assert len(runs) == 5
    assert len(parents) == 2, "one sweep, and four cells below it"
    assert {run.data.metrics["alpha"] for run in runs if "alpha" in run.data.metrics} == {c["alpha"] for c in cells}

    main(job)
    assert len(client.search_runs([experiment])) == 6, "the second sweep trains nothing"
    again = capsys.readouterr().out
    assert all(row in again for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_cross_validation_judges_every_pair_by_a_model_that_did_not_see_it(tmp_path: Path, tiny_model: Path) -> None:
    crossvalidate(
        CrossvalidateJob(
            base=str(tiny_model),
            input=str(write_learnable_pairs(tmp_path / "pairs.csv", num_queries=24)),
            num_folds=2,
            output=str(tmp_path / "folds"),
            finetuning=FINETUNING,
            trainer=TrainerSettings(checkpoints=str(tmp_path / "checkpoints")),
            evaluation=EvaluationSettings(bootstrap_samples=100),
            tracking=TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"),
        )
    )
    found = json.loads((tmp_path / "folds" / "evaluation.json").read_text())
    assert found["counts"]["judged"] == 120
    assert found["model"].endswith(", 2 folds")
    assert found["shared_queries"] == 0
    assert "was not checked" not in found["verdict"]
    trained = [json.loads((tmp_path / "folds" / f"fold{number}" / "training.json").read_text()) for number in range(2)]
    assert sum(origin["num_training_pairs"] for origin in trained) == 120
