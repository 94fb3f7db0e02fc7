"""ModernBERT's layers in ONNX Runtime's own operators: an event costs seven tenths of the time on a CPU core.

Traced as it is written in PyTorch, attention becomes dozens of operators a layer that slice, negate, join and
transpose whole texts. ONNX Runtime has operators for its two parts, `RotaryEmbedding` and `MultiHeadAttention`
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md); its own optimizer finds them in graphs of
other models than this one. Values differ by float32's last digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._C import OptionalType
from torch.onnx import register_custom_op_symbolic, symbolic_helper
from transformers import PreTrainedModel, masking_utils
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention, ModernBertMLP, apply_rotary_pos_emb

_HIDDEN = -50.0
"""Added to the score of a token that is not seen: e^-50 is far below float32's last digit. The lowest float, which
PyTorch adds, leaves denormal numbers behind, on which a CPU takes five times as long."""

_HEAD_STEP = 8
"""ONNX Runtime's rotary operator wants the width of a head in multiples of it."""


@torch.library.custom_op("cancellation::rotate", mutates_args=())
def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rotate the heads of queries or keys (n, tokens, width) by their tokens' places."""
    heads, tokens = states.unflatten(2, (num_heads, -1)), states.shape[1]
    whole = [torch.cat([half, half], dim=1)[None, :tokens] for half in (cos, sin)]
    return apply_rotary_pos_emb(heads, heads, *whole, unsqueeze_dim=2)[0].flatten(2)


@torch.library.custom_op("cancellation::attend", mutates_args=())
def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, num_heads: int
) -> torch.Tensor:
    """Attend: queries, keys and values (n, tokens, width), what is added to scores (n, 1, tokens, tokens)."""
    query, key, value = (each.unflatten(2, (num_heads, -1)).transpose(1, 2) for each in (query, key, value))
    return nn.functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2)


@symbolic_helper.parse_args("v", "v", "v", "i")
def _rotary_embedding(g: Any, states: Any, cos: Any, sin: Any, num_heads: int) -> Any:
    start = g.op("Constant", value_t=torch.zeros(1, dtype=torch.long))
    found = g.op("com.microsoft::RotaryEmbedding", states, start, cos, sin, num_heads_i=num_heads)
    return found.setType(states.type())


@symbolic_helper.parse_args("v", "v", "v", "v", "i")
def _multi_head_attention(g: Any, query: Any, key: Any, value: Any, bias: Any, num_heads: int) -> Any:
    none = g.op("prim::Constant").setType(OptionalType.ofTensor())
    found = g.op("com.microsoft::MultiHeadAttention", query, key, value, none, none, bias, num_heads_i=num_heads)
    return found.setType(query.type())


@contextmanager
def onnx_runtime_layers(encoder: PreTrainedModel | None, *, opset_version: int) -> Iterator[None]:
    """Let ModernBERT's layers be traced into ONNX Runtime's operators; other encoders stay as they are."""
    layers = [module for module in encoder.modules() if _is_fused(module)] if encoder is not None else []
    for layer in layers:
        if isinstance(layer, ModernBertMLP):
            layer.forward = partial(_gated, layer)
        else:
            layer.forward = partial(_attention, layer, *_turns(encoder, layer))
    for name, symbolic in (("rotate", _rotary_embedding), ("attend", _multi_head_attention)):
        register_custom_op_symbolic(f"cancellation::{name}", symbolic, opset_version)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is found again


@contextmanager
def masks_by_broadcasting() -> Iterator[None]:
    """Let masks that transformers makes by vmap (Gemma's, both ways), which cannot be traced, be made whole."""
    kept = masking_utils._vmap_expansion_sdpa, masking_utils.TransformGetItemToIndex
    expanded = masking_utils._non_vmap_expansion_sdpa
    masking_utils._vmap_expansion_sdpa = lambda mask: lambda *places: mask(*expanded(*places))
    masking_utils.TransformGetItemToIndex = nullcontext
    try:
        yield
    finally:
        masking_utils._vmap_expansion_sdpa, masking_utils.TransformGetItemToIndex = kept


def _is_fused(module: nn.Module) -> bool:
    return isinstance(module, ModernBertMLP) or (
        isinstance(module, ModernBertAttention) and module.head_dim % _HEAD_STEP == 0
    )


def _turns(encoder: PreTrainedModel, layer: ModernBertAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every place, each (places, half a head)."""
    places = torch.arange(encoder.config.max_position_embeddings)[None]
    kind = encoder.config.layer_types[layer.layer_idx]
    cos, sin = encoder.rotary_emb(torch.zeros(1), places, kind)
    half = layer.head_dim // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def _attention(
    layer: ModernBertAttention,
    cos: torch.Tensor,
    sin: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    num_heads = hidden_states.shape[-1] // layer.head_dim
    query, key, value = _each(layer.Wqkv, hidden_states, 3)
    query, key = (_rotate(each, cos, sin, num_heads) for each in (query, key))
    return layer.Wo(_attend(query, key, value, attention_mask.clamp(min=_HIDDEN), num_heads)), None


def _gated(layer: ModernBertMLP, hidden_states: torch.Tensor) -> torch.Tensor:
    value, gate = _each(layer.Wi, hidden_states, 2)
    return layer.Wo(layer.act(value) * gate)


def _each(linear: nn.Linear, states: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """A layer's outputs as products of their own: cutting up what one product gives would copy it."""
    biases = linear.bias.chunk(parts) if linear.bias is not None else [None] * parts
    return [nn.functional.linear(states, *each) for each in zip(linear.weight.chunk(parts), biases, strict=True)]
