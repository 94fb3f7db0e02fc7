"""Masked-word training: texts by Ray Data, steps by Ray Train, an encoder that fine-tuning can start from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cancellation.model.text_encoder import load_encoder
from cancellation.training.pretraining import PretrainingSettings
from cluster.training.train import TrainerSettings
from jobs.cancellation_pretrain import PretrainJob, main
from tests.builders.killed_workers import worker_killed_after

SMALL = {
    "num_simulated": 300,
    "tokenizer_events": 100,
    "vocab_size": 700,
    "max_tokens": 48,
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "masking": {"num_steps": 24, "batch_size": 16, "steps_per_checkpoint": 8, "bf16": False, "batches_per_pool": 4},
}


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


def test_a_folder_without_chats_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.jsonl, .* or \.txt file there"):
        run(tmp_path, chats=[str(tmp_path)])
