"""Encoders of every kind that people have, from a Hugging Face folder to an export's scores."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

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
from cancellation.text.timeline import timeline
from cancellation.text.tokenizer import END, MASK_TOKENS, PAD_TOKENS, START_TOKENS, token_of
from cancellation.training.data import EncodedSet, encode_examples
from cancellation.training.pretraining import PretrainingSettings
from cancellation.training.run import TrainingSettings
from tests.builders.fusion_models import MARKETS, examples, small_tokenizer

MAX_TOKENS = 48
EVENTS = examples()[:24]
TEXTS = [segment.text for example in examples() for segment in timeline(example.event).segments]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PLACED = {**SHAPE, "max_position_embeddings": 64, "type_vocab_size": 1}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
LOCAL = {**SHAPE, "num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 8}
GEMMA = {
    **SHAPE,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 8,
    "use_bidirectional_attention": True,
    "layer_types": ["sliding_attention", "full_attention"],
}
DEBERTA = {
    **SHAPE,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
    "position_biased_input": False,
}
ROBERTA_FRAME, BERT_FRAME = ("<pad>", "<s>", "</s>", "<unk>", "<mask>"), ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
LLAMA_FRAME = ("<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", None, "<|mask|>")
GEMMA_FRAME, T5_FRAME = ("<pad>", "<bos>", "<eos>", "<unk>", None), ("<pad>", None, "</s>", "<unk>", None)
ROLES = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token")

KINDS = {
    "bert": ("wordpiece", BERT_FRAME, SHAPE),
    "roberta": ("bytes", ROBERTA_FRAME, PLACED),
    "xlm-roberta": ("unigram", ROBERTA_FRAME, PLACED),
    "camembert": ("unigram", ROBERTA_FRAME, PLACED),
    "deberta-v2": ("unigram", BERT_FRAME, DEBERTA),
    "distilbert": ("wordpiece", BERT_FRAME, {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "mpnet": ("wordpiece", ("<pad>", "<s>", "</s>", "[UNK]", "<mask>"), {**SHAPE, "max_position_embeddings": 64}),
    "electra": ("wordpiece", BERT_FRAME, {**SHAPE, "embedding_size": 16}),
    "albert": ("unigram", BERT_FRAME, {**SHAPE, "embedding_size": 16}),
    "modernbert": ("bytes", BERT_FRAME, LOCAL),
    "nomic_bert": ("wordpiece", BERT_FRAME, SHAPE),
    "eurobert": ("bytes", LLAMA_FRAME, {**SHAPE, "num_key_value_heads": 2}),
    "gemma3_text": ("unigram", GEMMA_FRAME, GEMMA),
    "t5": ("unigram", T5_FRAME, T5),
    "mt5": ("unigram", T5_FRAME, T5),
}
FAST = ("bert", "xlm-roberta", "deberta-v2", "gemma3_text", "t5")


@cache
def trained_tokenizer(pieces: str, frame: tuple[str | None, ...]) -> Tokenizer:
    # Padding second, as RoBERTa has it: what counts places from its number shows.
    special = [token for token in (frame[1] or frame[2], frame[0], *frame[2:]) if token]
    special = list(dict.fromkeys(special))
    if pieces == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token=frame[3]))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    elif pieces == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        # "<s>" is a mark of HTML to Gemma, and no start.
        trainer = trainers.UnigramTrainer(
            vocab_size=1400, special_tokens=[*special, "<s>"], unk_token=frame[3], show_progress=False
        )
    made.train_from_iterator(TEXTS, trainer)
    ends = [(token, made.token_to_id(token)) for token in frame[1:3] if token]
    single = " ".join(token for token in (frame[1], "$A", frame[2]) if token)
    made.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=ends)
    made.enable_truncation(8)
    made.enable_padding(length=8, pad_id=made.token_to_id(frame[0]), pad_token=frame[0])
    return made


def save_encoder(folder: Path, kind: str, *, head: bool = False, dtype: torch.dtype = torch.float32) -> str:
    pieces, frame, shape = KINDS[kind]
    tokenizer = trained_tokenizer(pieces, frame)
    named = {role: token for role, token in zip(ROLES, frame, strict=True) if token}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    size, pad = tokenizer.get_vocab_size(), tokenizer.token_to_id(frame[0])
    config = AutoConfig.for_model(kind, vocab_size=size, pad_token_id=pad, bos_token_id=0, eos_token_id=0, **shape)
    torch.manual_seed(0)
    model = (AutoModelForMaskedLM if head else AutoModel).from_config(config)
    model.to(dtype).save_pretrained(folder)
    return str(folder)


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
    own = Tokenizer.from_file(f"{folder}/tokenizer.json")
    encoder, tokenizer = load_encoder(folder, cache_dir="unused")
    assert token_of(tokenizer, START_TOKENS) == own.token_to_id("<bos>")
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
