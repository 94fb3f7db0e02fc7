"""Bases that lie elsewhere, from their name to labels: a hub, an MLflow server that hands out files itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.models.registry import ModelRegistry
from tests.builders.pairs_data import make_pairs, read_committed, write_learnable_pairs, write_pairs
from tests.builders.tiny_models import save_tiny_model
from tests.conftest import PROJECT
from tests.servers.hub import SHA, HubServer
from tests.servers.mlflow import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
RAY = ["session.num_cpus=2", "session.object_store_gib=0.2"]


def run_job(name: str, folder: Path, *settings: str, **variables: str) -> str:
    """Run a job as people do, without the defaults of its TOML; what it printed."""
    (folder / "none.toml").touch()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", str(folder / "none.toml"), *settings],
        cwd=PROJECT,
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def finetune(base: str, folder: Path, *settings: str, **variables: str) -> dict:
    """Fine-tune and judge; the evaluation."""
    given = [
        f"base={base}",
        f"input={write_learnable_pairs(folder / 'train.csv', num_queries=40)}",
        f"output={folder / 'adapter'}",
        f"trainer.checkpoints={folder / 'checkpoints'}",
        f"cache_dir={folder / 'cache'}",
        "finetuning.judged_fraction=0.25",
        "finetuning.training.bf16=false",
        "evaluation.bootstrap_samples=100",
    ]
    run_job("relevance_finetune", folder, *given, *RAY, *settings, **variables)
    return json.loads((folder / "adapter" / "evaluation" / "evaluation.json").read_text())


def test_a_base_from_the_hub_is_trained_and_judged(tmp_path: Path) -> None:
    hub = HubServer({"team/tiny": save_tiny_model(tmp_path / "base")})
    try:
        found = finetune("team/tiny", tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    finally:
        hub.stop()
    assert found["model"].startswith(f"team/tiny@{SHA[:8]}+adapter@")
    assert found["counts"]["judged"] == 50
    assert sum(path.endswith(".safetensors") for path in hub.requests) <= 6, "HEAD and GET, and headers to be looked at"


def downloads(server: MlflowServer) -> list[str]:
    """Lines of the server's log that tell of weights which were fetched."""
    return [line for line in server.log.splitlines() if "/model.safetensors HTTP" in line]


def test_from_a_base_behind_an_mlflow_server_to_its_champion_scoring_in_four_actors(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        server.wait()
        client = MlflowClient(server.url)
        run_id = client.create_run(client.create_experiment("bases")).info.run_id
        base = save_tiny_model(tmp_path / "base")
        ModelRegistry("base", server.url).register(base, "d1", run_id=run_id, card="", tags={})
        tracking = f"tracking.uri={server.url}"
        found = finetune("models:/base/1", tmp_path, tracking)
        assert found["model"].startswith("base/1+adapter@")
        (run,) = client.search_runs([client.get_experiment_by_name("relevance_finetune").experiment_id])

        published = run_job(
            "relevance_publish",
            tmp_path,
            "base=models:/base/1",
            f"adapter=runs:/{run.info.run_id}/adapter",
            f"input={write_learnable_pairs(tmp_path / 'held_out.csv', num_queries=20, seed=1)}",
            f"output={tmp_path / 'published'}",
            f"cache_dir={tmp_path / 'cache'}",
            "evaluation.bootstrap_samples=100",
            "--force",
            "reason=a test",
            tracking,
        )
        assert "relevance/1 is champion: " in published

        before = len(downloads(server))
        write_pairs(make_pairs(200), str(tmp_path / "pairs"))
        run_job(
            "relevance_score",
            tmp_path,
            f"input={tmp_path / 'pairs'}",
            f"output={tmp_path / 'scores'}",
            "model=models:/relevance@champion",
            f"cache_dir={tmp_path / 'workers cache'}",
            "scoring.shard_rows=20",
            "scoring.min_actors=4",
            "scoring.max_actors=4",
            "scoring.cpus_per_actor=0.25",
            *RAY,
            tracking,
        )
        assert len(read_committed(str(tmp_path / "scores"))) == 200
        assert len(downloads(server)[before:]) == 1, f"four actors, one download: {downloads(server)[before:]}"
    finally:
        server.stop()
