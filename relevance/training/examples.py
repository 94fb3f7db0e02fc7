"""What a model is taught: a product with queries, each with the wished share of the four labels, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from relevance.prompting.prompts import PromptEncoder, product_texts, query_texts


@dataclass(frozen=True)
class ProductExample:
    """A product's tokens and its queries' tokens with the wished share of each label, shape (k, 4).

    Shares that add up to more or less than 1 weigh the pair.
    """

    product: Sequence[int]
    queries: Sequence[Sequence[int]]
    targets: np.ndarray


class ExampleSource(Protocol):
    """Epochs of examples. The same number gives the same epoch in every process: a resumed run relies on it."""

    def epoch(self, encoder: PromptEncoder, number: int) -> list[ProductExample]:
        """Draw and tokenise an epoch, counted from 0."""
        ...


def tokenize_products(
    encoder: PromptEncoder,
    products: Sequence[dict[str, str | None]],
    queries: Sequence[Sequence[str]],
    targets: Sequence[np.ndarray],
) -> list[ProductExample]:
    """Tokenise products (title, brand, category) and their queries as scoring does."""
    columns = ("title", "brand", "category")
    table = pa.table({name: pa.array([row.get(name) for row in products], pa.string()) for name in columns})
    return tokenize_texts(encoder, product_texts(table).to_pylist(), queries, targets)


def tokenize_texts(
    encoder: PromptEncoder, products: Sequence[str], queries: Sequence[Sequence[str]], targets: Sequence[np.ndarray]
) -> list[ProductExample]:
    """Tokenise product segments (see `prompts.product_texts`) and their queries; one over the budget is left out."""
    product_ids = encoder.encode_products(products)
    flat = encoder.encode_queries(query_texts(pa.array([q for some in queries for q in some], pa.string())).to_pylist())
    examples, start = [], 0
    for ids, some, target in zip(product_ids, queries, targets, strict=True):
        own = flat[start : start + len(some)]
        start += len(some)
        kept = [i for i, query in enumerate(own) if query is not None]
        if kept:
            examples.append(ProductExample(ids, [own[i] for i in kept], target[kept]))
    return examples
