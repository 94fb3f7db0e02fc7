"""The text encoder: any Hugging Face encoder by name, or a small one of a set shape that starts from nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import AddedToken, Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cancellation.text.pruning import prune_tokenizer
from cancellation.text.timeline import SPECIAL_TOKENS
from cancellation.text.tokenizer import (
    END,
    MASK_TOKENS,
    PAD_TOKENS,
    START_TOKENS,
    TOKENIZER_FILE,
    UNKNOWN_TOKENS,
    load_tokenizer,
    rename_tokens,
    token_of,
)
from cluster.models.encoder_folder import encoder_class, encoder_folder, load_text_encoder
from cluster.models.files import WEIGHTS_SUFFIX, fetch_model, resolve_model
from cluster.models.whole_weights import read_config
from cluster.settings import Settings

EncoderClass = Literal["modernbert", "deberta-v2", "xlm-roberta"]

_ROLES = (
    (("pad_token",), PAD_TOKENS),
    (("cls_token", "bos_token"), START_TOKENS),
    (("mask_token",), MASK_TOKENS),
    (("unk_token",), UNKNOWN_TOKENS),
    (("sep_token", "eos_token"), (END, "[SEP]", "</s>", "<eos>")),
)
"""What Hugging Face calls a token's role, and its names here; the last two not every encoder has."""


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

    Tokens of the timeline, and those for start, padding and masks, are added where they are missing. What is padding
    the tokeniser says: some encoders' configurations name none, or another token, which texts would then attend to.

    Raises:
        ValueError: If there is no encoder or no tokeniser that can be read, naming the model.
    """
    folder = encoder_folder(fetch_model(resolve_model(name, registry_uri=registry_uri), cache_dir=cache_dir))
    if not any(folder.glob(f"*{WEIGHTS_SUFFIX}")):
        raise ValueError(f"encoder {name}: expected weights as safetensors, found none; save it so with transformers")
    try:
        model = read_encoder(folder)
    except ValueError as error:
        raise ValueError(f"encoder {name}: {error}") from None
    tokenizer = _load_tokenizer(folder, name, places=model.get_input_embeddings().num_embeddings)
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if size > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(size)
    _set_padding(model, token_of(tokenizer, PAD_TOKENS))
    return model, tokenizer


def read_encoder(folder: Path) -> PreTrainedModel:
    """Read an encoder's weights, in 32 bits, from a folder as transformers writes it.

    Raises:
        ValueError: If `read_config` or `load_text_encoder` refuses it.
    """
    config = read_config(folder)
    return load_text_encoder(folder, config, attn_implementation=_attention(config))


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
    turned = any(name.endswith("rotary_emb") for name, _ in encoder.named_modules())
    if turned and encoder.config.max_position_embeddings < max_tokens:
        places = encoder.config.max_position_embeddings
        raise ValueError(f"{setting}={max_tokens}: the encoder reads {places} tokens at most; lower it to that")


def _load_tokenizer(folder: Path, name: str, *, places: int) -> Tokenizer:
    file, settings = folder / TOKENIZER_FILE, folder / "tokenizer_config.json"
    try:
        own = Tokenizer.from_file(str(file)) if file.is_file() else None
        if own is not None and not settings.is_file() and own.token_to_id(SPECIAL_TOKENS[0]) is not None:
            return load_tokenizer(folder)  # of `jobs.cancellation_pretrain`
        given = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a broken or missing file raises in it
        raise ValueError(
            f"encoder {name}: expected a tokeniser that can be read, such as {TOKENIZER_FILE}; sentencepiece's own "
            "file needs pip install sentencepiece"
        ) from error
    # Of a class that it knows, transformers makes a new tokeniser around the file's pieces: how texts are normalised
    # and cut into words, which the encoder learnt from, would be that of the class.
    tokenizer = own or Tokenizer.from_str(given.backend_tokenizer.to_str())
    if set(tokenizer.get_vocab()) <= set(given.all_special_tokens):  # what transformers makes where there is no file
        raise ValueError(f"encoder {name}: expected a tokeniser such as {TOKENIZER_FILE}, found none; put it beside")
    if not settings.is_file() and given.cls_token is None and given.eos_token is None:
        raise ValueError(f"encoder {name}: expected tokenizer_config.json, which names padding, start and end")
    # Some add a token or two to a vocabulary that no text has.
    pieces = {
        piece: number
        for piece, number in tokenizer.get_vocab(with_added_tokens=False).items()
        if piece not in given.all_special_tokens
    }
    if (most := max(pieces.values())) >= places:
        raise ValueError(
            f"encoder {name}: its tokeniser has pieces up to number {most:,}, its weights embeddings of {places:,}: it "
            "is another model's; put that of the encoder there"
        )
    if own is None and not (settings.is_file() and "do_lower_case" in settings.read_text("utf-8")):
        _require_capitals(tokenizer, pieces, name)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return rename_tokens(tokenizer, _frame_names(tokenizer, given))


def _require_capitals(tokenizer: Tokenizer, pieces: Iterable[str], name: str) -> None:
    """Refuse a tokeniser that folds capitals, because nobody said otherwise, although its pieces have them."""
    capitals = [piece for piece in pieces if piece != piece.lower()]
    fold = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    folded = sum(fold(piece) == piece.lower() for piece in capitals)
    if folded * 100 > tokenizer.get_vocab_size():
        raise ValueError(
            f"encoder {name}: {folded:,} of its tokeniser's pieces have capitals, and nothing says whether texts keep "
            f"theirs: put {TOKENIZER_FILE} beside, or say do_lower_case in tokenizer_config.json"
        )


def _frame_names(tokenizer: Tokenizer, given: PreTrainedTokenizerBase) -> dict[str, str]:
    """Say what a tokeniser's frame tokens are to be called, so that they are found by their names alone.

    Some families' names mean another thing in others: Gemma's `<s>` is a mark of HTML, its start `<bos>`.
    """
    named: dict[str, str] = {}
    for attributes, names in _ROLES:
        roles = (getattr(given, attribute, None) for attribute in attributes)
        called = [str(token) for token in roles if token is not None]
        known = [one for one in (*called, *names) if tokenizer.token_to_id(one) is not None]
        token = next((one for one in known if one not in named), None)
        if token is None and names[0] not in (UNKNOWN_TOKENS[0], END):
            tokenizer.add_special_tokens([AddedToken(token := names[0], special=True)])
        if token is not None:
            found = next((one for one in names if one in known), None)
            named[token] = token if token == found and names[0] != END else names[0]
    return named


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
    for names in (PAD_TOKENS, START_TOKENS, MASK_TOKENS):  # of one meaning, whatever they are called
        rows[token_of(wanted, names)] = token_of(tokenizer, names)
    _take_rows(model, rows, pad=token_of(wanted, PAD_TOKENS))
    return model


def _take_rows(model: PreTrainedModel, rows: np.ndarray, *, pad: int) -> None:
    """Make an encoder's embeddings those of some of its tokens, in a new order."""
    table = model.get_input_embeddings().weight.detach()[torch.from_numpy(rows)]
    model.resize_token_embeddings(len(table), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(table)
    model.get_input_embeddings().padding_idx = pad
    _set_padding(model, pad)


def _set_padding(model: PreTrainedModel, pad: int) -> None:
    """Say which token is padding; encoders of RoBERTa's kind count places from its number, so their table moves."""
    for part in model.modules():
        before, table = getattr(part, "padding_idx", None), getattr(part, "position_embeddings", None)
        if not isinstance(table, nn.Embedding) or before in (None, pad):
            continue
        if model.config.model_type == "mpnet":  # its number is a constant in transformers
            raise ValueError(f"encoder: expected padding to be token {before} as in all of MPNet's kind, found {pad}")
        rows = table.weight.detach()
        rows = torch.cat([rows[before : before + 1].expand(pad + 1, -1), rows[before + 1 :]])
        part.position_embeddings = nn.Embedding.from_pretrained(rows.clone(), freeze=False, padding_idx=pad)
        part.padding_idx = pad
        model.config.max_position_embeddings = len(rows)
    model.config.pad_token_id = pad


def keep_first_layers(model: PreTrainedModel, count: int) -> None:
    """Cut an encoder down to its first layers: those that read words in their context cost a part of the whole.

    Raises:
        ValueError: If it has fewer.
    """
    layers = model.config.num_hidden_layers
    if count > layers:
        raise ValueError(f"the encoder has {layers} layers: expected at most so many to be kept, found {count}")
    blocks = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
    if len(blocks) == layers:  # ALBERT has fewer: it runs the same ones as often as its configuration says
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
    return encoder_class(parsed).from_config(parsed, attn_implementation=_attention(parsed))
