"""Small fusion models for tests: a tokeniser of simulated texts, a network of a few thousand weights; and encoders of
every kind that people have, with random weights, as Hugging Face folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

from cancellation.events.examples import Example
from cancellation.model.fusion import FusionModel, FusionSettings, Variant
from cancellation.model.spec import ModelSpec
from cancellation.model.text_encoder import EncoderClass, EncoderShape, new_encoder
from cancellation.simulation.simulator import SimulationSettings
from cancellation.text.encoding import EventEncoder
from cancellation.text.timeline import timeline
from cancellation.text.tokenizer import train_tokenizer
from cancellation.training.data import EncodedSet, encode_examples
from cancellation.training.labelled_source import simulated_examples

MARKETS = ("TH", "ID", "BR")
MAX_TOKENS = 48


@cache
def examples() -> tuple[Example, ...]:
    return tuple(simulated_examples(SimulationSettings(), 11, range(120)))


@cache
def _tokenizer_json() -> str:
    texts = [segment.text for example in examples() for segment in timeline(example.event).segments]
    return train_tokenizer(texts, vocab_size=1200).to_str()


def small_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(_tokenizer_json())


def small_encoder() -> EventEncoder:
    return EventEncoder(small_tokenizer(), max_tokens=MAX_TOKENS)


def small_model(
    variant: Variant = "attention", *, kind: EncoderClass = "modernbert", seed: int = 0, **settings: object
) -> FusionModel:
    torch.manual_seed(seed)
    tokenizer = small_tokenizer()
    shape = EncoderShape(kind=kind, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, dropout=0.0)
    spec = ModelSpec(name="tiny", variant=variant, encoder=kind, max_tokens=MAX_TOKENS, markets=MARKETS)
    encoder = None if variant == "features" else new_encoder(shape, tokenizer, max_tokens=MAX_TOKENS)
    fusion = FusionSettings(variant=variant, hidden_size=32, num_heads=2, dropout=0.0, **settings)
    model = FusionModel(fusion, spec, encoder)
    if variant != "text":
        model.feature_layer.fit(small_set().features)
    return model.eval()


def small_set(count: int = 120) -> EncodedSet:
    return encoded_set(examples()[:count])


def encoded_set(some: tuple[Example, ...]) -> EncodedSet:
    return EncodedSet(encode_examples(some, small_encoder()), MARKETS, pad_id=0, unknown_id=2)


def logits(model: FusionModel, data: EncodedSet, rows: np.ndarray) -> np.ndarray:
    batch = data.batch(rows)
    with torch.inference_mode():
        outputs = model(*(torch.from_numpy(part) for part in (batch.token_ids, batch.features, batch.markets)))
    return outputs.verdict_nc.numpy()


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
