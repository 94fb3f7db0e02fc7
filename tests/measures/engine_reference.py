"""Batches for the engines, and the answers of a plain forward pass to hold them against."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from relevance.engines.interface import TokenBatch

LABEL_IDS = (5, 17, 99, 200)
VOCABULARY = 256


def random_batch(
    *, products: int = 8, pairs: int = 60, guidelines: int = 40, longest: int = 24, seed: int = 0
) -> TokenBatch:
    """Draw a batch of mixed lengths: queries of 1 to 9 tokens, products of 1 to `longest`."""
    random = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return random.integers(3, VOCABULARY, size=count).tolist()

    num_queries = max(1, pairs // 2)
    return TokenBatch(
        guidelines=tokens(guidelines),
        products=[tokens(random.integers(1, longest + 1)) for _ in range(products)],
        queries=[tokens(random.integers(1, 10)) for _ in range(num_queries)],
        product_of_pair=np.sort(random.integers(0, products, size=pairs)).astype(np.int32),
        query_of_pair=random.integers(0, num_queries, size=pairs).astype(np.int32),
    )


def even_batch(
    pairs: int, *, pairs_per_product: int, lengths: tuple[int, int, int], vocabulary: int, seed: int
) -> TokenBatch:
    """Draw as many products as the pairs need, each text of its kind as long as the others.

    `lengths` are those of guidelines, products and queries. Guidelines are the same for every seed, all else is not.
    """
    guidelines, product, query = lengths
    random = np.random.default_rng(seed)
    order = np.arange(pairs, dtype=np.int32)
    products = -(-pairs // pairs_per_product)
    return TokenBatch(
        guidelines=np.random.default_rng(0).integers(3, vocabulary, size=guidelines).tolist(),
        products=random.integers(3, vocabulary, size=(products, product)).tolist(),
        queries=random.integers(3, vocabulary, size=(pairs, query)).tolist(),
        product_of_pair=order // pairs_per_product,
        query_of_pair=order,
    )


def minimum_tokens(batch: TokenBatch) -> int:
    """Guidelines once, each product that has pairs once, a query per pair."""
    products = sum(len(batch.products[index]) for index in set(batch.product_of_pair.tolist()))
    return len(batch.guidelines) + products + sum(len(batch.queries[index]) for index in batch.query_of_pair)


def reference_scores(model_dir: Path, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """Score each pair alone with the model's own logits: probabilities (n, 4) among the labels, mass (n,)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    probabilities = np.empty((len(batch), 4))
    for pair, (product, query) in enumerate(zip(batch.product_of_pair, batch.query_of_pair, strict=True)):
        prompt = [*batch.guidelines, *batch.products[product], *batch.queries[query]]
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits[0, -1]
        probabilities[pair] = logits.double().softmax(-1)[list(LABEL_IDS)].numpy()
    mass = probabilities.sum(axis=1)
    return probabilities / mass[:, None], mass
