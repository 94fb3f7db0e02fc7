"""Training batches that cost little: a product's tokens stand once, its queries behind it, blind to each other.

Shapes: B products, S tokens of a product and its queries, V vocabulary, D hidden, n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from relevance.engines.label_head import finish_logits
from relevance.training.examples import ProductExample


@dataclass(frozen=True)
class PackedBatch:
    """Products with their queries, ready for one forward pass; attention is True where allowed."""

    ids_BS: torch.Tensor
    positions_BS: torch.Tensor
    """Counted from the end of the guidelines: every query stands right behind its product's last token."""
    attention_BSS: torch.Tensor
    label_index_n: torch.Tensor
    """Where each pair's last prompt token lies in the flattened (B * S) batch."""
    targets_n4: torch.Tensor

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(
            self.ids_BS.to(device),
            self.positions_BS.to(device),
            self.attention_BSS.to(device),
            self.label_index_n.to(device),
            self.targets_n4.to(device),
        )


def pack_batch(examples: Sequence[ProductExample]) -> PackedBatch:
    """Lay products and their queries out as rows, padded to the longest."""
    length = max(map(_packed_length, examples))
    ids = np.zeros((len(examples), length), dtype=np.int64)
    positions = np.zeros_like(ids)
    segment = np.zeros_like(ids)  # 0 padding, 1 product, 2... queries
    last = []
    for row, example in enumerate(examples):
        own = end = len(example.product)
        ids[row, :own], positions[row, :own], segment[row, :own] = example.product, np.arange(own), 1
        for number, query in enumerate(example.queries):
            where = slice(end, end + len(query))
            ids[row, where], segment[row, where] = query, 2 + number
            positions[row, where] = own + np.arange(len(query))
            end += len(query)
            last.append(row * length + end - 1)
    seen = torch.from_numpy(segment)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (seen[:, :, None] == seen[:, None, :]) | (seen[:, None, :] == 1)
    # A padded token looks at itself, else its softmax would have nothing to divide by.
    attention = (same & causal) & (seen[:, None, :] > 0) | torch.eye(length, dtype=torch.bool)
    targets = torch.from_numpy(np.concatenate([example.targets for example in examples])).float()
    return PackedBatch(torch.from_numpy(ids), torch.from_numpy(positions), attention, torch.tensor(last), targets)


def _packed_length(example: ProductExample) -> int:
    return len(example.product) + sum(map(len, example.queries))


def next_token_logits(
    model: PreTrainedModel,
    prefix_ids: Sequence[int],
    batch: PackedBatch,
    *,
    cached: bool = True,
    written_out: bool = False,
) -> torch.Tensor:
    """Compute the logits of the token behind each prompt, shape (n, V), with gradients.

    Args:
        model: Any causal model.
        prefix_ids: Tokens before every product (the guidelines), may be empty.
        batch: On the model's device.
        cached: Send the prefix through the model once, all rows sharing its keys and values. Otherwise each row
            begins with it, which costs more and goes together with gradient checkpointing and sharded weights.
        written_out: Send each prompt through the model whole, at the cost of all of its tokens, as a model needs whose
            layers do not follow a mask (`relevance.training.layout`).
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.model
    rows = len(batch.ids_BS)
    prefix_BP = torch.tensor([list(prefix_ids)], device=batch.ids_BS.device).long().expand(rows, -1)
    if written_out:
        hidden_nD = _behind_whole_prompts(decoder, prefix_BP[0], batch)
    elif cached and prefix_ids:
        hidden_nD = _behind_cached_prefix(decoder, prefix_BP, batch).flatten(0, 1)[batch.label_index_n]
    else:
        hidden_nD = _behind_own_prefix(decoder, prefix_BP, batch).flatten(0, 1)[batch.label_index_n]
    logits_nV = model.get_output_embeddings()(hidden_nD)
    return finish_logits(logits_nV, model.config.get_text_config())


def _behind_whole_prompts(decoder: nn.Module, prefix_P: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    length = batch.ids_BS.shape[1]
    rows, columns = batch.label_index_n // length, batch.label_index_n % length
    # What a query's last token may look at is its prompt: the product, then the query.
    prompts = [
        torch.cat([prefix_P, ids_S[seen_S]])
        for ids_S, seen_S in zip(batch.ids_BS[rows], batch.attention_BSS[rows, columns], strict=True)
    ]
    ids_nL = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    last_n = torch.tensor([len(prompt) - 1 for prompt in prompts], device=ids_nL.device)
    seen_nL = (torch.arange(ids_nL.shape[1], device=ids_nL.device) <= last_n[:, None]).long()
    hidden_nLD = decoder(input_ids=ids_nL, attention_mask=seen_nL, use_cache=False).last_hidden_state
    return hidden_nLD[torch.arange(len(prompts), device=ids_nL.device), last_n]


def _behind_cached_prefix(decoder: nn.Module, prefix_BP: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    rows, length = batch.ids_BS.shape
    cache = decoder(input_ids=prefix_BP[:1], use_cache=True, past_key_values=DynamicCache()).past_key_values
    shared = DynamicCache()
    for number, layer in enumerate(cache.layers):
        shared.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    sees_prefix = batch.attention_BSS.new_ones(rows, length, prefix_BP.shape[1])
    return decoder(
        input_ids=batch.ids_BS,
        attention_mask=_mask(decoder, torch.cat([sees_prefix, batch.attention_BSS], dim=2)),
        position_ids=batch.positions_BS + prefix_BP.shape[1],
        past_key_values=shared,
        use_cache=True,
    ).last_hidden_state


def _behind_own_prefix(decoder: nn.Module, prefix_BP: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    rows, prefix = prefix_BP.shape
    total = prefix + batch.ids_BS.shape[1]
    attention = batch.attention_BSS.new_zeros(rows, total, total)
    attention[:, :, :prefix] = True
    attention[:, :prefix] &= torch.ones_like(attention[0]).tril()[:prefix]
    attention[:, prefix:, prefix:] = batch.attention_BSS
    positions = torch.arange(prefix, device=prefix_BP.device).expand(rows, -1)
    hidden_BTD = decoder(
        input_ids=torch.cat([prefix_BP, batch.ids_BS], dim=1),
        attention_mask=_mask(decoder, attention),
        position_ids=torch.cat([positions, batch.positions_BS + prefix], dim=1),
        use_cache=False,
    ).last_hidden_state
    return hidden_BTD[:, prefix:]


def _mask(decoder: nn.Module, allowed_BST: torch.Tensor) -> torch.Tensor:
    """Give what may be attended to in the form that a model's attention takes: written out, it adds numbers."""
    if decoder.config._attn_implementation != "eager":
        return allowed_BST[:, None]
    barred = torch.finfo(torch.float32).min
    return torch.zeros(allowed_BST.shape, device=allowed_BST.device).masked_fill(~allowed_BST, barred)[:, None]


def label_loss(
    logits_nV: torch.Tensor,
    targets_n4: torch.Tensor,
    label_ids: Sequence[int],
    *,
    total: float | None = None,
    mass_weight: float = 1.0,
) -> torch.Tensor:
    """Cross-entropy among the four labels, and `mass_weight` times that of saying a label at all.

    With 1 it is the cross-entropy of the next token over the whole vocabulary. `targets_n4` may be scaled by a pair's
    weight; `total` is the sum of all weights to divide by, by default this batch's own.
    """
    logits_nV = logits_nV.float()
    among_n4 = logits_nV[:, list(label_ids)]
    labels_n = among_n4.logsumexp(-1)
    loss = -((among_n4 - labels_n[:, None]) * targets_n4).sum()
    loss = loss + mass_weight * ((logits_nV.logsumexp(-1) - labels_n) * targets_n4.sum(-1)).sum()
    return loss / (targets_n4.sum() if total is None else total)


def groups_by_length(
    examples: Sequence[ProductExample], *, pairs_per_group: int, shuffler: np.random.Generator
) -> list[list[ProductExample]]:
    """Group products of about the same length, since padding costs as much as text; groups in random order."""
    noise = 8 * shuffler.random(len(examples))
    order = sorted(range(len(examples)), key=lambda i: _packed_length(examples[i]) + noise[i])
    groups: list[list[ProductExample]] = [[]]
    for i in order:
        if sum(len(example.queries) for example in groups[-1]) >= pairs_per_group:
            groups.append([])
        groups[-1].append(examples[i])
    return [groups[i] for i in shuffler.permutation(len(groups)) if groups[i]]
