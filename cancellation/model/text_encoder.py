"""The text encoder: any Hugging Face encoder by name, or a small one of a set shape that starts from nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from cancellation.text.pruning import prune_tokenizer
from cancellation.text.timeline import SPECIAL_TOKENS
from cancellation.text.tokenizer import (
    PAD_TOKENS,
    START_TOKENS,
    TOKENIZER_FILE,
    UNKNOWN_TOKENS,
    load_tokenizer,
    token_of,
)
from cluster.models.files import fetch_model, resolve_model
from cluster.settings import Settings

EncoderClass = Literal["modernbert", "deberta-v2", "xlm-roberta"]


class EncoderShape(Settings):
    """A small encoder that starts from nothing: mmBERT's class by default, twice as fast as DeBERTa's in 8 bits.

    Narrow and deep learns faster here than wide: 128 x 4 was at a loss of 0.246 after 24,000 events, 192 x 3, which
    costs twice as much to train, at 0.262 (at a lower learning rate).
    """

    kind: EncoderClass = "modernbert"
    hidden_size: int = Field(default=128, ge=16, multiple_of=16)
    num_layers: int = Field(default=3, ge=1)
    num_heads: int = Field(default=4, ge=1)
    intermediate_size: int = Field(default=256, ge=16)
    local_attention: int = Field(default=48, ge=4)
    """Tokens that a token of a local layer sees, about a message each way; modernbert only, in its first half of
    layers: what a message says before who said what when."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Simulated events never come twice, so there is little to forget; each costs a tenth of a step's time."""


def new_encoder(shape: EncoderShape, tokenizer: Tokenizer, *, max_tokens: int) -> PreTrainedModel:
    """Make an encoder with random weights for a tokeniser."""
    config = _config(shape, tokenizer, max_tokens)
    return AutoModel.from_config(config, attn_implementation=_attention(config))


def _attention(config: PretrainedConfig) -> str:
    # PyTorch's fused attention: over 150 tokens on a CPU its backward pass costs a fifth of a step more, and on a GPU
    # a padded token that sees nothing but padding (a local layer, beside a short text) made every weight NaN
    # (H100, torch 2.11). Without local layers every token sees the text.
    if config.model_type in ("bert", "roberta", "xlm-roberta"):
        return "sdpa" if torch.cuda.is_available() or config.num_hidden_layers > 6 else "eager"
    return "eager"


def _config(shape: EncoderShape, tokenizer: Tokenizer, max_tokens: int) -> PretrainedConfig:
    start = token_of(tokenizer, START_TOKENS)
    common = {
        "vocab_size": tokenizer.get_vocab_size(with_added_tokens=True),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": max_tokens + 2,
        "pad_token_id": token_of(tokenizer, PAD_TOKENS),
        "bos_token_id": start,
        "eos_token_id": start,
    }
    return AutoConfig.for_model(shape.kind, **common, **_own_values(shape, start))


def _own_values(shape: EncoderShape, start: int) -> dict[str, object]:
    """What one class of encoder has and the others do not."""
    if shape.kind == "modernbert":
        local = shape.num_layers // 2
        return {
            "cls_token_id": start,
            "sep_token_id": start,
            "local_attention": shape.local_attention,
            "layer_types": ["sliding_attention"] * local + ["full_attention"] * (shape.num_layers - local),
            "attention_dropout": 0.0,
            "mlp_dropout": shape.dropout,
            "embedding_dropout": shape.dropout,
        }
    if shape.kind == "deberta-v2":
        return {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 64,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "type_vocab_size": 0,
            "position_biased_input": False,
            "hidden_dropout_prob": shape.dropout,
            "attention_probs_dropout_prob": 0.0,
        }
    return {"type_vocab_size": 1, "hidden_dropout_prob": shape.dropout, "attention_probs_dropout_prob": 0.0}


def load_encoder(name: str, *, cache_dir: str, registry_uri: str | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Load an encoder and its tokeniser from a folder, an s3 URI, the registry or the hub: safetensors, no code.

    The timeline's tokens are added to the tokeniser and the embeddings where they are missing. What is padding the
    tokeniser says: some encoders' configurations name none, or another token, which texts would then attend to.
    """
    folder = fetch_model(resolve_model(name, registry_uri=registry_uri), cache_dir=cache_dir)
    model = AutoModel.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation=_attention(AutoConfig.from_pretrained(folder, trust_remote_code=False)),
    )
    tokenizer = _load_tokenizer(folder)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(size)
    model.config.pad_token_id = token_of(tokenizer, PAD_TOKENS)
    return model, tokenizer


def require_positions(encoder: PreTrainedModel, max_tokens: int, *, setting: str) -> None:
    """Refuse more tokens than an encoder that learnt a vector for each place has places.

    Raises:
        ValueError: Naming the setting and the number of its places.
    """
    tables = [part for name, part in encoder.named_modules() if name.endswith("position_embeddings")]
    for table in tables:
        # RoBERTa's kind counts from behind the padding token's number.
        places = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        if places < max_tokens:
            raise ValueError(f"{setting}={max_tokens}: the encoder has places for {places} tokens; lower it to that")


def _load_tokenizer(folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).is_file() and not (folder / "tokenizer_config.json").is_file():
        return load_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def prune_encoder(
    model: PreTrainedModel, tokenizer: Tokenizer, texts: Iterable[str], *, size: int
) -> tuple[PreTrainedModel, Tokenizer]:
    """Cut an encoder's vocabulary to about `size` pieces; byte pieces begin as the unknown token's embedding."""
    pruned, old = prune_tokenizer(tokenizer, texts, size=size)
    unknown = token_of(tokenizer, UNKNOWN_TOKENS)
    _take_rows(model, np.where(old < 0, unknown, old), pad=token_of(pruned, PAD_TOKENS))
    return model, pruned


def adopt_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, wanted: Tokenizer) -> PreTrainedModel:
    """Give an encoder the pieces of another tokeniser, so that one of the two models can teach the other.

    A piece that the encoder does not know begins as its unknown token's embedding.
    """
    pieces = [wanted.id_to_token(number) for number in range(wanted.get_vocab_size())]
    unknown = token_of(tokenizer, UNKNOWN_TOKENS)
    known = [tokenizer.token_to_id(piece) for piece in pieces]
    rows = np.array([unknown if row is None else row for row in known])
    _take_rows(model, rows, pad=token_of(wanted, PAD_TOKENS))
    return model


def _take_rows(model: PreTrainedModel, rows: np.ndarray, *, pad: int) -> None:
    """Make an encoder's embeddings those of some of its tokens, in a new order."""
    table = model.get_input_embeddings().weight.detach()[torch.from_numpy(rows)]
    model.resize_token_embeddings(len(table), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(table)
    model.config.pad_token_id = model.get_input_embeddings().padding_idx = pad


def keep_first_layers(model: PreTrainedModel, count: int) -> None:
    """Cut an encoder down to its first layers: those that read words in their context cost a part of the whole.

    Raises:
        ValueError: If it has fewer.
    """
    blocks = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
    if count > len(blocks):
        raise ValueError(f"the encoder has {len(blocks)} layers: expected at most so many to be kept, found {count}")
    del blocks[count:]
    model.config.num_hidden_layers = count
    if layer_types := getattr(model.config, "layer_types", None):
        model.config.layer_types = layer_types[:count]


def start_embeddings(encoder: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Let a narrower encoder of the same tokeniser begin with its teacher's embeddings, on their principal axes."""
    wide = teacher.get_input_embeddings().weight.detach().float()
    own = encoder.get_input_embeddings().weight
    centred = wide - wide.mean(0)
    _, _, axes = torch.linalg.svd(centred.T @ centred)
    narrow = centred @ axes[: own.shape[1]].T
    own.data.copy_(narrow * (0.02 / narrow.std()) if own.shape[1] < wide.shape[1] else wide)


def encoder_from_config(config: str) -> PreTrainedModel:
    """Make an encoder of a saved configuration (JSON), its weights still to be loaded."""
    values = json.loads(config)
    parsed = AutoConfig.for_model(values.pop("model_type"), **values)
    return AutoModel.from_config(parsed, attn_implementation=_attention(parsed))
