"""Encoders of other people: what they call padding, and how many places they know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from cancellation.model.text_encoder import load_encoder
from cancellation.training.run import TrainingSettings, train_model
from cluster.tracking import TrackingSettings, open_client, tracked_run
from cluster.training.train import TrainerSettings

FRAMES = {
    "bert": ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"),
    "roberta": ("<s>", "<pad>", "</s>", "<mask>", "<unk>"),
}
PAD_IDS = {"bert": 0, "roberta": 1}


def save_encoder(folder: Path, kind: str, **changes: object) -> str:
    frame = FRAMES[kind]
    tokenizer = Tokenizer(models.BPE(unk_token=frame[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=100, special_tokens=list(frame), show_progress=False)
    tokenizer.train_from_iterator(["where is my parcel, it comes tomorrow"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=tokenizer.get_vocab_size(), **shape, **changes)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("named", [None, 3])
def test_padding_is_what_the_tokeniser_calls_so(tmp_path: Path, named: int | None) -> None:
    encoder, tokenizer = load_encoder(save_encoder(tmp_path / "bert", "bert", pad_token_id=named), cache_dir="unused")
    assert encoder.config.pad_token_id == tokenizer.token_to_id("[PAD]") == 0


@pytest.mark.parametrize(("kind", "places"), [("bert", 40), ("roberta", 38)])
def test_more_tokens_than_an_encoder_has_places_for_are_refused_before_anything_is_read(
    tmp_path: Path, kind: str, places: int
) -> None:
    encoder = save_encoder(tmp_path / kind, kind, max_position_embeddings=40, pad_token_id=PAD_IDS[kind])
    # Named in the job's own registry, which MLFLOW_TRACKING_URI does not name.
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", off=True)
    client = open_client(tracking.uri)
    client.create_registered_model("encoder")
    client.create_model_version("encoder", encoder)
    client.set_registered_model_alias("encoder", "champion", 1)
    settings = TrainingSettings(encoder="models:/encoder@champion", max_tokens=64)
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    folders = {"output": tmp_path / "model", "cache_dir": str(tmp_path / "cache")}
    refusal = rf"training\.max_tokens=64: the encoder has places for {places} tokens; lower"
    with pytest.raises(ValueError, match=refusal), tracked_run("train", settings, tracking) as run:
        train_model(settings, trainer, run, **folders)
