"""Members of the kinds of trouble in ../shared/cases that are not among those files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.commit import Output
from relevance.pairs.files import find_splits, passed_over, read_split
from relevance.pairs.pair import clean_pairs
from relevance.scoring.planning import PARTITION_STAGE, collect_shards, group_splits, read_shard
from tests.builders.pairs_data import make_pairs
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


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array([b"a", None], pa.binary_view()), pa.string()),
        (pa.array([b"a", None], pa.large_binary()), pa.string()),
        (pa.array([b"a", None], pa.binary()).dictionary_encode(), pa.string()),
        (pa.array([["a"], []], pa.list_(pa.string_view())), pa.list_(pa.string())),
        (pa.array([["a"], ["b"]], pa.list_(pa.string_view(), 1)), pa.list_(pa.string(), 1)),
        (pa.array([{"a": "b"}, None], pa.struct([("a", pa.string_view())])), pa.struct([("a", pa.string())])),
        (
            pa.array([[("a", "b")], None], pa.map_(pa.string_view(), pa.string_view())),
            pa.map_(pa.string(), pa.string()),
        ),
    ],
)
def test_views_and_bytes_are_carried_as_what_they_show(tmp_path: Path, column: pa.Array, found: pa.DataType) -> None:
    """DataFusion and Polars write them, and Arrow cannot take rows of them: the day ended, to be run again."""
    pq.write_table(make_pairs(2).append_column("extra", column), tmp_path / "a.parquet")
    (group,) = group_splits(find_splits(str(tmp_path), carry=("extra",)))
    output = Output(str(tmp_path / "out"))
    group.partition(output, num_shards=1, max_text_bytes=1000, carry=("extra",))
    (shard,) = collect_shards(output.manifests(PARTITION_STAGE), 1)
    rows = read_shard(shard, output).take(pa.array([0, 1]))
    assert rows["extra"].type == found
    assert [str(value) for value in rows["extra"].to_pylist()] == [
        str(value) for value in column.cast(found).to_pylist()
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_carried_bytes_that_are_no_text_are_not_written_as_other_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(make_pairs(2).append_column("extra", pa.array([b"a", b"\xff"], kind)), tmp_path / "a.parquet")
    (split,) = find_splits(str(tmp_path), carry=("extra",))
    with pytest.raises(ValueError, match=r"a\.parquet: column 'extra', named in carry, holds values that string, as"):
        list(read_split(split))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2 * 10**18, 0], pa.int64()).cast(pa.timestamp("us")),
        pa.StructArray.from_arrays([pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32())], ["made"]),
        pa.array([0, 1], pa.int64()).cast(pa.timestamp("us", "No/Where")),
    ],
)
def test_a_value_that_has_no_text_is_named_by_file_and_column(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(make_pairs(2).append_column("attributes", column), tmp_path / "a.parquet")
    (split,) = find_splits(str(tmp_path))
    with pytest.raises(
        ValueError, match=r"a\.parquet: column 'attributes' holds .* years 1 to 9999 or of an unknown zone"
    ):
        list(read_split(split))


@pytest.mark.parametrize("between", ["", "\r", ",\n"])
def test_objects_that_are_not_one_a_line_are_said_so(tmp_path: Path, between: str) -> None:
    (tmp_path / "a.jsonl").write_text(between.join([json.dumps(ROW)] * 3) + between, newline="")
    with pytest.raises(
        ValueError, match=r"a\.jsonl: column 'query_id' is missing \(required; no line of it is one JSON obj"
    ):
        find_splits(str(tmp_path))


def test_json_in_parquet_is_text(tmp_path: Path) -> None:
    """As DuckDB writes a column of JSON; older Arrow gave a string of it."""
    pairs = {"query_id": ["q"], "query": ["red"], "product_id": ["p"], "title": ["shoe"]}
    attributes = pa.array(['{"colour": "red"}'], pa.json_())
    pq.write_table(pa.table(pairs | {"attributes": attributes, "seen": attributes}), tmp_path / "a.parquet")
    pq.write_table(pa.table(pairs | {"seen": ["{}"]}), tmp_path / "b.parquet")
    first, second = find_splits(str(tmp_path), carry=("seen",))
    (table,) = read_split(first)
    clean = clean_pairs(table, max_text_bytes=1000, carry=("seen",))
    assert clean["product_text"][0].as_py().endswith("colour: red")
    assert clean["seen"].to_pylist() == ['{"colour": "red"}']
    assert dict(first.carried)["seen"] == dict(second.carried)["seen"] == pa.string()
