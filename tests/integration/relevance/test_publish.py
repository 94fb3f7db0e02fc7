"""From people's labels to labels by the champion: finetune, evaluate, publish, score, replace, roll back."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from mlflow import MlflowClient
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from cluster.launch import run_job
from cluster.tracking import TrackingSettings, open_client
from cluster.training.train import TrainerSettings
from jobs.relevance_evaluate import EvaluateJob
from jobs.relevance_evaluate import main as evaluate
from jobs.relevance_finetune import FinetuneJob
from jobs.relevance_finetune import main as finetune
from jobs.relevance_publish import PublishJob, main
from jobs.relevance_score import ScoreJob
from jobs.relevance_score import main as score
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings, VllmSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import EvaluationPairs, read_evaluation_pairs
from relevance.evaluation.predictions import Predictions, ask_model
from relevance.finetuning.recipe import FinetuningSettings
from relevance.labels import LABELS
from relevance.publishing.steps import PublishingSettings
from relevance.scoring.run import ScoringSettings
from relevance.training.loop import TrainingSettings
from relevance.weights.origin import write_learnt_queries
from tests.builders.pairs_data import make_pairs, read_committed, write_learnable_pairs, write_pairs
from tests.builders.tiny_models import save_tiny_model

ENGINE = EngineSettings(num_threads=1)
CHANGED = 0.05
"""Share of labels that int8 may change: random weights leave many pairs between two labels, a trained model few."""
CLOSE = 0.1
"""A label changes only where the two likeliest were no further apart in probability."""
ENGINES_APART = 0.01
"""Largest change of a probability between the engines. Their float32 differs in the last digit, so an activation that
lies between two steps of 8 bits may go up in one and down in the other; docs/benchmarks.md has the measurements."""
MOVED = 0.02
"""Mean change of the probabilities."""
pytestmark = pytest.mark.timeout(600)


def save_adapter(base: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write a LoRA adapter of random factors, none of them zero."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    write_learnt_queries([], folder)
    return folder


def ask(pairs: EvaluationPairs, model: str, adapter: str | None = None, **engine: object) -> Predictions:
    label_model = open_label_model(model, adapter, quantization="auto", cache_dir="")
    return ask_model(pairs.rows, label_model, ENGINE.model_copy(update=engine))


def labelled_by(folder: Path, said: Predictions, pairs: pa.Table, *, noise: float = 0.0) -> Path:
    """Write pairs with a model's labels as if people had given them, some of them wrong."""
    wrong = np.random.default_rng(0).random(len(pairs)) < noise
    labels = np.where(wrong, (said.labels + 1) % 4, said.labels)
    write_pairs(pairs.append_column("label", pa.array([LABELS[label] for label in labels])), str(folder), num_files=1)
    return folder


def unlabelled(num_pairs: int) -> pa.Table:
    rows = make_pairs(num_pairs).to_pylist()
    return pa.Table.from_pylist([row | {"query": f"{row['query']} {row['query_id']}"} for row in rows])


class Project:
    """A base, an adapter, pairs labelled by both together, and an MLflow of its own."""

    def __init__(self, folder: Path, num_pairs: int) -> None:
        self.folder = folder
        self.base = save_tiny_model(folder / "base")
        self.adapter = save_adapter(self.base, folder / "adapter")
        pairs = unlabelled(num_pairs)
        blank = read_evaluation_pairs(str(labelled_by(folder / "blank", _anything(len(pairs)), pairs)))
        assert _keys(blank.rows) == _keys(pairs)
        said = ask(blank, str(self.base), str(self.adapter))
        self.input = labelled_by(folder / "pairs", said, pairs, noise=0.1)
        self.tracking = TrackingSettings(uri=f"sqlite:///{folder / 'mlflow.db'}")

    def publish(self, **settings: object) -> None:
        main(
            PublishJob(
                **{
                    "base": str(self.base),
                    "adapter": str(self.adapter),
                    "input": str(self.input),
                    "output": str(self.folder / "published"),
                    "publishing": PublishingSettings(max_changed_fraction=CHANGED),
                    "engine": ENGINE,
                    "evaluation": EvaluationSettings(bootstrap_samples=200),
                    "tracking": self.tracking,
                    "cache_dir": str(self.folder / "cache"),
                    **settings,
                }
            )
        )

    @property
    def client(self) -> MlflowClient:
        return open_client(str(self.tracking.uri))

    def aliases(self) -> dict[str, str]:
        return {name: str(v) for name, v in self.client.get_registered_model("relevance").aliases.items()}


def _anything(n: int) -> Predictions:
    probabilities = np.tile([0.4, 0.3, 0.2, 0.1], (n, 1))
    return Predictions("", "", None, probabilities, np.ones(n, bool), None)


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["query_id"].to_pylist(), table["product_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("local_ray")
def test_from_labels_to_a_day_scored_by_the_champion(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(save_tiny_model(tmp_path / "base", family=family, trained_norms=True))
    adapter = str(tmp_path / "adapter")
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    train = str(write_learnable_pairs(tmp_path / "train.csv", num_queries=40))
    held_out = str(write_learnable_pairs(tmp_path / "held_out.csv", num_queries=40, seed=1))
    figures = EvaluationSettings(bootstrap_samples=200)
    finetune(
        FinetuneJob(
            base=base,
            input=train,
            output=adapter,
            finetuning=FinetuningSettings(
                epochs=20, training=TrainingSettings(learning_rate=3e-3, pairs_per_step=32, bf16=False)
            ),
            trainer=TrainerSettings(checkpoints=str(tmp_path / "checkpoints")),
            tracking=tracking,
        )
    )
    judged = EvaluateJob(
        input=held_out,
        train=train,
        model=base,
        adapter=adapter,
        output=str(tmp_path / "evaluation"),
        engine=ENGINE,
        evaluation=figures,
        tracking=tracking,
    )
    evaluate(judged)
    alpha = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["figures"]["alpha"]["value"]
    main(
        PublishJob(
            base=base,
            adapter=adapter,
            input=held_out,
            train=train,
            output=str(tmp_path / "published"),
            publishing=PublishingSettings(max_changed_fraction=CHANGED, min_f1_exact=0.5),
            engine=ENGINE,
            evaluation=figures,
            tracking=tracking,
            cache_dir=str(tmp_path / "cache"),
        )
    )
    assert "relevance/1 is champion: first champion" in capsys.readouterr().out
    version = open_client(str(tracking.uri)).get_model_version("relevance", "1")
    assert float(version.tags["alpha"]) == pytest.approx(alpha, abs=2 * CHANGED)
    assert version.tags["quantization"] == "int8"
    assert version.description.startswith("# relevance: relevance labels")

    score(
        ScoreJob(
            input=held_out,
            output=str(tmp_path / "scores"),
            model="models:/relevance@champion",
            scoring=ScoringSettings(shard_rows=100, num_threads=1),
            tracking=tracking,
        )
    )
    pairs = read_evaluation_pairs(held_out)
    said = ask(pairs, base, adapter)
    rows = {(row["query_id"], row["product_id"]): row for row in read_committed(str(tmp_path / "scores"))}
    scored = [rows[key] for key in _keys(pairs.rows)]
    assert {row["model_version"] for row in scored} == {"relevance/1:auto"}
    probabilities = np.array([[row[f"p_{label}"] for label in LABELS] for row in scored])
    assert (probabilities.argmax(axis=1) != said.labels).mean() <= CHANGED
    assert np.abs(probabilities - said.probabilities).mean() <= MOVED
    second, first = np.sort(said.probabilities, axis=1)[:, 2:].T
    clear = first - second > CLOSE
    assert clear.mean() > 0.5
    assert (probabilities.argmax(axis=1) == said.labels)[clear].all()
    assert (ask(pairs, base).labels != said.labels).mean() > 10 * CHANGED, "the adapter must matter"
    if importlib.util.find_spec("vllm"):
        vllm = VllmSettings(max_model_len=512, max_num_batched_tokens=4096)
        by_vllm = ask(pairs, str(tmp_path / "published" / "published"), engine="vllm", vllm=vllm)
        assert (by_vllm.labels != said.labels).mean() <= CHANGED
        assert np.abs(by_vllm.probabilities - probabilities).max() <= ENGINES_APART


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("publish"), num_pairs=120)


def test_champions_change_hands_by_the_rules(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.publish()
    assert project.aliases() == {"champion": "1"}
    project.publish()
    assert "relevance/1 has exactly these files and is champion already" in capsys.readouterr().out
    assert len(project.client.search_model_versions("name = 'relevance'")) == 1

    worse = str(save_adapter(project.base, project.folder / "worse", seed=7))
    project.publish(adapter=worse)
    said = capsys.readouterr().out
    assert "relevance/2 stays a challenger: alpha less that of word overlap is " in said
    assert "alpha less that of relevance/1 is -" in said
    assert project.aliases() == {"champion": "1", "challenger": "2"}
    assert "the limit is -0.0050" in project.client.get_model_version("relevance", "2").tags["why"]

    project.publish(adapter=worse, force=True, reason="to see it live")
    assert project.aliases() == {"champion": "2"}
    assert project.client.get_model_version("relevance", "2").tags["forced"] == "to see it live"

    project.publish(base=None, input=None, rollback=True, reason="it was worse")
    assert "champion of relevance is version 1 again, was 2" in capsys.readouterr().out
    assert project.aliases() == {"champion": "1"}
    experiment = project.client.get_experiment_by_name("relevance_publish").experiment_id
    runs = project.client.search_runs([experiment])
    assert {run.data.tags.get("rollback") for run in runs} == {None, "2 -> 1"}
    card = project.client.download_artifacts(runs[-1].info.run_id, "model/README.md", str(project.folder))
    text = Path(card).read_text()
    assert "## What quantisation changed" in text
    assert "Champion: first champion" in text
    assert "red" not in text.lower().split(), "a card holds no query and no title"


def test_a_deleted_champion_stops_the_job_until_told(
    tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.publish(name="deleted")
    project.client.delete_model_version("deleted", "1")
    with pytest.raises(SystemExit) as left:
        run_job(
            main,
            PublishJob,
            arguments=[
                f"base={project.base}",
                f"adapter={project.adapter}",
                f"input={project.input}",
                f"output={tmp_path}",
                "name=deleted",
                f"tracking.uri={project.tracking.uri}",
            ],
        )
    assert left.value.code == 2
    assert "the champion deleted/1 was deleted, so there is nothing to compare with" in capsys.readouterr().err
    project.publish(name="deleted", force=True, reason="the old one is gone")
    assert str(project.client.get_model_version_by_alias("deleted", "champion").version) == "2"


def test_a_champion_whose_files_are_gone_says_so(project: Project) -> None:
    project.publish(name="gone")
    source = project.client.get_model_version("gone", "1").source.removeprefix("file://")
    Path(source).rename(project.folder / "moved")
    worse = str(save_adapter(project.base, project.folder / "other", seed=8))
    with pytest.raises(ValueError, match=r"the champion gone/1 cannot be loaded to compare with .* bring its files ba"):
        project.publish(name="gone", adapter=worse)
