"""A day cut into shards through real files: rows conserved, types kept, and what is wrong with rows counted by kind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.commit import Output
from relevance.pairs.files import find_splits
from relevance.scoring import planning
from relevance.scoring.planning import PARTITION_STAGE, collect_shards, group_splits, read_shard

_HEADER = "query_id,query,product_id,title\n"
_LINE = '{"query_id": 1, "query": "a", "product_id": 2, "title": "t"}'


def _partition(folder: Path, *, num_shards: int = 3, carry: tuple[str, ...] = ()) -> tuple[Output, list[pa.Table]]:
    """Partition what lies in `folder/in`; the shards' rows in the order of their numbers."""
    output = Output(str(folder / "out"))
    for group in group_splits(find_splits(str(folder / "in"), carry=carry)):
        group.partition(output, num_shards=num_shards, max_text_bytes=1000, carry=carry)
    shards = collect_shards(output.manifests(PARTITION_STAGE), num_shards)
    return output, [read_shard(shard, output) for shard in shards]


def test_bad_rows_are_named_by_file_and_line_and_counted_by_kind(tmp_path: Path) -> None:
    """Of 30 million rows, 1 % with a comma too many made 300,000 reasons, and equal lines of two files one."""
    bad = "1,a,b,c,2,t\n" * 3
    hidden = '5,"a\n1,a,2,t\n1,a,2,t",6,t\n'
    for market in ("BR", "ID"):
        (tmp_path / "in" / f"market={market}").mkdir(parents=True)
        (tmp_path / "in" / f"market={market}" / "p.csv").write_text(f"{_HEADER}1,a,2,t\n{bad}{hidden}3,,4,t\n")
    (tmp_path / "in" / "line 7: x.jsonl").write_text(f"{_LINE}\n{{x\n{{x\n")
    output, tables = _partition(tmp_path)
    counted: dict[str, int] = {}
    for manifest in output.manifests(PARTITION_STAGE).values():
        for kind, count in manifest["errors"].items():
            counted[kind] = counted.get(kind, 0) + count
    assert counted == {
        "6 columns, expected 4": 6,
        "between quotes from a line on, which may be one unclosed": 6,
        "query: blank": 2,
        "not JSON": 2,
    }
    errors = {error for table in tables for error in table["error"].to_pylist() if error}
    assert {f"market={market}/p.csv line 3: 6 columns, expected 4" for market in ("BR", "ID")} <= errors
    assert "market=ID/p.csv line 7: between quotes from line 6 on, which may be one unclosed" in errors
    assert "line 7: x.jsonl line 2: not JSON" in errors


def test_long_texts_are_sorted_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """131,072 rows of them are more than the 2 GiB that Arrow sorts."""
    monkeypatch.setattr(planning, "_PARTITION_BYTES", 100_000)
    texts = [f"{number} {'x' * 900}" for number in range(16_384 + 5)]
    ids = [str(number) for number in range(len(texts))]
    rows = pa.table({"query_id": ids, "query": ids, "product_id": ids, "title": texts})
    (tmp_path / "in").mkdir()
    pq.write_table(rows, tmp_path / "in" / "a.parquet")
    output, tables = _partition(tmp_path)
    (manifest,) = output.manifests(PARTITION_STAGE).values()
    assert len(manifest["files"]) == 2
    assert sorted(int(one) for table in tables for one in table["query_id"].to_pylist()) == list(range(len(texts)))


def test_a_carried_column_with_a_dictionary_is_not_stored_whole_in_each_shard(tmp_path: Path) -> None:
    """It keeps its type, and each slice has the words that stand in it."""
    ids = [str(number) for number in range(500)]
    urls = [f"https://example.com/{number}" if number else None for number in range(500)]
    carried = pa.array(urls).dictionary_encode().cast(pa.dictionary(pa.int16(), pa.string()))
    rows = pa.table({"query_id": ids, "query": ids, "product_id": ids, "title": ids, "url": carried})
    (tmp_path / "in").mkdir()
    pq.write_table(rows, tmp_path / "in" / "a.parquet")
    tables = _partition(tmp_path, num_shards=100, carry=("url",))[1]
    found = {row["query_id"]: row["url"] for table in tables for row in table.to_pylist()}
    assert found == dict(zip(ids, urls, strict=True))
    assert {table.schema.field("url").type for table in tables} == {carried.type}
    assert sum(len(chunk.dictionary) for table in tables for chunk in table["url"].chunks) == 499


def test_small_files_are_put_together_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 small files each of 200 shards fetched a range: 400,000 requests."""
    monkeypatch.setattr(planning, "_PARTITION_ROWS", 100)
    (tmp_path / "in").mkdir()
    for number in range(40):
        ids = [str(10 * number + row) for row in range(10)]
        rows = pa.table({"query_id": ids, "query": ids, "product_id": ["p"] * 10, "title": ids})
        carried = pa.array(ids).dictionary_encode() if number % 2 and number > 20 else pa.array(ids)
        pq.write_table(rows.append_column("extra", carried), tmp_path / "in" / f"{number:02d}.parquet")
    columns = (*rows.column_names, "extra")
    pq.write_table(pa.table({name: ["x"] * 300 for name in columns}), tmp_path / "in" / "05a.parquet")
    output, tables = _partition(tmp_path, carry=("extra",))
    manifests = output.manifests(PARTITION_STAGE)
    assert [manifests[name]["num_rows"] for name in sorted(manifests)] == [60, 300, 100, 100, 100, 40]
    (found,) = [table for table in tables if table["product_id"].to_pylist().count("p")]
    found = found.filter(pc.equal(found["product_id"], "p"))
    assert [int(one) for one in found["query_id"].to_pylist()] == list(range(400))
    assert found["extra"].to_pylist() == found["query_id"].to_pylist()
