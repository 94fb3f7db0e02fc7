"""Which layout of a batch gives what scoring computes: packed rows, or prompts written out where those do not hold."""

from __future__ import annotations

import logging

import numpy as np
import torch
from transformers import PreTrainedModel

from relevance.engines.interface import TokenBatch
from relevance.engines.prefix_rows import write_prompt
from relevance.engines.sharing import REFUSALS, attention_window, probe_batch
from relevance.training.examples import ProductExample
from relevance.training.packing import next_token_logits, pack_batch

log = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
"""Probability that may lie on other tokens than the model's own logits put it on; rounding alone moves 0.05 of
SmolLM2's in bfloat16."""


@torch.no_grad()
def needs_whole_prompts(model: PreTrainedModel, name: str, *, longest_prompt: int, cached: bool) -> bool:
    """Compare both layouts with the model's own logits on a few random tokens.

    Windows of attention, positions that are added to attention and recurrent layers pass over a mask of packed queries
    without an error: weights would be trained on what no engine computes.

    Args:
        model: In training's precision, in evaluation mode.
        name: Of the model, for the refusal.
        longest_prompt: Tokens of the longest prompt that there may be.
        cached: As in `next_token_logits`.

    Raises:
        ValueError: If neither layout gives the model's own logits.
    """
    batch = probe_batch(model.config)
    expected_nV = _own_probabilities(model, batch)
    window = attention_window(model.config)
    reason = f"prompts of up to {longest_prompt} tokens pass its attention window of {window}"
    if longest_prompt <= window:
        reason = _difference(model, batch, expected_nV, cached=cached)
        if not reason:
            return False
    kind = model.config.model_type
    if odd := _difference(model, batch, expected_nV, written_out=True):
        raise ValueError(
            f"model {name}: architecture {kind} cannot be trained on labels here, its logits are not those of its last "
            f"hidden state and output layer ({odd}): choose a base of another architecture"
        )
    log.warning(
        "architecture %s does not share prefixes (%s): each prompt is computed whole, at several times the cost; lower "
        "pairs_per_forward where memory is short",
        kind,
        reason,
    )
    return True


def _own_probabilities(model: PreTrainedModel, batch: TokenBatch) -> torch.Tensor:
    prompts = [torch.tensor([write_prompt(batch, pair)], device=model.device) for pair in range(len(batch))]
    logits = [model(input_ids=prompt, use_cache=False).logits[0, -1] for prompt in prompts]
    return torch.stack(logits).float().softmax(-1)


def _difference(
    model: PreTrainedModel,
    batch: TokenBatch,
    expected_nV: torch.Tensor,
    *,
    cached: bool = False,
    written_out: bool = False,
) -> str:
    """Say in what a layout differs from the expected probabilities; nothing if it does not."""
    examples = [
        ProductExample(product, [batch.queries[batch.query_of_pair[pair]] for pair in pairs], np.zeros((len(pairs), 4)))
        for number, product in enumerate(batch.products)
        for pairs in [np.flatnonzero(batch.product_of_pair == number)]
    ]
    packed = pack_batch(examples).to(model.device)
    try:
        logits_nV = next_token_logits(model, batch.guidelines, packed, cached=cached, written_out=written_out)
    except REFUSALS as error:
        return f"{type(error).__name__}"
    # Half of the sum is the most that any set of tokens, the labels among them, gains or loses.
    moved = float((logits_nV.float().softmax(-1) - expected_nV).abs().sum(-1).max() / 2)
    return "" if moved <= _TOLERANCE[model.dtype] else f"probabilities differ by {moved:.4f}"
