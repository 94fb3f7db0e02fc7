"""Training batches that cost little: a product's tokens stand once, its queries behind it, blind to each other.

Shapes: B products, S tokens of a product and its queries, V vocabulary, D hidden, n pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class ProductExample:
    """A product's tokens and its queries' tokens with the wished share of each label, shape (k, 4)."""

    product: Sequence[int]
    queries: Sequence[Sequence[int]]
    targets: np.ndarray


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


def next_token_logits(model: PreTrainedModel, guidelines_ids: Sequence[int], batch: PackedBatch) -> torch.Tensor:
    """Compute the logits of the token behind each prompt, shape (n, V), with gradients.

    The guidelines go through the model once and all rows share their keys and values.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.model
    prefix = torch.tensor([list(guidelines_ids)])
    cache = decoder(input_ids=prefix, use_cache=True, past_key_values=DynamicCache()).past_key_values
    rows, length = batch.ids_BS.shape
    shared = DynamicCache()
    for number, layer in enumerate(cache.layers):
        shared.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    sees_prefix = torch.ones(rows, length, prefix.shape[1], dtype=torch.bool)
    hidden_BSD = decoder(
        input_ids=batch.ids_BS,
        attention_mask=torch.cat([sees_prefix, batch.attention_BSS], dim=2)[:, None],
        position_ids=batch.positions_BS + prefix.shape[1],
        past_key_values=shared,
        use_cache=True,
    ).last_hidden_state
    return model.get_output_embeddings()(hidden_BSD.flatten(0, 1)[batch.label_index_n])


def label_loss(logits_nV: torch.Tensor, targets_n4: torch.Tensor, label_ids: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of the next token over the whole vocabulary, so that the labels' mass goes to one."""
    logprobs_nV = logits_nV.float().log_softmax(-1)
    return -(logprobs_nV[:, list(label_ids)] * targets_n4).sum(-1).mean()


def batches_by_length(
    examples: Sequence[ProductExample], *, pairs_per_batch: int, shuffler: np.random.Generator
) -> Iterator[PackedBatch]:
    """Group products of about the same length, since padding costs as much as text; batches in random order."""
    noise = 8 * shuffler.random(len(examples))
    order = sorted(range(len(examples)), key=lambda i: _packed_length(examples[i]) + noise[i])
    groups: list[list[ProductExample]] = [[]]
    for i in order:
        if sum(len(example.queries) for example in groups[-1]) >= pairs_per_batch:
            groups.append([])
        groups[-1].append(examples[i])
    for i in shuffler.permutation(len(groups)):
        if groups[i]:
            yield pack_batch(groups[i])
