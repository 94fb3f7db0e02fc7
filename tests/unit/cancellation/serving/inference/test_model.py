"""Loading a model for the endpoint: the right files or none."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from cancellation.events.event import parse_event
from cancellation.serving.inference.messages import POISON, STALE, Scored, pack_event
from cancellation.serving.inference.model import LocalModel, load_event_encoder, load_model, model_folder, pinned
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.settings import ModelSettings
from cancellation.text.encoding import EncodedEvent
from tests.servers.serving_process import copy_model
from tests.servers.serving_replicas import shipped_model, simulated_event

SHIPPED = ModelSettings()


def test_another_digest_than_the_expected_one_is_refused() -> None:
    digest = shipped_model().version.rpartition("@")[2]
    assert load_model(SHIPPED.model_copy(update={"digest": digest})).version == shipped_model().version
    with pytest.raises(ValueError, match=f"expected files of digest 00000000, found {digest}"):
        load_model(SHIPPED.model_copy(update={"digest": "00000000"}))


def test_a_pin_holds_on_to_the_content_of_its_day(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(SHIPPED), folder)
    settings = pinned(ModelSettings(source=str(folder), cache_dir=str(tmp_path / "cache")))
    kept = model_folder(settings)
    version = load_model(settings).version
    (folder / "calibration.json").write_text(json.dumps({"temperature": 3.0}))
    assert model_folder(settings) == kept
    assert json.loads((kept / "calibration.json").read_text()) != {"temperature": 3.0}
    new = pinned(settings)
    assert json.loads((model_folder(new) / "calibration.json").read_text()) == {"temperature": 3.0}
    shutil.rmtree(folder)
    assert load_model(settings).version == version
    elsewhere = settings.model_copy(update={"cache_dir": str(tmp_path / "of_a_machine_that_comes_later")})
    shutil.copytree(model_folder(new), folder)
    with pytest.raises(ValueError, match="deploy it anew"):
        model_folder(elsewhere)


def test_a_copy_that_a_loss_of_power_harmed_is_fetched_again_once(tmp_path: Path) -> None:
    settings = pinned(ModelSettings(source=SHIPPED.source, cache_dir=str(tmp_path)))
    kept = model_folder(settings)
    version = load_model(settings).version
    for path in kept.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert load_model(settings).version == version
    healed = kept.stat().st_ino
    assert model_folder(settings) == kept
    assert kept.stat().st_ino == healed
    spoilt = (kept / "calibration.json").read_bytes()
    (kept / "calibration.json").write_bytes(spoilt[::-1])
    assert (model_folder(settings) / "calibration.json").read_bytes() == spoilt


def test_a_folder_is_served_itself_where_no_copy_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way of a folder")
    settings = pinned(ModelSettings(source=SHIPPED.source, cache_dir=str(tmp_path / "cache")))
    assert model_folder(settings) == model_folder(SHIPPED)


def test_replicas_that_come_after_an_alias_has_moved_run_what_it_stood_for(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    client.create_registered_model("cancellation")
    for name in ("first", "second"):
        registered = client.create_model_version("cancellation", str(copy_model(tmp_path, name)))
        client.set_registered_model_alias("cancellation", "champion", registered.version)
        if name == "first":
            champion = ModelSettings(source="models:/cancellation@champion", registry_uri=uri)
            deployed = pinned(champion)
    assert deployed.source == "models:/cancellation/1"
    assert model_folder(deployed) == tmp_path / "first"
    assert model_folder(pinned(champion)) == tmp_path / "second"


def test_an_encoder_is_known_by_what_decides_its_output(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(SHIPPED), folder)
    _, version = load_event_encoder(folder)
    (folder / "model.onnx").write_bytes(b"other weights")
    assert load_event_encoder(folder)[1] == version
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**spec, "max_tokens": 96}))
    assert load_event_encoder(folder)[1] != version


def test_what_comes_from_another_process_is_checked_before_it_is_scored() -> None:
    async def scenario() -> None:
        local = LocalModel(shipped_model(), SHIPPED, Metrics(), encoder_version="mine")
        good = local.encode(parse_event(simulated_event(1)))
        vocabulary = shipped_model().encoder.tokenizer.get_vocab_size(with_added_tokens=True)

        async def ask(encoded: EncodedEvent, encoder: str = "mine") -> object:
            return await local.score_packed(pack_event(encoded, encoder=encoder, left_ms=5000, bulk=False))

        assert isinstance(await ask(good), Scored)
        assert await ask(good, encoder="another") == STALE
        for tokens in ([], [vocabulary], [-1], [1] * 5000):
            assert await ask(EncodedEvent("e", "TH", tokens, (), good.features)) == POISON
        for features in (np.zeros(67, np.float32), np.full(68, np.inf, np.float32)):
            assert await ask(EncodedEvent("e", "TH", good.token_ids, (), features)) == POISON
        assert await local.score_body(b"{}", 1000, bulk=False) == POISON
        assert isinstance(await local.score_body(json.dumps(simulated_event(1)).encode(), 5000, bulk=False), Scored)
        await local.close()

    asyncio.run(scenario())


def test_an_explanation_of_another_models_verdict_is_not_made() -> None:
    async def scenario() -> None:
        local = LocalModel(shipped_model(), SHIPPED, Metrics())
        verdict = {"model_version": "another@1", "event_id": "e"}
        assert await local.explain(simulated_event(1), [None] * 68, verdict, time.monotonic() + 5) is None
        await local.close()

    asyncio.run(scenario())
