"""docs/scale.md: its table of what breaks first follows from how the job cuts its input."""

from __future__ import annotations

import math
import re

import pytest

from relevance.scoring.planning import _PARTITION_ROWS
from relevance.scoring.run import ScoringSettings
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "scale.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| ([\d,]+)(?:, `scoring.shard_rows=([\d_]+)`)? \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \| .* \|"
    r" \$([\d.]+) \|$",
    PAGE,
    re.MULTILINE,
)


def test_the_table_is_read() -> None:
    assert len(ROWS) == 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1] or 'default'}")
def test_a_row_follows_from_the_settings(row: tuple[str, ...]) -> None:
    pairs, shard_rows, files, shards, ranges, rows_in_one, usd = row
    num_pairs = int(pairs.replace(",", ""))
    num_shards = num_pairs // (int(shard_rows or 0) or ScoringSettings().shard_rows)
    num_files = math.ceil(num_pairs / _PARTITION_ROWS)
    assert (files, shards) == (f"{num_files:,}", f"{num_shards:,}")
    assert ranges == f"{num_files * num_shards:,}"
    assert int(rows_in_one) == round(num_pairs / (num_files * num_shards))
    assert float(usd) == pytest.approx(num_files * num_shards * 0.0004 / 1000, abs=0.006)
