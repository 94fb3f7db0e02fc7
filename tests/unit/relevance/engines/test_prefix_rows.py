from __future__ import annotations

import numpy as np
import pytest

from relevance.engines.interface import TokenBatch
from relevance.engines.prefix_rows import (
    pack_rows,
    plan_forwards,
    plan_rows,
    product_groups,
    prompt_lengths,
    query_rows,
)
from tests.measures.engine_reference import random_batch


def test_a_row_holds_the_product_once_and_every_query_starts_right_behind_it() -> None:
    batch = TokenBatch([9], [[1, 2, 3], [4]], [[5, 6], [7]], np.array([0, 0, 1]), np.array([0, 1, 1]))
    rows, crowded = plan_rows(batch, 1000)
    packed = pack_rows(batch, rows)
    assert crowded == []
    assert packed.token_ids.tolist() == [[1, 2, 3, 5, 6, 7], [4, 7, 0, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 4, 3], [0, 1, 0, 0, 0, 0]]
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, 2], [0, 1, -1, -1, -1, -1]]
    assert packed.label_rows.tolist() == [0, 0, 1]
    assert packed.label_columns.tolist() == [4, 5, 1]
    assert packed.pair_indexes.tolist() == [0, 1, 2]


@pytest.mark.parametrize("limit", [16, 64, 256, 4096])
def test_every_pair_is_in_exactly_one_row_and_no_forward_exceeds_its_budget(limit: int) -> None:
    batch = random_batch(products=30, pairs=200, longest=40, seed=limit)
    rows, crowded = plan_rows(batch, limit)
    cut = [
        row for start, stop in crowded for row in query_rows(batch, start, stop, product_tokens=0, max_row_tokens=limit)
    ]
    pairs = sorted(pair for row in [*rows, *cut] for pair in range(row.start, row.stop))
    assert pairs == list(range(200))
    for forward in plan_forwards(rows, limit) + plan_forwards(cut, limit):
        longest = max(row.num_tokens for row in forward)
        assert longest * len(forward) <= limit or len(forward) == 1


def test_padding_stays_small_in_a_large_batch() -> None:
    batch = random_batch(products=300, pairs=3000, longest=60)
    rows, _ = plan_rows(batch, 1536)
    padded = sum(forward[0].num_tokens * len(forward) for forward in plan_forwards(rows, 1536))
    assert padded <= 1.05 * sum(row.num_tokens for row in rows)


def test_product_groups_are_the_runs_of_one_product() -> None:
    batch = TokenBatch([], [[1], [2], [3]], [[4]], np.array([0, 0, 2]), np.array([0, 0, 0]))
    assert product_groups(batch) == [(0, 2), (2, 3)]


def test_a_query_without_tokens_is_refused() -> None:
    batch = TokenBatch([1], [[2]], [[3], []], np.array([0, 0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="query of pair 1 of the batch has no token"):
        prompt_lengths(batch)
