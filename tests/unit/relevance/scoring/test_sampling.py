"""What an estimate is made from: products as large as in the whole input, and little of it read."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from relevance.pairs.files import find_splits
from relevance.scoring.sampling import DaySample, sample_day
from tests.builders.pairs_data import make_pairs, write_pairs
from tests.servers.s3 import S3Server


def sample(url: str) -> DaySample:
    return sample_day(find_splits(url), max_text_bytes=100_000)


def pairs_per_product(table: pa.Table) -> list[int]:
    return pc.value_counts(table["product_id"]).field("counts").to_pylist()


def test_products_that_lie_in_all_files_have_all_their_pairs(tmp_path: Path) -> None:
    write_pairs(make_pairs(10_000, pairs_per_product=50), str(tmp_path), num_files=40)
    found = sample(str(tmp_path))
    products = found.products(known_fraction=0.0)
    assert pairs_per_product(products) == [50] * 12
    assert len(set(zip(products["product_text"].to_pylist(), products["query"].to_pylist(), strict=True))) == 600
    assert found.whole


def test_large_products_are_not_taken_more_often_than_they_are(tmp_path: Path) -> None:
    """A place shows large products first; of 2,000 products here one in twenty has 100 pairs, the others one."""
    many = make_pairs(10_000, pairs_per_product=100)
    rows = many.to_pylist() + make_pairs(1_900, pairs_per_product=1, first=50_000).to_pylist()
    order = np.random.default_rng(0).permutation(len(rows))
    write_pairs(pa.Table.from_pylist([rows[i] for i in order]), str(tmp_path), num_files=20)
    sizes = sample(str(tmp_path)).sizes
    assert set(sizes.tolist()) == {1, 100}
    assert (sizes == 100).mean() < 0.2


def test_pairs_that_are_known_are_no_part_of_a_product(tmp_path: Path) -> None:
    write_pairs(make_pairs(2_000, pairs_per_product=50), str(tmp_path))
    half = sample(str(tmp_path)).products(known_fraction=0.5)
    assert len(half) == pytest.approx(300, abs=60)
    assert max(pairs_per_product(half)) < 45


def test_files_of_text_and_an_input_of_a_few_rows_are_sampled_too(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "query", "product_id", "title"])
        writer.writerows([[f"q{i}", f"red clock {i}", f"p{i // 3}", "wall clock"] for i in range(9)])
        writer.writerow(["q9", "", "p9", "wall clock"])
    found = sample(str(tmp_path))
    assert len(found.rows) == 10
    assert found.hash_range == (0, 2**64)
    assert sorted(found.sizes.tolist()) == [1, 3, 3, 3]
    assert len(found.products(known_fraction=0.0)) == 10


def test_of_a_bucket_ids_and_a_few_places_are_fetched(bucket: str, s3_server: S3Server) -> None:
    pairs = make_pairs(1_000, pairs_per_product=50)
    long = pa.array([os.urandom(10_000).hex() for _ in range(len(pairs))])
    write_pairs(pairs.append_column("description", long), bucket, num_files=20)
    splits = find_splits(bucket)
    before = s3_server.num_bytes
    found = sample_day(splits, max_text_bytes=100_000)
    assert set(found.sizes.tolist()) == {50}
    assert s3_server.num_bytes - before < 0.35 * sum(split.size_bytes for split in splits)
