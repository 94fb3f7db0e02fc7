"""Members of the kinds of trouble in ../shared/cases that are not among those files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relevance.pairs.files import find_splits, passed_over, read_split
from tests.unit.relevance.pairs.test_cases import rows_of

HEADER = "query_id,query,product_id,title\n"
ROW = {"query_id": "q1", "query": "lamp", "product_id": "p1", "title": "Lamp"}


def test_two_unclosed_quotes_that_close_each_other_lose_no_line(tmp_path: Path) -> None:
    lines = [f"q{n},lamp,p{n},lamp {n}" for n in range(20)]
    lines[3], lines[9] = 'q3,lamp,p3,"24 inch lamp', 'q9,lamp,p9,lamp 15"'
    (tmp_path / "a.csv").write_text(HEADER + "\n".join(lines))
    rows = rows_of(tmp_path)
    assert len(rows) == 20
    assert [n for n, row in enumerate(rows) if row["error"]] == list(range(3, 10))


@pytest.mark.parametrize("mark", ["\t", ";", "|"])
def test_a_separator_is_found_and_none_is_said(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + HEADER.replace(",", mark) + mark.join(ROW.values()))
    assert [row["query_id"] for row in rows_of(tmp_path)] == ["q1"]
    (tmp_path / "a.csv").write_text("query_id query product_id title\n")
    with pytest.raises(ValueError, match=r"a\.csv: no separator found"):
        find_splits(str(tmp_path))


def test_a_column_that_first_appears_late_is_there(tmp_path: Path) -> None:
    lines = [json.dumps(ROW)] * 300 + [json.dumps({**ROW, "brand": "Ada", "rank": 3.0})]
    (tmp_path / "a.ndjson").write_text("\n".join(lines))
    (split,) = find_splits(str(tmp_path), carry=("rank",))
    assert {"brand", "rank"} <= set(split.columns)
    assert [table["rank"][-1].as_py() for table in read_split(split)] == [b"3"]


def test_folders_give_columns_or_are_listed(tmp_path: Path) -> None:
    (tmp_path / "market=BR/hour=07").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "market=BR/hour=07/a.parquet")
    (tmp_path / "notes.xlsx").touch()
    (split,) = find_splits(str(tmp_path))
    assert next(read_split(split))["market"].to_pylist() == [b"BR"]
    assert passed_over(str(tmp_path)) == [
        "notes.xlsx",
        "hour=… in paths (no column that is read; scoring.carry may name it)",
    ]


def test_types_without_text_are_refused_with_column_type_and_file(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary())])
    table = pa.Table.from_pylist([ROW]).append_column("brand", pa.array([{"bytes": b"x"}], kind))
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'brand' is struct<bytes: binary>, which cannot be"):
        find_splits(str(tmp_path))
