"""Fine-tuning, publishing and judging whose engine runs where the GPUs are, through a bucket from end to end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster import storage
from cluster.tracking import TrackingSettings, open_client
from cluster.training.train import TrainerSettings
from jobs.relevance_evaluate import EvaluateJob
from jobs.relevance_evaluate import main as evaluate
from jobs.relevance_finetune import FinetuneJob
from jobs.relevance_finetune import main as finetune
from jobs.relevance_publish import PublishJob
from jobs.relevance_publish import main as publish
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.finetuning.recipe import FinetuningSettings
from relevance.publishing.steps import PublishingSettings
from relevance.training.loop import TrainingSettings
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server

ENGINE = EngineSettings(num_threads=1, gpus_per_actor=1)
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def ray_with_a_gpu(s3_server: S3Server) -> Iterator[None]:
    """A Ray that believes in a GPU; its workers reach the bucket."""
    os.environ["PYTHONPATH"] = str(PROJECT)
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=150 * 2**20)
    yield
    ray.shutdown()


def ran_as_tasks(*names: str) -> bool:
    """Whether Ray has run functions of these names; workers report what they did once a second."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = [event["name"] for event in ray.timeline()]
        if all(any(event.endswith(name) for event in events) for name in names):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("ray_with_a_gpu")
def test_from_labels_to_a_champion_in_a_bucket_with_tasks_that_have_the_gpu(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.send_folder(save_tiny_model(tmp_path / "base"), f"{bucket}/base")
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    figures = EvaluationSettings(bootstrap_samples=100)
    shared = {"tracking": tracking, "evaluation": figures, "engine": ENGINE, "cache_dir": str(tmp_path / "cache")}
    finetune(
        FinetuneJob(
            base=f"{bucket}/base",
            input=str(write_learnable_pairs(tmp_path / "train.csv", num_queries=30)),
            output=f"{bucket}/adapter",
            finetuning=FinetuningSettings(
                epochs=1, judged_fraction=0.3, training=TrainingSettings(pairs_per_step=64, bf16=False)
            ),
            trainer=TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints")),
            **shared,
        )
    )
    held_out = str(write_learnable_pairs(tmp_path / "held_out.csv", num_queries=20, seed=1))
    release = {"base": f"{bucket}/base", "input": held_out, "force": True, "reason": "a test", **shared}
    publish(PublishJob(adapter=f"{bucket}/adapter", output=f"{bucket}/published", **release))
    assert "relevance/1 is champion: " in capsys.readouterr().out
    names = {file.url.removeprefix(f"{bucket}/published/") for file in storage.list_files(f"{bucket}/published")}
    assert {"merged/model.safetensors", "published/model.safetensors", "published/README.md"} <= names
    assert "evaluation.json" in names
    assert ran_as_tasks("_check_engine", "build_model", "_ask")

    (run,) = open_client(str(tracking.uri)).search_runs(
        [open_client(str(tracking.uri)).get_experiment_by_name("relevance_finetune").experiment_id]
    )
    again = {"adapter": f"runs:/{run.info.run_id}/adapter", "output": f"{bucket}/again"}
    publish(PublishJob(**again, **release))
    assert "relevance/1 has exactly these files and is champion already" in capsys.readouterr().out

    evaluate(EvaluateJob(input=held_out, model=f"{bucket}/published/published", output=f"{bucket}/judged", **shared))
    judged = [
        json.loads(storage.read_bytes(f"{bucket}/{name}/evaluation.json"))["figures"]["alpha"]["value"]
        for name in ("published", "judged")
    ]
    assert judged[0] == judged[1]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("s3")]


@pytest.mark.usefixtures("ray_with_a_gpu")
def test_cards_that_cannot_do_fp8_are_told_before_anything_is_built(bucket: str, tmp_path: Path) -> None:
    job = PublishJob(
        base=str(save_tiny_model(tmp_path / "base")),
        input=str(write_learnable_pairs(tmp_path / "held_out.csv", num_queries=20)),
        output=f"{bucket}/published",
        publishing=PublishingSettings(quantization="fp8"),
        engine=ENGINE,
        tracking=TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"),
    )
    with pytest.raises(ValueError, match=r"^FP8 needs a GPU of compute capability 8.9 or later, found a CPU: set quan"):
        publish(job)
    assert storage.list_files(bucket) == []
