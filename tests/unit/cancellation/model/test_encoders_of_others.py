"""Encoders of every kind that people have, from a Hugging Face folder to an export's scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from cancellation.model.exporting import export_model
from cancellation.model.fusion import FusionModel, FusionSettings
from cancellation.model.spec import ModelSpec
from cancellation.model.text_encoder import (
    adopt_vocabulary,
    encoder_from_config,
    keep_first_layers,
    load_encoder,
    prune_encoder,
    require_positions,
)
from cancellation.model.verdict_model import load_verdict_model
from cancellation.text.encoding import EventEncoder
from cancellation.text.tokenizer import END, MASK_TOKENS, PAD_TOKENS, START_TOKENS, token_of
from cancellation.training.data import EncodedSet, encode_examples
from cancellation.training.pretraining import PretrainingSettings
from cancellation.training.run import TrainingSettings
from tests.builders.fusion_models import KINDS, MARKETS, TEXTS, examples, save_encoder, small_tokenizer

MAX_TOKENS = 48
EVENTS = examples()[:24]
FAST = ("bert", "xlm-roberta", "deberta-v2", "gemma3_text", "t5")


def fusion_model(encoder: PreTrainedModel, tokenizer: Tokenizer) -> tuple[FusionModel, EncodedSet]:
    data = EncodedSet(
        encode_examples(EVENTS, EventEncoder(tokenizer, max_tokens=MAX_TOKENS)),
        MARKETS,
        pad_id=token_of(tokenizer, PAD_TOKENS),
        unknown_id=0,
    )
    spec = ModelSpec(name="tiny", variant="attention", encoder="other", max_tokens=MAX_TOKENS, markets=MARKETS)
    torch.manual_seed(0)
    model = FusionModel(FusionSettings(hidden_size=32, num_heads=2), spec, encoder)
    model.feature_layer.fit(data.features)
    return model.eval(), data


@pytest.mark.parametrize("kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
@pytest.mark.parametrize("int8", [False, True])
def test_an_export_scores_as_the_network_over_every_kind_of_encoder(tmp_path: Path, kind: str, int8: bool) -> None:
    encoder, tokenizer = load_encoder(save_encoder(tmp_path / "encoder", kind), cache_dir="unused")
    model, data = fusion_model(encoder, tokenizer)
    batches = [data.batch(np.arange(start, start + 8)) for start in (0, 8, 16)]
    inputs = [(batch.token_ids, batch.features, batch.markets) for batch in batches]
    export_model(model, tokenizer, inputs, tmp_path / "model", int8=int8)
    exported = load_verdict_model(tmp_path / "model")
    events = [exported.encoder.encode(example.event) for example in EVENTS]
    assert {event.token_ids[0] for event in events} == {token_of(tokenizer, START_TOKENS)}
    assert {event.token_ids[-1] for event in events} == {tokenizer.token_to_id(END)}
    found, alone = exported.score(events).logits, []
    for event in events:
        row = torch.tensor([exported.spec.market_index(event.market)])
        with torch.inference_mode():  # without padding, where the export has it
            given = torch.tensor([event.token_ids]), torch.from_numpy(event.features[None]), row
            alone.append(model(*given).verdict_nc.numpy())
    assert np.abs(found - np.concatenate(alone)).max() < (0.05 if int8 else 2e-3)
    rounded = json.loads((tmp_path / "model" / "export.json").read_text())["rounded"]
    assert bool(rounded) is int8


@pytest.mark.parametrize("kind", ["xlm-roberta", "t5", "mpnet"])
def test_texts_are_cut_into_pieces_as_the_encoders_own_file_says(tmp_path: Path, kind: str) -> None:
    folder = Path(save_encoder(tmp_path / kind, kind))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = {"xlm-roberta": "XLMRobertaTokenizer", "t5": "T5Tokenizer"}.get(
        kind, "MPNetTokenizer"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, tokenizer = load_encoder(str(folder), cache_dir="unused")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_truncation(), own.no_padding()
    for text in (*TEXTS[:50], "ＣＡＮＣＥＬ ｉｔ １２３", "ﬁrst  order"):
        assert tokenizer.encode(text).ids == own.encode(text, add_special_tokens=False).ids


def test_frame_tokens_are_those_of_their_role_whatever_their_names_mean_elsewhere(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "gemma", "gemma3_text")
    state = json.loads((file := Path(folder, "tokenizer.json")).read_text())
    next(piece for piece in state["model"]["vocab"] if piece[0].isalpha())[0] = (
        "None"  # a word, as in large vocabularies
    )
    file.write_text(json.dumps(state))
    own = Tokenizer.from_file(f"{folder}/tokenizer.json")
    encoder, tokenizer = load_encoder(folder, cache_dir="unused")
    assert token_of(tokenizer, START_TOKENS) == own.token_to_id("<bos>")
    assert tokenizer.token_to_id("None") == own.token_to_id("None")
    assert tokenizer.token_to_id(END) == own.token_to_id("<eos>")
    mask = token_of(tokenizer, MASK_TOKENS)  # it came without one
    assert own.get_vocab_size() <= mask < encoder.get_input_embeddings().num_embeddings


def states(encoder: PreTrainedModel, ids: list[int], *, padded: int = 0) -> torch.Tensor:
    given = torch.tensor([[*ids, *[encoder.config.pad_token_id] * padded]])
    mask = torch.tensor([[1] * len(ids) + [0] * padded])
    with torch.inference_mode():
        return encoder.eval()(input_ids=given, attention_mask=mask).last_hidden_state[:, : len(ids)]


def test_places_stay_those_that_were_learnt_when_padding_gets_another_number(tmp_path: Path) -> None:
    encoder, tokenizer = load_encoder(save_encoder(tmp_path / "e", "xlm-roberta"), cache_dir="unused")
    wanted = small_tokenizer()
    frame = [token_of(tokenizer, names) for names in (START_TOKENS, MASK_TOKENS)]
    before = states(encoder, [*frame, tokenizer.token_to_id("[BUYER]")])
    adopt_vocabulary(encoder, tokenizer, wanted)
    assert encoder.config.pad_token_id == wanted.token_to_id("[PAD]") == 0
    again = encoder_from_config(json.dumps(encoder.config.to_dict()))
    again.load_state_dict(encoder.state_dict())
    ids = [wanted.token_to_id(token) for token in ("[CLS]", "[MASK]", "[BUYER]")]
    for model in (encoder, again):
        assert torch.allclose(states(model, ids), before, atol=1e-6)
        assert torch.allclose(states(model, ids, padded=3), before, atol=1e-6)


def test_a_cut_vocabulary_knows_its_unknown_token_and_can_be_cut_again(tmp_path: Path) -> None:
    encoder, tokenizer = load_encoder(save_encoder(tmp_path / "e", "camembert"), cache_dir="unused")
    encoder, once = prune_encoder(encoder, tokenizer, TEXTS, size=1000)
    encoder, twice = prune_encoder(encoder, once, TEXTS, size=900)
    assert len(twice.get_vocab()) == twice.get_vocab_size() == encoder.get_input_embeddings().num_embeddings
    assert sum(piece.startswith("<0x") for piece in twice.get_vocab()) == 256
    state = json.loads(twice.to_str())["model"]
    assert state["vocab"][state["unk_id"]][0] == "<unk>"


@pytest.mark.parametrize("kind", ["albert", "t5", "modernbert"])
def test_an_encoder_is_cut_to_its_first_layers_and_comes_back(tmp_path: Path, kind: str) -> None:
    encoder, _ = load_encoder(save_encoder(tmp_path / kind, kind), cache_dir="unused")
    whole = encoder.config.num_hidden_layers
    keep_first_layers(encoder, 1)
    again = encoder_from_config(json.dumps(encoder.config.to_dict()))
    again.load_state_dict(encoder.state_dict())
    assert torch.allclose(states(encoder, [3, 4, 5]), states(again, [3, 4, 5]))
    with pytest.raises(ValueError, match=r"has 1 layers"):
        keep_first_layers(encoder, whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_16_bits_and_those_below_a_head_are_read_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    plain, _ = load_encoder(save_encoder(tmp_path / "plain", "roberta"), cache_dir="unused")
    half, _ = load_encoder(save_encoder(tmp_path / "half", "roberta", head=True, dtype=dtype), cache_dir="unused")
    assert half.dtype == torch.float32
    assert type(half) is type(plain)
    assert half.embeddings.word_embeddings.weight.std() > 0.01
    again = encoder_from_config(json.dumps(half.config.to_dict()))
    assert again.dtype == torch.float32


def test_what_cannot_be_read_is_refused_by_name_with_a_remedy(tmp_path: Path) -> None:
    folder = Path(save_encoder(tmp_path / "bert", "bert"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"encoder .*bert: expected a tokeniser such as tokenizer.json, found none"):
        load_encoder(str(folder), cache_dir="unused")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"encoder .*bert: expected weights as safetensors, found none; save it so"):
        load_encoder(str(folder), cache_dir="unused")
    rotary, _ = load_encoder(save_encoder(tmp_path / "modern", "modernbert"), cache_dir="unused")
    rotary.config.max_position_embeddings = 64
    with pytest.raises(ValueError, match=r"max_tokens=65: the encoder reads 64 tokens at most; lower"):
        require_positions(rotary, 65, setting="max_tokens")


@pytest.mark.parametrize("setting", ["prune_to", "keep_layers"])
def test_what_is_cut_of_no_encoder_is_refused(setting: str) -> None:
    for kind in (TrainingSettings, PretrainingSettings):
        with pytest.raises(ValidationError, match=rf"{setting} is of an encoder that is read: name one in encoder"):
            kind.model_validate({setting: 2000})
        kind.model_validate({setting: 2000, "encoder": "var/encoder"})
    with pytest.raises(ValidationError, match="without start"):
        TrainingSettings.model_validate({setting: 2000, "start": "var/model/trained"})
