"""The demo's pairs: the promised counts, and the very file that ships."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

import relevance
from relevance.labels import LABELS
from relevance.small_model_recipe.sample import SAMPLE_SCHEMA, SampleSettings, sample_table

SHIPPED = Path(relevance.__file__).with_name("sample.parquet")


def test_counts_are_as_set() -> None:
    table = sample_table(SampleSettings(num_pairs=500, repeated_fraction=0.04, num_bad=6, seed=3))
    keys = Counter(zip(table["query_id"].to_pylist(), table["product_id"].to_pylist(), strict=True))
    assert table.num_rows == 500
    assert sum(count - 1 for count in keys.values()) == 20
    assert table["label"].null_count == 6
    assert set(pc.unique(table["label"].drop_null()).to_pylist()) == set(LABELS)


def test_shipped_file_is_what_the_settings_generate() -> None:
    shipped = pq.read_table(SHIPPED)
    assert shipped.schema.equals(SAMPLE_SCHEMA)
    assert shipped.equals(sample_table())
    assert SHIPPED.stat().st_size < 500_000
