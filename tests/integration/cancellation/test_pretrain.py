"""Masked-word training: texts by Ray Data, steps by Ray Train, an encoder that fine-tuning can start from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from cancellation.model.fusion import FusionSettings
from cancellation.model.text_encoder import load_encoder
from cancellation.model.verdict_model import load_verdict_model
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.events import TrainingEventsSettings
from cancellation.training.loop import LoopSettings
from cancellation.training.pretraining import PretrainingSettings
from cancellation.training.run import TrainingSettings, train_model
from cluster.models.files import resolve_model
from cluster.storage import fetch_folder
from cluster.tracking import TrackingSettings, open_client
from cluster.training.train import TrainerSettings
from jobs.cancellation_pretrain import PretrainJob, main
from tests.builders.fusion_models import save_encoder
from tests.builders.killed_workers import worker_killed_after

SMALL = {
    "num_simulated": 300,
    "tokenizer_events": 100,
    "vocab_size": 700,
    "max_tokens": 48,
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "masking": {"num_steps": 24, "batch_size": 16, "steps_per_checkpoint": 8, "bf16": False, "batches_per_pool": 4},
}


SHORT = {"num_steps": 4, "batch_size": 8, "steps_per_checkpoint": 2, "bf16": False, "batches_per_pool": 1}


def run(folder: Path, **changes: object) -> Path:
    main(
        PretrainJob(
            output=str(folder / "encoder"),
            cache_dir=str(folder / "cache"),
            pretraining=PretrainingSettings.model_validate({**SMALL, **changes}),
            trainer=TrainerSettings(checkpoints=str(folder / "checkpoints")),
        )
    )
    return folder / "encoder"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    folder = tmp_path / "chats"
    folder.mkdir()
    dialogue = {"turns": [{"role": "user", "content": "where is it"}, {"role": "agent", "content": "tomorrow, dear"}]}
    with gzip.open(folder / "dialogues.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(dialogue) + "\n" for _ in range(50))
    (folder / "messages.txt").write_text("ของหมดค่ะ\nส่งวันไหนคะ\n" * 20)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_chats_become_an_encoder_even_when_a_worker_is_killed(tmp_path, chats, capsys):
    with worker_killed_after(1, tmp_path, "checkpoints/*/checkpoint_*") as killed:
        output = run(tmp_path, chats=[str(chats)])
    assert killed
    assert "nats per masked token" in capsys.readouterr().out
    encoder, tokenizer = load_encoder(str(output), cache_dir=str(tmp_path))
    assert encoder.config.model_type == "modernbert"
    assert tokenizer.encode("ของหมดค่ะ", add_special_tokens=False).ids
    # What fine-tuning asks for: more steps on the trained encoder, with its own tokeniser.
    again = run(tmp_path / "again", chats=[str(chats)], encoder=str(output), num_simulated=0)
    assert load_encoder(str(again), cache_dir=str(tmp_path))[1].to_str() == tokenizer.to_str()


def pretrain(folder: Path, name: str, uri: str | None = None, output: str | None = None, **changes: object) -> str:
    """Give a digest of the encoder that comes of it; all runs share their checkpoints."""
    settings = {**SMALL, "num_simulated": 0, "masking": SHORT, **changes}
    main(
        PretrainJob(
            output=output or str(folder / name),
            cache_dir=str(folder / "cache"),
            pretraining=PretrainingSettings.model_validate(settings),
            trainer=TrainerSettings(num_workers=0, checkpoints=str(folder / "checkpoints")),
            tracking=TrackingSettings(uri=uri),
        )
    )
    return resolve_model(output or str(folder / name)).digest


@pytest.mark.usefixtures("local_ray")
def test_what_is_learnt_follows_the_contents_of_chats_and_encoder(tmp_path: Path, bucket: str) -> None:
    chats = tmp_path / "chats.txt"
    chats.write_text("where is my parcel\nit comes tomorrow, dear\n" * 20)
    first = pretrain(tmp_path, "first", chats=[str(chats)])
    assert pretrain(tmp_path, "again", chats=[str(chats)]) == first, "a finished run, submitted again"
    pretrain(tmp_path, "sent", output=f"{bucket}/sent", chats=[str(chats)])
    assert resolve_model(fetch_folder(f"{bucket}/sent", str(tmp_path / "cache"))).digest == first
    chats.write_text("please cancel it yourself\nof course, right away\n" * 20)
    second = pretrain(tmp_path, "second", chats=[str(chats)])
    assert second != first

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client, found = open_client(uri), []
    client.create_registered_model("encoder")
    for version, name in enumerate(("first", "second"), 1):
        client.create_model_version("encoder", str(tmp_path / name))
        client.set_registered_model_alias("encoder", "champion", version)
        found.append(pretrain(tmp_path, f"on-{name}", uri, chats=[str(chats)], encoder="models:/encoder@champion"))
    assert len({*found, first, second}) == 4, "the alias was moved: another encoder is gone on with"


def test_a_folder_without_chats_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.jsonl, .* or \.txt file there"):
        run(tmp_path, chats=[str(tmp_path)])


@pytest.mark.usefixtures("local_ray")
def test_the_first_layers_of_an_encoder_are_gone_on_with_alone(tmp_path: Path) -> None:
    chats = tmp_path / "chats.txt"
    chats.write_text("where is my parcel\nit comes tomorrow, dear\n" * 20)
    pretrain(tmp_path, "whole", chats=[str(chats)], shape={**SMALL["shape"], "num_layers": 3})
    continued = {"chats": [str(chats)], "encoder": str(tmp_path / "whole")}
    pretrain(tmp_path, "cut", **continued, keep_layers=2)
    assert load_encoder(str(tmp_path / "cut"), cache_dir=str(tmp_path))[0].config.num_hidden_layers == 2
    with pytest.raises(ValueError, match="the encoder has 3 layers: expected at most so many"):
        pretrain(tmp_path, "more", **continued, keep_layers=4)


@pytest.mark.usefixtures("local_ray")
def test_an_encoder_of_others_is_cut_and_gone_on_with_and_a_model_is_trained_over_it(tmp_path: Path) -> None:
    chats = tmp_path / "chats.txt"
    chats.write_text("where is my parcel\nit comes tomorrow, dear\n" * 20)
    theirs = save_encoder(tmp_path / "theirs", "xlm-roberta")
    pretrain(tmp_path, "cut", chats=[str(chats)], encoder=theirs, keep_layers=1, prune_to=1000)
    encoder, tokenizer = load_encoder(str(tmp_path / "cut"), cache_dir=str(tmp_path))
    assert encoder.config.num_hidden_layers == 1
    assert encoder.get_input_embeddings().num_embeddings == tokenizer.get_vocab_size() < 1400
    assert tokenizer.encode("いつ", add_special_tokens=False).tokens[-1].startswith("<0x"), "bytes, nothing unknown"
    training = TrainingSettings(
        encoder=str(tmp_path / "cut"),
        max_tokens=48,
        fusion=FusionSettings(hidden_size=16, num_heads=2),
        events=TrainingEventsSettings(simulation=SimulationSettings(num_events=32), num_validation=16),
        loop=LoopSettings(batch_size=16, bf16=False),
    )
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    train_model(training, trainer, None, output=tmp_path / "model", cache_dir=str(tmp_path / "cache"))
    model = load_verdict_model(tmp_path / "model")
    event = next(simulate(SimulationSettings(num_events=1), 6)).event
    assert np.isfinite(model.score([model.encoder.encode(event)]).logits).all()
