"""The network: a text encoder and the 68 features, put together in one of five ways, with two heads.

    text       [CLS] of the timeline, and what attention finds in it
    features   the numbers alone
    concat     both side by side, through one layer
    gated      a gate chooses between them, dimension by dimension
    attention  queries made of the numbers look for what matters in the text (cross-attention)

A market adds its embedding to the numbers; one that was never trained takes row 0, which training teaches by
forgetting markets now and then. A third head names what each message is (its act); it teaches the encoder and
is not exported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from cancellation.model.feature_layer import FeatureEncoding, FeatureLayer
from cancellation.model.spec import WEIGHTS_FILE, ModelSpec, load_spec, save_spec
from cancellation.model.text_encoder import encoder_from_config
from cancellation.text.tokenizer import TOKENIZER_FILE, load_tokenizer
from cluster.settings import Settings

FUSION_FILE, ENCODER_FILE = "fusion.json", "config.json"

Variant = Literal["text", "features", "concat", "gated", "attention"]


class FusionSettings(Settings):
    """How text and features meet."""

    variant: Variant = "attention"

    market_embedding: bool = True
    """Give each market an embedding of its own; without, all are alike."""

    feature_encoding: FeatureEncoding = "linear"
    """Scaled logarithms, or piecewise-linear places between quantiles."""

    num_bins: int = Field(default=8, ge=2, le=64)
    """Quantile intervals per feature of the piecewise encoding."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the features' network."""

    num_queries: int = Field(default=4, ge=1)
    """Questions that the features ask of the text in cross-attention."""

    num_heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Outputs:
    """`verdict_nc` (n, 3) and `factors_nf` (n, 18) as logits; `acts_nta` (n, tokens, acts) if there is such a
    head."""

    verdict_nc: torch.Tensor
    factors_nf: torch.Tensor
    acts_nta: torch.Tensor | None = None


class FusionModel(nn.Module):
    """Text encoder + features -> verdict and factors. Without text (`features`) `text_encoder` is None."""

    def __init__(self, settings: FusionSettings, spec: ModelSpec, text_encoder: PreTrainedModel | None) -> None:
        super().__init__()
        if (text_encoder is None) != (settings.variant == "features"):
            raise ValueError(f"variant {settings.variant}: expected a text encoder for all variants but features")
        self.settings, self.spec = settings, spec
        self.text_encoder = text_encoder
        self.acts: nn.Linear | None = None
        hidden = settings.hidden_size
        width = text_encoder.config.hidden_size if text_encoder is not None else hidden
        dropout = nn.Dropout(settings.dropout)
        if settings.variant != "text":
            self.feature_layer = FeatureLayer(len(spec.features), settings.feature_encoding, settings.num_bins)
            self.feature_mlp = nn.Sequential(
                nn.Linear(self.feature_layer.width, hidden), nn.GELU(), dropout, nn.Linear(hidden, width), nn.GELU()
            )
        if settings.market_embedding:
            self.market = nn.Embedding(len(spec.markets) + 1, width)
            nn.init.normal_(self.market.weight, std=0.02)
        if text_encoder is not None:
            self.pool = TextPool(width, settings.num_heads)
        self.join = _JOINS[settings.variant](width, settings)
        self.final = nn.Sequential(nn.LayerNorm(width), dropout)
        self.verdict = nn.Linear(width, len(spec.classes))
        self.factors = nn.Linear(width, len(spec.factors))

    def add_act_head(self, num_acts: int, *, seed: int = 0) -> None:
        """Give the text encoder its auxiliary head; 0 acts, or no text: none."""
        if num_acts and self.text_encoder is not None:
            torch.manual_seed(seed)
            self.acts = nn.Linear(self.text_encoder.config.hidden_size, num_acts)

    def forward(
        self, token_ids_nt: torch.Tensor, features_nf: torch.Tensor, markets_n: torch.Tensor, *, acts: bool = False
    ) -> Outputs:
        """Score padded events; `markets_n` are rows of the embedding (`ModelSpec.market_index`)."""
        states, mask = self.read(token_ids_nt)
        outputs = self.judge(states, mask, features_nf, markets_n)
        named = self.acts(states) if acts and states is not None and self.acts is not None else None
        return Outputs(outputs.verdict_nc, outputs.factors_nf, named)

    def read(self, token_ids_nt: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Give the text's states (n, tokens, width) and where they are not padding (n, tokens); None without text."""
        if self.text_encoder is None:
            return None, None
        mask = token_ids_nt != self.text_encoder.config.pad_token_id
        return self.text_encoder(input_ids=token_ids_nt, attention_mask=mask.long()).last_hidden_state, mask

    def embed(self, token_ids_nt: torch.Tensor) -> torch.Tensor:
        """Give each text as the mean of its tokens' embeddings, (n, width): what was written, before it is judged.

        What is pooled for the verdict is no measure of change: the same in another language lies in the same place.
        """
        assert self.text_encoder is not None
        mask_nt = (token_ids_nt != self.text_encoder.config.pad_token_id).float()
        words_ntd = self.text_encoder.get_input_embeddings()(token_ids_nt)
        return (mask_nt[:, None] @ words_ntd)[:, 0] / mask_nt.sum(1, keepdim=True)

    def judge(
        self,
        states_ntd: torch.Tensor | None,
        mask_nt: torch.Tensor | None,
        features_nf: torch.Tensor,
        markets_n: torch.Tensor,
    ) -> Outputs:
        """Score events whose text was read."""
        numbers = self.feature_mlp(self.feature_layer(features_nf)) if self.settings.variant != "text" else None
        pooled = self.pool(states_ntd, mask_nt) if states_ntd is not None else None
        if self.settings.market_embedding:
            market = self.market(markets_n)
            pooled = pooled + market if numbers is None else pooled
            numbers = numbers + market if numbers is not None else None
        joined = self.final(self.join(pooled, numbers, states_ntd, mask_nt))
        return Outputs(self.verdict(joined), self.factors(joined))


class Attention(nn.Module):
    """Multi-head attention of a few queries over a text's tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # No bias for keys: it would add one number to all scores of a query, which a softmax does not see.
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, queries_nqd: torch.Tensor, states_ntd: torch.Tensor, mask_nt: torch.Tensor) -> torch.Tensor:
        # Few queries ask a long text: keys and values of all its tokens would be the dearest part. A query is turned
        # by the keys' weights instead, and what it finds in the text by the values': the same sums in another order.
        heads, head_width = self.num_heads, queries_nqd.shape[-1] // self.num_heads
        query = self.query(queries_nqd).unflatten(2, (heads, 1, head_width))
        turned = query @ self.key.weight.unflatten(0, (heads, head_width))
        scores = turned.flatten(1, 3) @ states_ntd.transpose(1, 2) * head_width**-0.5
        scores = scores + (1.0 - mask_nt[:, None, :].float()) * -1e4
        found = (torch.softmax(scores, dim=-1) @ states_ntd).unflatten(1, (-1, heads, 1))
        values = found @ self.value.weight.unflatten(0, (heads, head_width)).transpose(1, 2)
        return self.output(values.flatten(2) + self.value.bias)


class TextPool(nn.Module):
    """One vector of a text: its start token, and what a learned question finds in it."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.question = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = Attention(width, num_heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, states_ntd: torch.Tensor, mask_nt: torch.Tensor) -> torch.Tensor:
        start = states_ntd[:, :1]
        return self.norm(start + self.attention(start + self.question, states_ntd, mask_nt))[:, 0]


class _TextOnly(nn.Module):
    def __init__(self, width: int, settings: FusionSettings) -> None:
        super().__init__()

    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor, states: torch.Tensor, mask: torch.Tensor):
        return pooled


class _FeaturesOnly(_TextOnly):
    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor, states: torch.Tensor, mask: torch.Tensor):
        return numbers


class _Concatenation(nn.Module):
    def __init__(self, width: int, settings: FusionSettings) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(settings.dropout))

    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor, states: torch.Tensor, mask: torch.Tensor):
        return self.layer(torch.cat([pooled, numbers], dim=1))


class _Gate(nn.Module):
    def __init__(self, width: int, settings: FusionSettings) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)

    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor, states: torch.Tensor, mask: torch.Tensor):
        share = torch.sigmoid(self.gate(torch.cat([pooled, numbers], dim=1)))
        return share * pooled + (1.0 - share) * numbers


class _CrossAttention(nn.Module):
    def __init__(self, width: int, settings: FusionSettings) -> None:
        super().__init__()
        self.num_queries = settings.num_queries
        self.ask = nn.Linear(2 * width, settings.num_queries * width)
        self.attention = Attention(width, settings.num_heads)
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Sequential(
            nn.Linear((settings.num_queries + 2) * width, width), nn.GELU(), nn.Dropout(settings.dropout)
        )

    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor, states: torch.Tensor, mask: torch.Tensor):
        both = torch.cat([pooled, numbers], dim=1)
        queries = self.ask(both).unflatten(1, (self.num_queries, -1))
        found = self.norm(queries + self.attention(queries, states, mask))
        return self.layer(torch.cat([both, found.flatten(1)], dim=1))


_JOINS = {
    "text": _TextOnly,
    "features": _FeaturesOnly,
    "concat": _Concatenation,
    "gated": _Gate,
    "attention": _CrossAttention,
}


def save_fusion_model(model: FusionModel, tokenizer: Tokenizer, folder: Path, *, half: bool = False) -> None:
    """Write weights (safetensors), shapes, tokeniser and the description to a folder; `half`: weights in 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    # Copies: T5's embeddings have two names, and safetensors writes no weights twice.
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    state = {name: tensor for name, tensor in whole.items() if not name.startswith("acts.")}
    save_file({name: tensor.half() for name, tensor in state.items()} if half else state, folder / WEIGHTS_FILE)
    (folder / FUSION_FILE).write_text(model.settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if model.text_encoder is not None:
        config = model.text_encoder.config.to_dict()
        config.pop("_name_or_path", None)  # where it was loaded from, on one machine
        (folder / ENCODER_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    save_spec(model.spec, folder)


def load_fusion_model(folder: Path) -> tuple[FusionModel, Tokenizer]:
    """Load what `save_fusion_model` wrote, in evaluation mode.

    Raises:
        ValueError: If the folder is of another order of features, classes or factors, or not complete.
    """
    spec = load_spec(folder)
    try:
        settings = FusionSettings.model_validate(json.loads((folder / FUSION_FILE).read_text(encoding="utf-8")))
        config = (folder / ENCODER_FILE).read_text(encoding="utf-8") if settings.variant != "features" else None
        state = load_file(folder / WEIGHTS_FILE)
    except OSError as error:
        raise ValueError(f"model folder {folder}: expected {error.filename}, found none; train it anew") from None
    model = FusionModel(settings, spec, encoder_from_config(config) if config else None)
    model.load_state_dict(state)
    return model.eval(), load_tokenizer(folder)
