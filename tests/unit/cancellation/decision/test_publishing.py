"""A model becomes champion where its policy proves it, and otherwise says what is missing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from cancellation.model.verdict_model import CALIBRATION_FILE, TRAINED_FOLDER, load_verdict_model
from cluster.models.files import fetch_model, resolve_model
from cluster.models.registry import ModelRegistry
from cluster.storage import send_folder, write_bytes
from cluster.tracking import open_client
from jobs.cancellation_publish import PublishJob, main

SHIPPED = Path(str(resources.files("cancellation"))) / "small_model"
POLICY = SHIPPED.parent / "decision" / "policy.toml"

Publish = Callable[..., str]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def publish(uri: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Publish:
    def run(**given: object) -> str:
        values = {"model": str(SHIPPED), "policy": str(POLICY), "name": request.node.name, "tracking": {"uri": uri}}
        main(PublishJob.model_validate(values | given))
        return capsys.readouterr().out

    return run


def test_what_ships_is_proven_from_a_bucket_too_and_served_by_its_alias(
    publish: Publish, uri: str, bucket: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    send_folder(SHIPPED, f"{bucket}/model")
    write_bytes(f"{bucket}/policy.toml", POLICY.read_bytes())
    sent = {"model": f"{bucket}/model", "policy": f"{bucket}/policy.toml", "cache_dir": str(tmp_path)}
    assert f"{name}/1 is champion: precision at least 0.9" in publish(**sent)
    folder = fetch_model(resolve_model(f"models:/{name}@champion", registry_uri=uri), cache_dir="")
    assert load_verdict_model(folder).version == load_verdict_model(SHIPPED).version
    assert (folder / TRAINED_FOLDER / "model.safetensors").is_file()
    registered = open_client(uri).get_model_version(name, "1")
    assert registered.tags["model_version"] == load_verdict_model(SHIPPED).version
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| BR \| live \| 0\.9\d* \|", card)
    assert "those of the model that ships are of chats written for the purpose" in card
    assert "precision: on written cases" in card
    assert "is champion already" in publish()


def test_evidence_of_another_model_is_none(
    publish: Publish, uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    version = load_verdict_model(SHIPPED).version
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace(f'model_version = "{version}"', 'model_version = "old@1"', 1))
    assert "is challenger: not proven for" in publish(policy=str(policy))
    registry = ModelRegistry(request.node.name, uri)
    assert registry.champion() is None
    forced = publish(policy=str(policy), force=True, reason="the old one crashes on Thai")
    assert "/1 is champion: forced: the old one crashes on Thai" in forced
    assert registry.champion() == "1"


def test_written_proof_makes_no_champion_outside_a_demo(publish: Publish, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY.read_text().replace("demo = true", "demo = false", 1))
    said = publish(policy=str(policy))
    assert "is challenger" in said
    assert "rests on written cases" in said


def test_rolling_back(publish: Publish, uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    publish()
    other = Path(shutil.copytree(SHIPPED, tmp_path / "other"))
    (other / CALIBRATION_FILE).write_text('{"temperature": 1.1}')
    assert "/2 is challenger: not proven" in publish(model=str(other))
    policy = tmp_path / "policy.toml"
    policy.write_text(re.sub(r"(?m)^temperature = .*$", "temperature = 1.1", POLICY.read_text()))
    assert "is champion" in publish(model=str(other), policy=str(policy))
    assert "is version 1 again, was 2" in publish(rollback=True, reason="appeals")
    assert ModelRegistry(request.node.name, uri).champion() == "1"


def test_refusals_name_the_remedy(publish: Publish, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(SHIPPED, tmp_path / "raw"))
    (raw / CALIBRATION_FILE).unlink()
    with pytest.raises(ValueError, match=r"expected calibration\.json, found none; calibrate the model first"):
        publish(model=str(raw))
    with pytest.raises(ValueError, match="force: expected a reason"):
        publish(force=True)
    with pytest.raises(ValueError, match="model, policy: expected both"):
        publish(policy=None)
