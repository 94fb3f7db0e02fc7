"""Masked-word training submitted again: a finished run stays as it is, other contents in the same place are learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from cancellation.training.pretraining import PretrainingSettings
from cluster.models.files import resolve_model
from cluster.tracking import TrackingSettings
from cluster.training.train import TrainerSettings
from jobs.cancellation_pretrain import PretrainJob, main

SMALL = {
    "num_simulated": 0,
    "tokenizer_events": 50,
    "vocab_size": 500,
    "max_tokens": 32,
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "masking": {"num_steps": 4, "batch_size": 8, "steps_per_checkpoint": 2, "bf16": False, "batches_per_pool": 1},
}


def _pretrain(folder: Path, name: str, uri: str | None = None, **changes: object) -> str:
    """Give a digest of the encoder that comes of it; all runs share their checkpoints."""
    main(
        PretrainJob(
            output=str(folder / name),
            cache_dir=str(folder / "cache"),
            pretraining=PretrainingSettings.model_validate({**SMALL, **changes}),
            trainer=TrainerSettings(num_workers=0, checkpoints=str(folder / "checkpoints")),
            tracking=TrackingSettings(uri=uri),
        )
    )
    return resolve_model(str(folder / name)).digest


@pytest.mark.usefixtures("local_ray")
def test_what_is_learnt_follows_the_contents_of_chats_and_encoder(tmp_path: Path) -> None:
    chats = tmp_path / "chats.txt"
    chats.write_text("where is my parcel\nit comes tomorrow, dear\n" * 20)
    first = _pretrain(tmp_path, "first", chats=[str(chats)])
    assert _pretrain(tmp_path, "again", chats=[str(chats)]) == first, "a finished run, submitted again"
    chats.write_text("please cancel it yourself\nof course, right away\n" * 20)
    second = _pretrain(tmp_path, "second", chats=[str(chats)])
    assert second != first

    uri = f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    (tmp_path / "registry").mkdir()
    client = MlflowClient(uri)
    client.create_registered_model("encoder")
    found = []
    for version, name in enumerate(("first", "second"), 1):
        client.create_model_version("encoder", str(tmp_path / name))
        client.set_registered_model_alias("encoder", "champion", version)
        found.append(_pretrain(tmp_path, f"on-{name}", uri, chats=[str(chats)], encoder="models:/encoder@champion"))
    assert len({*found, first, second}) == 4, "the alias was moved: another encoder is gone on with"
