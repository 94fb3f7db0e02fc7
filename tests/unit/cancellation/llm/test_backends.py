"""Which model answers: found once, where the job's registry is, and the same for all that follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cancellation.decision.policy import load_policy
from cancellation.events.files import find_event_shards
from cancellation.llm.backends import BackendSettings, LocalSettings, open_backend, pin_backend
from cancellation.llm.judging import JudgingSettings
from cancellation.llm.labelling import LabellingSettings
from cancellation.llm.prompt import PromptSettings
from cancellation.llm.retrieval import RetrievalSettings
from cancellation.llm.run import LabellingRun, LabellingRunSettings, make_plan
from cluster.commit import Output
from cluster.tracking import TrackingSettings
from jobs.cancellation_label import LabelJob, main
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import save_tiny_chat_model

NAMED = BackendSettings(local=LocalSettings(model="models:/llm@champion"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry that MLFLOW_TRACKING_URI does not name, with two models."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    client.create_registered_model("llm")
    for seed in (0, 1):
        client.create_model_version("llm", str(save_tiny_chat_model(folder / f"model-{seed}", seed=seed)))
    return uri


def _write_events(path: Path) -> str:
    path.write_text(json.dumps({"event": {**sample_event(), "chat": []}}) + "\n")
    return str(path)


def test_an_alias_that_moves_while_a_job_runs_changes_nothing(registry: str, tmp_path: Path) -> None:
    client, given = MlflowClient(registry), _write_events(tmp_path / "events.jsonl")
    client.set_registered_model_alias("llm", "champion", 1)
    run = LabellingRun(
        given,
        Output(str(tmp_path / "labels")),
        NAMED,
        load_policy(),
        LabellingSettings(),
        LabellingRunSettings(),
        str(tmp_path / "cache"),
        pin_backend(NAMED, registry_uri=registry),
    )
    shards = find_event_shards(given, shard_bytes=2**20)
    planned = make_plan(run, shards)
    client.set_registered_model_alias("llm", "champion", 2)
    assert open_backend(run.backend, run.model, cache_dir=run.cache_dir).version == "llm/1"
    assert make_plan(run, shards) == planned


@pytest.mark.parametrize("shown", [False, True])
def test_the_jobs_own_registry_is_asked(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, shown: bool
) -> None:
    MlflowClient(registry).set_registered_model_alias("llm", "champion", 1)
    examples = tmp_path / "examples.jsonl"
    examples.write_text(json.dumps({"event": {**sample_event(), "event_id": "other"}, "label": "induced"}) + "\n")
    retrieval = RetrievalSettings(examples=str(examples) if shown else None, encoder="models:/llm@champion")
    prompt = PromptSettings(max_case_characters=400)
    job = LabelJob(
        input=_write_events(tmp_path / "events.jsonl"),
        output=str(tmp_path / "labels"),
        estimate=True,
        cache_dir=str(tmp_path / "cache"),
        backend=NAMED,
        labelling=LabellingSettings(prompt=prompt, judging=JudgingSettings(), retrieval=retrieval),
        tracking=TrackingSettings(uri=registry),
    )
    main(job)
    assert "1 events: about" in capsys.readouterr().out
