"""Fine-tuning on Ray Train: shared among workers, broken off, resumed, refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cluster.tracking import TrackingSettings, open_client
from cluster.training.train import TrainerSettings
from jobs.relevance_finetune import FinetuneJob, main
from relevance.agreement import nominal_alpha
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import query_digests, read_evaluation_pairs
from relevance.evaluation.predictions import ask_model
from relevance.finetuning.finetune import split_judged, split_validation
from relevance.finetuning.recipe import FinetuningSettings
from relevance.training.loop import TrainingSettings
from relevance.weights.adapters import LoraSettings
from tests.builders.killed_workers import worker_killed_after
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model

CHECKPOINT_STEPS = 10


class Project:
    """A tiny base, pairs that it can learn, an MLflow of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = save_tiny_model(folder / "base")
        self.input = write_learnable_pairs(folder / "pairs.csv", num_queries=80)
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def finetune(self, name: str, *, num_workers: int = 1, epochs: int = 14, **settings: object) -> None:
        training = {
            "learning_rate": 3e-3,
            "pairs_per_step": 32,
            "bf16": False,
            "report_steps": 1,
            "checkpoint_steps": CHECKPOINT_STEPS,
        }
        main(
            FinetuneJob(
                base=str(self.base),
                input=str(self.input),
                output=str(self.folder / name),
                finetuning=FinetuningSettings(
                    epochs=epochs,
                    validation_fraction=0.25,
                    lora=LoraSettings(dropout=0),
                    training=TrainingSettings(**{**training, **settings}),
                ),
                trainer=TrainerSettings(
                    num_workers=num_workers,
                    checkpoints=str(self.folder / f"{name}_checkpoints"),
                    poll_seconds=0.1,  # every step is reported here
                ),
                evaluation=EvaluationSettings(bootstrap_samples=100),
                tracking=TrackingSettings(uri=self.uri, experiment=name),
            )
        )

    @property
    def client(self) -> MlflowClient:
        return open_client(self.uri)

    def curve(self, name: str, metric: str = "loss") -> list[tuple[int, float]]:
        """Every point of the newest run's curve, in the order in which they came."""
        experiment = self.client.get_experiment_by_name(name).experiment_id
        run = self.client.search_runs([experiment], order_by=["attributes.start_time DESC"])[0]
        history = self.client.get_metric_history(run.info.run_id, metric)
        return [(point.step, point.value) for point in history]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, local_ray: str) -> Project:
    made = Project(tmp_path_factory.mktemp("finetune"))
    made.finetune("one")
    return made


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"parallel": "ddp"}, id="copies, half of each batch"),
        pytest.param(
            {"parallel": "fsdp", "gradient_checkpointing": True, "pairs_per_forward": 7},
            id="shares, recomputed, in parts of seven pairs",
        ),
    ],
)
@pytest.mark.slow  # test_finetune_shares.py trains in shares without a cluster, sooner
def test_two_workers_take_the_steps_of_one_with_the_doubled_batch(
    project: Project, settings: dict[str, object]
) -> None:
    project.finetune(str(settings["parallel"]), num_workers=2, **settings)
    alone, together = project.curve("one"), project.curve(str(settings["parallel"]))
    assert [step for step, _ in alone] == [step for step, _ in together]
    assert [loss for _, loss in together] == pytest.approx([loss for _, loss in alone], abs=1e-4)
    assert alone[-1][1] < 0.6 * alone[0][1], "it must have learnt something"


def test_what_a_run_leaves_in_mlflow(project: Project) -> None:
    experiment = project.client.get_experiment_by_name("one").experiment_id
    (run,) = project.client.search_runs([experiment])
    assert run.data.params["finetuning.training.pairs_per_step"] == "32"
    assert len(run.data.tags["data"]) == 16
    assert run.data.metrics["alpha"] > 0.5
    files = {file.path for file in project.client.list_artifacts(run.info.run_id, "adapter")}
    assert files == {
        f"adapter/{name}"
        for name in ("adapter_config.json", "adapter_model.safetensors", "prompt.json", "training.json")
    }
    assert next(step for step, _ in project.curve("one", "validation_alpha")) == CHECKPOINT_STEPS


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_a_checkpoint_interval(project: Project) -> None:
    with worker_killed_after(2, project.folder, "killed_checkpoints/*/checkpoint_*") as killed:
        project.finetune("killed")
    assert killed
    calm, broken = project.curve("one"), project.curve("killed")
    steps = [step for step, _ in broken]
    assert set(steps) == {step for step, _ in calm}
    assert len(steps) - len(set(steps)) <= CHECKPOINT_STEPS
    last = dict(broken)
    assert [last[step] for step, _ in calm] == pytest.approx([loss for _, loss in calm], abs=1e-5)


@pytest.mark.slow
def test_a_second_run_of_the_same_takes_no_step(project: Project) -> None:
    before = (project.folder / "one" / "adapter_model.safetensors").read_bytes()
    project.finetune("one")
    assert project.curve("one") == []
    assert (project.folder / "one" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_training_stops_when_alpha_no_longer_grows(project: Project) -> None:
    project.finetune("patient", epochs=60, patience=2, learning_rate=1e-5, checkpoint_steps=3)
    alphas = [alpha for _, alpha in project.curve("patient", "validation_alpha")]
    assert len(alphas) == int(np.argmax(alphas)) + 3
    experiment = project.client.get_experiment_by_name("patient").experiment_id
    (run,) = project.client.search_runs([experiment])
    assert run.data.metrics["best_validation_alpha"] == max(alphas)
    settings = FinetuningSettings(validation_fraction=0.25)
    rest, judged = split_judged(read_evaluation_pairs(str(project.input)), settings)
    _, validation = split_validation(rest, settings)
    folder = project.folder / "patient"
    model = open_label_model(str(project.base), str(folder), quantization="none", cache_dir="")
    said = ask_model(validation.rows, model, EngineSettings(num_threads=1))
    kept = nominal_alpha(np.stack([validation.labels, said.labels]))
    assert kept == pytest.approx(max(alphas), abs=0.02), "the best checkpoint is what is kept"
    reported = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert reported["data_digest"] == judged.digest, "the figures are of pairs that did not choose it"
    origin = json.loads((folder / "training.json").read_text())
    assert origin["training_queries"] == query_digests(rest.queries)
    assert not set(origin["training_queries"]) & set(query_digests(judged.queries))


@pytest.mark.slow
def test_queries_that_no_prompt_holds_are_counted(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scoring refuses them by row, so a training that leaves them out says how many."""
    rows = list(csv.DictReader(project.input.open()))[:80]
    for row in rows[:3]:
        row["query"] += " and so on" * 200
    settings = {"base": str(project.base), "input": _write(tmp_path / "pairs.csv", rows), "output": f"{tmp_path}/one"}
    tracking = TrackingSettings(uri=project.uri, experiment="budget")
    main(FinetuneJob(**settings, finetuning=FinetuningSettings(epochs=1), tracking=tracking))
    assert "on 80 pairs, 3 over the token budget left out" in capsys.readouterr().out
    experiment = project.client.get_experiment_by_name("budget").experiment_id
    (run,) = project.client.search_runs([experiment])
    assert run.data.metrics["pairs_over_budget"] == 3

    for row in rows:
        row["query"] += " and so on" * 200
    settings |= {"input": _write(tmp_path / "long.csv", rows), "output": f"{tmp_path}/none"}
    with pytest.raises(ValueError, match=r"each of 80 pairs has a query over prompt\.query_token_budget=\d+ tokens"):
        main(FinetuneJob(**settings, finetuning=FinetuningSettings(epochs=1), tracking=tracking))


def _write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_a_label_without_pairs_is_refused_before_training(project: Project, tmp_path: Path) -> None:
    rows = [row for row in csv.DictReader(project.input.open()) if row["label"] != "complement"]
    path = _write(tmp_path / "pairs.csv", rows)
    job = FinetuneJob(base=str(project.base), input=str(path), output=str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="none labelled complement: label some, or set"):
        main(job)
