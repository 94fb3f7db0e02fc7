"""May pairs share the tokens that their prompts begin with? Told from a model's configuration, and by trying."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import PretrainedConfig

from relevance.engines.interface import TokenBatch

PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""How far a label's probability may be from that of the prompt written out, by the model's type."""

REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError)
"""Raised by an architecture that takes no mask of more than two dimensions, no cache of this kind, no 8-bit layer."""
_WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_window_size",
    "attention_chunk_size",
    "window_size",
    "index_topk",
)
"""What architectures call the number of tokens that one sees, or chooses to see; GPT-Neo's is 256."""

_UNMASKED = {"conv", "linear_attention", "hybrid", "hybrid_sliding", "mamba", "recurrent"}
"""Kinds of layers that pass a state from each token to the next, whatever a mask says."""


def probe_batch(config: PretrainedConfig) -> TokenBatch:
    """Draw a few pairs of random tokens of a model's vocabulary, two products with queries in common."""
    random, vocabulary = np.random.default_rng(0), config.get_text_config().vocab_size
    draw = [random.integers(vocabulary, size=size).tolist() for size in (13, 9, 5, 4, 3, 6)]
    pairs = np.array([0, 0, 0, 1, 1], np.int32)
    return TokenBatch(draw[0], draw[1:3], draw[3:], pairs, np.array([0, 1, 2, 0, 2], np.int32))


def attention_window(config: PretrainedConfig) -> float:
    """The longest prompt of which every token sees every earlier one, as masks say; 0 where a layer takes none."""
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["not said"])
    if kinds == {"full_attention"}:
        return math.inf
    if kinds & _UNMASKED:
        return 0
    windows = [getattr(config, name, None) for name in _WINDOWS]
    return min((window for window in windows if window), default=math.inf)
