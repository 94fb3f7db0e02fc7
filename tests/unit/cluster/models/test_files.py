import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster import storage
from cluster.models.files import fetch_model, keep_model, kept_model, resolve_model
from tests.conftest import PROJECT
from tests.servers.hub import SHA, HubServer


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_is_used_in_place_and_named_by_its_content(model_dir: Path, tmp_path: Path) -> None:
    before = resolve_model(str(model_dir))
    assert fetch_model(before, cache_dir=str(tmp_path)) == model_dir
    assert before.version.startswith("tiny@")
    (model_dir / "README.md").write_text("a card is not the model")
    assert resolve_model(str(model_dir)) == before
    (model_dir / "model.safetensors").write_bytes(b"other weights")
    assert resolve_model(str(model_dir)).digest != before.digest


def test_a_relative_name_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = fetch_model(resolve_model("relevance/small_model"), cache_dir=str(tmp_path))
    assert (found / "config.json").exists()


def test_a_model_in_s3_comes_with_or_without_its_weights(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/m/config.json", b"{}")
    storage.write_bytes(f"{bucket}/m/model.safetensors", b"weights")
    model = resolve_model(f"{bucket}/m")
    light = fetch_model(model, cache_dir=str(tmp_path), weights=False)
    assert [path.name for path in light.iterdir()] == ["config.json"]
    whole = fetch_model(model, cache_dir=str(tmp_path))
    assert (whole / "model.safetensors").read_bytes() == b"weights"
    storage.write_bytes(f"{bucket}/m/model.safetensors", b"newer")
    with pytest.raises(ValueError, match=r"/m: its files have changed since this job began: run it again"):
        fetch_model(model, cache_dir=str(tmp_path / "other machine"))
    assert resolve_model(f"{bucket}/m").digest != model.digest
    with pytest.raises(ValueError, match=r"model s3://.*/none: no files there"):
        resolve_model(f"{bucket}/none")


def test_a_harmed_copy_of_what_lies_in_s3_is_fetched_again_and_not_from_a_cache(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/m/config.json", b"{}")
    storage.write_bytes(f"{bucket}/m/model.safetensors", b"weights")
    model, cache = resolve_model(f"{bucket}/m"), str(tmp_path)
    fetch_model(model, cache_dir=cache)
    kept = keep_model(model, cache_dir=cache)
    assert kept_model(model.digest, cache_dir=cache) == kept
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"weighty")
    assert kept_model(model.digest, cache_dir=cache) is None
    assert (keep_model(model, cache_dir=cache) / "model.safetensors").read_bytes() == b"weights"
    assert kept_model(model.digest, cache_dir=cache) == kept


def test_an_alias_of_the_registry_is_pinned_to_its_version(model_dir: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    client.create_registered_model("relevance")
    for _ in range(2):
        client.create_model_version("relevance", str(model_dir))
    client.set_registered_model_alias("relevance", "champion", 1)
    pinned = resolve_model("models:/relevance@champion", registry_uri=uri)
    client.set_registered_model_alias("relevance", "champion", 2)
    assert pinned.version == "relevance/1"
    assert fetch_model(pinned, cache_dir=str(tmp_path)) == model_dir
    assert resolve_model("models:/relevance@champion", registry_uri=uri).version == "relevance/2"
    assert resolve_model("models:/relevance/1", registry_uri=uri) == pinned
    for missing in ("models:/relevance@gone", "models:/other/1", "models:/relevance"):
        with pytest.raises(ValueError, match=rf"model {missing}: not in the MLflow registry at sqlite"):
            resolve_model(missing, registry_uri=uri)


@pytest.mark.parametrize("name", ["models:/relevance@champion", "runs:/0123456789abcdef/adapter"])
def test_a_registry_that_is_away_is_worth_another_try_and_its_password_is_not_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with pytest.raises(RuntimeError, match=r"does not answer .*: run the job again") as caught:
        resolve_model(name, registry_uri=f"http://bob:hunter2@127.0.0.1:{port}")  # pragma: allowlist secret
    assert "hunter2" not in str(caught.value)


_RESOLVE = """
import json, sys
from cluster.models.files import fetch_model, resolve_model
try:
    model = resolve_model(sys.argv[1])
    light = fetch_model(model, cache_dir="", weights=False)
    names = sorted(path.name for path in light.iterdir())
    whole = fetch_model(model, cache_dir="")
    print(json.dumps([model.version, names, sorted(path.name for path in whole.iterdir())]))
except ValueError as error:
    print(error)
"""


def _resolve_in_a_fresh_process(name: str, tmp_path: Path, **variables: str) -> str:
    """huggingface_hub reads its environment once, when it is imported."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    command = [sys.executable, "-c", _RESOLVE, name]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_hub_id_is_pinned_to_its_commit_and_brings_no_code_and_no_pickle(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "modeling_own.py").write_text("raise SystemExit")
    (model_dir / "pytorch_model.bin").write_bytes(b"pickle")
    hub = HubServer({"team/tiny": model_dir})
    try:
        found = json.loads(_resolve_in_a_fresh_process("team/tiny", tmp_path, HF_ENDPOINT=hub.url))
        assert found == [f"team/tiny@{SHA[:8]}", ["config.json"], ["config.json", "model.safetensors"]]
        assert not any(path.endswith((".py", ".bin")) for path in hub.requests)
        missing = _resolve_in_a_fresh_process("team/other", tmp_path, HF_ENDPOINT=hub.url)
        assert missing.startswith("model team/other: no such folder, and not found on the hub (")
    finally:
        hub.stop()
    offline = _resolve_in_a_fresh_process(f"team/tiny@{SHA}", tmp_path, HF_HUB_OFFLINE="1")
    assert [json.loads(offline)[0], json.loads(offline)[2]] == [found[0], found[2]]


def test_a_model_that_asks_for_consent_is_refused_in_one_sentence(model_dir: Path, tmp_path: Path) -> None:
    hub = HubServer({"team/gated": model_dir}, gated="team/gated")
    try:
        said = _resolve_in_a_fresh_process("team/gated", tmp_path, HF_ENDPOINT=hub.url)
    finally:
        hub.stop()
    assert said.startswith("model team/gated: its authors ask for consent before anyone may load it: give it on")
    assert said.count("\n") == 1


def test_a_folder_that_a_run_left_is_named_by_its_run(model_dir: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("relevance_finetune", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_artifacts(run_id, str(model_dir), "adapter")
    found = resolve_model(f"runs:/{run_id}/adapter", registry_uri=uri)
    fetched = fetch_model(found, cache_dir=str(tmp_path / "cache"))
    assert sorted(path.name for path in fetched.iterdir()) == ["config.json", "model.safetensors"]
    assert found.version == f"{run_id[:8]}/adapter"
    for missing, reason in ((f"runs:/{run_id}/none", "the run has no files there"), ("runs:/0/adapter", "no such run")):
        with pytest.raises(ValueError, match=rf"model {missing}: {reason}.*give runs:/RUN_ID/FOLDER"):
            resolve_model(missing, registry_uri=uri)


def test_a_registry_whose_folder_has_blanks_and_umlauts(model_dir: Path, tmp_path: Path) -> None:
    uri, kept = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "Modelle für alle 50%"
    client = MlflowClient(uri)
    run_id = client.create_run(client.create_experiment("made", artifact_location=kept.as_uri())).info.run_id
    client.log_artifacts(run_id, str(model_dir), "my adapter")
    client.create_registered_model("relevance")
    client.create_model_version("relevance", f"{client.get_run(run_id).info.artifact_uri}/my%20adapter")
    for name in (f"runs:/{run_id}/my adapter", "models:/relevance/1"):
        found = resolve_model(name, registry_uri=uri)
        fetched = fetch_model(found, cache_dir=str(tmp_path / "cache"))
        assert sorted(path.name for path in fetched.iterdir()) == ["config.json", "model.safetensors"]
    kept.rename(tmp_path / "elsewhere")
    for name in (f"runs:/{run_id}/my adapter", "models:/relevance/1"):
        with pytest.raises(ValueError, match=rf"model {name}: MLflow keeps .* not there on this machine: .* or mount"):
            resolve_model(name, registry_uri=uri)


def test_a_name_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path) -> None:
    said = _resolve_in_a_fresh_process("no-such/model", tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("model no-such/model: no such folder, and not found on the hub (")
