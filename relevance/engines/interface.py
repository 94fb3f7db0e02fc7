"""What every label engine takes and gives; everything about devices, caches and batching is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class TokenBatch:
    """Tokenised pairs that share the guidelines, grouped by product.

    The prompt of pair i is `guidelines + products[product_of_pair[i]] + queries[query_of_pair[i]]`;
    the label is the next token. Each distinct product and query is held once.
    """

    guidelines: Sequence[int]
    products: Sequence[Sequence[int]]
    queries: Sequence[Sequence[int]]
    product_of_pair: np.ndarray
    """int32 (n,), never decreasing: the pairs of a product are neighbours."""
    query_of_pair: np.ndarray
    """int32 (n,)."""

    def __len__(self) -> int:
        return len(self.product_of_pair)


@dataclass(frozen=True)
class LabelScores:
    """Scores of n pairs, in the order of the batch."""

    logprobs: np.ndarray
    """float32 (n, 4): log-probability of each label among the four, in the order of `LABELS`."""
    label_mass: np.ndarray | None
    """float32 (n,): probability that the model gave to the four label tokens together; None: it was not asked for."""
    prompt_tokens: int
    """Tokens of all prompts, written out."""
    computed_tokens: int
    """Tokens that went through the model; the rest came from a shared prefix. Padding counts as computed."""
    shared_prefix: bool = True
    """False: the model is none with which the engine can share prefixes, and every prompt was computed whole."""


class Engine(Protocol):
    """Gives labels to tokenised pairs. A failure that is not of a single pair is raised and kills the actor."""

    def label_logprobs(self, batch: TokenBatch) -> LabelScores: ...
