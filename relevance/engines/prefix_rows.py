"""A batch of pairs laid out as rows: a product's tokens once, all its queries behind them.

The queries of a row do not see each other, and each starts at the position right behind the
product, so every pair gets the answer it would get alone while nothing shared is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from relevance.engines.interface import TokenBatch

# A row is one square of attention: beyond this, its queries' scores against each other, all masked,
# cost more than starting another row.
_MAX_ROW_TOKENS = 1536
_MAX_PADDING_FRACTION = 0.04


@dataclass(frozen=True)
class Row:
    """Pairs `start` to `stop` of the batch, all of one product."""

    start: int
    stop: int
    num_tokens: int


@dataclass(frozen=True)
class PackedRows:
    """Rows padded on the right to one length L, ready for a forward over B rows."""

    token_ids: np.ndarray
    """int64 (B, L)."""
    positions: np.ndarray
    """int64 (B, L): position behind the shared prefix; equal for equal places of different queries."""
    segments: np.ndarray
    """int32 (B, L): 0 for the product, 1, 2, ... for its queries, -1 for padding."""
    pair_indexes: np.ndarray
    """int64 (n,): the pairs in these rows."""
    label_rows: np.ndarray
    """int64 (n,): row of each pair."""
    label_columns: np.ndarray
    """int64 (n,): place of the last token of each pair, where the label is predicted."""


def prompt_lengths(batch: TokenBatch, *, max_tokens: float = math.inf) -> np.ndarray:
    """Count the tokens of each pair's prompt, int64 (n,).

    Raises:
        ValueError: If a query has no token, for its label would be predicted from its product alone, or
            a prompt is longer than `max_tokens`, the model's limit.
    """
    products = np.fromiter(map(len, batch.products), np.int64, len(batch.products))
    queries = np.fromiter(map(len, batch.queries), np.int64, len(batch.queries))
    empty = np.flatnonzero(queries[batch.query_of_pair] == 0)
    if len(empty):
        raise ValueError(f"query of pair {empty[0]} of the batch has no token: expected one or more per query")
    lengths = len(batch.guidelines) + products[batch.product_of_pair] + queries[batch.query_of_pair]
    if len(lengths) and lengths.max() > max_tokens:
        raise ValueError(
            f"pair {lengths.argmax()} of the batch has a prompt of {lengths.max()} tokens, the model takes "
            f"{max_tokens}: lower prompt.product_token_budget or choose a model with a longer context"
        )
    return lengths


def write_prompt(batch: TokenBatch, pair: int) -> list[int]:
    """Write one pair's prompt out."""
    product, query = batch.products[batch.product_of_pair[pair]], batch.queries[batch.query_of_pair[pair]]
    return [*batch.guidelines, *product, *query]


def product_groups(batch: TokenBatch) -> list[tuple[int, int]]:
    """Find the (start, stop) of each run of pairs with one product."""
    if not len(batch):
        return []
    cuts = np.flatnonzero(np.diff(batch.product_of_pair)) + 1
    return list(pairwise([0, *cuts.tolist(), len(batch)]))


def query_rows(batch: TokenBatch, start: int, stop: int, *, product_tokens: int, max_row_tokens: int) -> list[Row]:
    """Cut the pairs of one product into rows of at most `max_row_tokens`, never cutting a query.

    Args:
        batch: The pairs.
        start: First pair of the product.
        stop: One behind its last pair.
        product_tokens: Tokens that each row starts with.
        max_row_tokens: Tokens; a row of one pair may be longer.
    """
    rows, row_start, num_tokens = [], start, product_tokens
    for pair in range(start, stop):
        query_tokens = len(batch.queries[batch.query_of_pair[pair]])
        if pair > row_start and num_tokens + query_tokens > max_row_tokens:
            rows.append(Row(row_start, pair, num_tokens))
            row_start, num_tokens = pair, product_tokens
        num_tokens += query_tokens
    return [*rows, Row(row_start, stop, num_tokens)]


def plan_rows(batch: TokenBatch, max_forward_tokens: int) -> tuple[list[Row], list[tuple[int, int]]]:
    """Lay out each product as one row; products with too many queries for that are named apart.

    Returns:
        The rows, and the (start, stop) of the crowded products.
    """
    limit = min(max_forward_tokens, _MAX_ROW_TOKENS)
    rows, crowded = [], []
    for start, stop in product_groups(batch):
        product_tokens = len(batch.products[batch.product_of_pair[start]])
        cut = query_rows(batch, start, stop, product_tokens=product_tokens, max_row_tokens=limit)
        if len(cut) == 1:
            rows += cut
        else:
            crowded.append((start, stop))
    return rows, crowded


def plan_forwards(rows: Sequence[Row], max_forward_tokens: int) -> list[list[Row]]:
    """Group rows of similar length into forwards of at most `max_forward_tokens`, padding included.

    The longest come first, so a forward that does not fit in memory fails at once and not after hours.
    """
    forwards: list[list[Row]] = []
    used = 0
    for row in sorted(rows, key=lambda row: -row.num_tokens):
        if forwards and _fits(forwards[-1], used, row, max_forward_tokens):
            forwards[-1].append(row)
            used += row.num_tokens
        else:
            forwards.append([row])
            used = row.num_tokens
    return forwards


def _fits(forward: list[Row], used: int, row: Row, max_forward_tokens: int) -> bool:
    total = forward[0].num_tokens * (len(forward) + 1)
    padding = total - used - row.num_tokens
    # A small forward costs more than some padding does.
    return total <= max_forward_tokens and (padding <= _MAX_PADDING_FRACTION * total or total <= max_forward_tokens / 8)


def pack_rows(batch: TokenBatch, rows: Sequence[Row], *, with_product: bool = True) -> PackedRows:
    """Write the tokens of `rows` into padded arrays.

    Args:
        batch: The pairs.
        rows: Rows of `plan_rows` or `query_rows`.
        with_product: False where the product is in the shared prefix already.
    """
    shape = (len(rows), max(row.num_tokens for row in rows))
    token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments = np.full(shape, -1, np.int32)
    label_rows, label_columns, pair_indexes = [], [], []
    for number, row in enumerate(rows):
        product = batch.products[batch.product_of_pair[row.start]] if with_product else ()
        queries = [batch.queries[query] for query in batch.query_of_pair[row.start : row.stop]]
        parts = [product, *queries]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        ends = np.cumsum(lengths)
        base = np.full(len(parts), len(product))
        base[0] = 0
        token_ids[number, : ends[-1]] = [token for part in parts for token in part]
        positions[number, : ends[-1]] = np.arange(ends[-1]) + np.repeat(base - (ends - lengths), lengths)
        segments[number, : ends[-1]] = np.repeat(np.arange(len(parts)), lengths)
        label_rows.append(np.full(len(queries), number))
        label_columns.append(ends[1:] - 1)
        pair_indexes.append(np.arange(row.start, row.stop))
    return PackedRows(
        token_ids,
        positions,
        segments,
        np.concatenate(pair_indexes),
        np.concatenate(label_rows),
        np.concatenate(label_columns),
    )
