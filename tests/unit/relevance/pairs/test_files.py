import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from relevance.annotation.pairs import read_texts
from relevance.pairs.files import IMAGE, find_splits, read_split
from relevance.pairs.pair import clean_pairs
from tests.builders.pairs_data import make_pairs, write_pairs

ROWS = [
    {"query_id": f"q{number}", "query": f"query {number}", "product_id": f"p{number % 3}", "title": f'ti"tle, {number}'}
    for number in range(25)
]


def _read(folder: Path | str, **options: object) -> list[dict]:
    tables = [table for split in find_splits(str(folder), **options) for table in read_split(split)]
    text = {bytes: lambda value: value.decode(), str: str, type(None): lambda value: None}
    rows = [row for table in tables for row in table.to_pylist()]
    return [{name: text[type(value)](value) for name, value in row.items()} for row in rows]


def _write_csv(path: Path, rows: list[dict]) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, rows: list[dict]) -> None:
    write = {".csv": _write_csv, ".jsonl": _write_jsonl}
    write[".parquet"] = lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path)
    write[path.suffix](path, rows)


def test_three_formats_give_the_same_rows_in_order(tmp_path: Path) -> None:
    for name in ("parquet", "csv", "jsonl"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "parquet" / "a.parquet", row_group_size=10)
    _write_csv(tmp_path / "csv" / "a.csv", ROWS)
    _write_jsonl(tmp_path / "jsonl" / "a.jsonl", ROWS)
    assert _read(tmp_path / "parquet") == _read(tmp_path / "csv") == ROWS
    assert [{name: row[name] for name in ROWS[0]} for row in _read(tmp_path / "jsonl")] == ROWS


def test_files_that_readers_pass_over_are_no_input(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_staging").mkdir()
    (tmp_path / "_staging" / "b.parquet").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("x")
    assert [Path(split.url).name for split in find_splits(str(tmp_path))] == ["a.parquet"]


def test_an_input_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.parquet, .*\.csv, .*\.jsonl, .* file there"):
        find_splits(str(tmp_path))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_missing_column_names_column_and_file(tmp_path: Path, suffix: str) -> None:
    rows = [{name: value for name, value in row.items() if name != "title"} for row in ROWS]
    _write(tmp_path / f"a.{suffix}", rows)
    with pytest.raises(
        ValueError, match=rf"a\.{suffix}: column 'title' is missing \(required.*\); found query_id, query"
    ):
        find_splits(str(tmp_path))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("name", "spelt"), [("brand", "Brand"), ("title", "TITLE"), ("rank", " Rank")])
def test_a_column_that_is_spelt_otherwise_is_not_passed_over(
    tmp_path: Path, suffix: str, name: str, spelt: str
) -> None:
    """The label would be of a pair without it."""
    row = {**ROWS[0], "brand": "Bats", "rank": "3"}
    _write(tmp_path / f"a.{suffix}", [{spelt if column == name else column: value for column, value in row.items()}])
    with pytest.raises(ValueError, match=rf"a\.{suffix}: column '.*' stands there, and '{name}' is what is read"):
        find_splits(str(tmp_path), carry=("rank",))
    _write(tmp_path / f"a.{suffix}", [{**row, spelt: "another"}])
    assert find_splits(str(tmp_path), carry=("rank",))


def test_a_carried_column_must_be_there(tmp_path: Path) -> None:
    _write_csv(tmp_path / "a.csv", ROWS)
    with pytest.raises(ValueError, match=r"column 'rank' is missing \(named in carry; the separator found is comma\)"):
        find_splits(str(tmp_path), carry=("rank",))


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1 then nothing"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.parquet: not a readable parquet file"):
        find_splits(str(tmp_path))


@pytest.mark.parametrize(("kind", "first"), [(pa.float16(), 2**11), (pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_ids_that_a_number_cannot_tell_apart_are_refused(tmp_path: Path, kind: pa.DataType, first: int) -> None:
    for name, ids in {"fine": [first - 2, first - 1], "same": [first, first + 1]}.items():
        column = pa.array([np.float64(one) for one in ids]).cast(kind, safe=False)
        (tmp_path / name).mkdir()
        pq.write_table(make_pairs(2).set_column(2, "product_id", column), tmp_path / name / "a.parquet")
    assert [row["product_id"] for row in _read(tmp_path / "fine")] == [str(first - 2), str(first - 1)]
    with pytest.raises(ValueError, match=r"column 'product_id' is .* holds ids of more digits than that keeps"):
        _read(tmp_path / "same")


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv.GZ", ".jsonl.bz2", ".json.xz"])
def test_a_compressed_file_without_a_byte_is_an_upload_that_broke_off(tmp_path: Path, ending: str) -> None:
    write_pairs(make_pairs(3), str(tmp_path))
    (tmp_path / f"late{ending}").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"late\{ending}: 0 bytes, .*: upload it again, or remove it"):
        find_splits(str(tmp_path))


_COMPRESSED = [".jsonl.zst", ".csv.snappy", ".csv.gzip", ".tsv.Z", ".JSON.ZIP", ".csv.gz.zst", ".parquet.gz", ".pq.zst"]


@pytest.mark.parametrize("ending", _COMPRESSED)
def test_data_in_a_compression_that_is_not_read_is_not_passed_over(tmp_path: Path, ending: str) -> None:
    write_pairs(make_pairs(3), str(tmp_path))
    (tmp_path / f"late{ending}").write_bytes(b"whatever")
    (tmp_path / "readme.zip").write_bytes(b"no data")
    with pytest.raises(ValueError, match=rf"late\{ending}: .*compressed as .*: (write it as \.gz|unpack it)"):
        find_splits(str(tmp_path))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
@pytest.mark.parametrize(("pack", "kind"), [(gzip.compress, "gzip"), (lzma.compress, "xz")])
def test_text_that_is_compressed_and_not_called_so_is_named(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], kind: str
) -> None:
    """As where an object has `Content-Encoding: gzip`, or an export's name was given without the ending."""
    (tmp_path / name).write_bytes(pack(b"query_id,query,product_id,title\nq,red,p,shoe\n"))
    with pytest.raises(ValueError, match=rf"{name}: compressed \({kind}\), and its name does not say so: unpack it"):
        find_splits(str(tmp_path))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_a_parquet_file_that_is_called_text_is_named_and_nothing_of_it_shown(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: parquet, though its name says text: let it end with \.parquet$"):
        find_splits(str(tmp_path))


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.parquet: not a readable parquet file .*: replace or remove it"):
        find_splits(str(tmp_path))


def test_damage_inside_a_parquet_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 50), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    (split,) = find_splits(str(tmp_path))
    with pytest.raises(ValueError, match=r"bad\.parquet: not a readable parquet file"):
        list(read_split(split))


def test_large_parquet_files_are_cut_at_row_groups(tmp_path: Path) -> None:
    import os

    rows = [{**row, "title": os.urandom(50_000).hex()} for row in ROWS * 40]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=200)
    splits = find_splits(str(tmp_path))
    assert len(splits) > 1
    assert [group for split in splits for group in split.row_groups] == [0, 1, 2, 3, 4]
    assert sum(split.estimated_rows for split in splits) == 1000


def test_lines_that_cannot_be_parsed_become_rows_with_an_error(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]).encode(), b"{broken", b"[1]", b'{"query_id": "\xff"}', json.dumps(ROWS[1]).encode()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    errors = [row["error"] for row in _read(tmp_path)]
    said = ["line 2: not JSON", "line 3: not a JSON object", "line 4: bytes that are not UTF-8"]
    assert errors == [None, *(f"a.jsonl {one}" for one in said), None]


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("a.csv", "q1,p1,shoe,Shoe,\\N,\nq1,\\N,shoe,Shoe,Bats,red\n", None),
        ("a.tsv", 'q1\tp1\tshoe\tShoe\t"\\N"\t\nq1\t\\N\tshoe\tShoe\tBats\tred\n', None),
        ("a.jsonl", None, "\\N"),
    ],
)
def test_what_is_nothing_in_a_text_file_is_not_read_by_the_model(
    tmp_path: Path, name: str, content: str | None, shown: str | None
) -> None:
    """As Hive and PostgreSQL write it into text files; in a line of JSON nobody does, so there it is a text."""
    names = ["query_id", "product_id", "query", "title", "brand", "attributes"]
    mark = "\t" if name.endswith("tsv") else ","
    if content is None:
        rows = [("q1", "p1", "shoe", "Shoe", "\\N", ""), ("q1", "\\N", "shoe", "Shoe", "Bats", "red")]
        (tmp_path / name).write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        (tmp_path / name).write_text(mark.join(names) + "\n" + content)
    (split,) = find_splits(str(tmp_path), carry=("brand",))
    (table,) = read_split(split)
    good, bad = clean_pairs(table, max_text_bytes=1000, carry=("brand",)).to_pylist()
    assert ("Brand: \\N" in good["product_text"]) == (shown is not None)
    assert (good["error"], good["brand"]) == (None, shown)
    assert bad["error"] == "product_id: blank"


def test_csv_lines_of_another_width_become_rows_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "query_id,query,product_id,title\nq1,a,p1,t\nq2,a,p1\nq3,a,p1,t,more\nquery_id,query,product_id,title\n"
    )
    assert [row.get("error") for row in _read(tmp_path)] == [
        None,
        "a.csv line 3: 3 columns, expected 4",
        "a.csv line 4: 5 columns, expected 4",
        "a.csv line 5: the header again, as where files were put together",
    ]


def test_an_image_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Megabytes a row that text models do not read."""
    rows = [{**row, "image": {"path": "a.jpg", "bytes": b"x"}} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (split,), (asked,) = find_splits(str(tmp_path)), find_splits(str(tmp_path), optional=(IMAGE,))
    assert "image" not in next(read_split(split)).column_names
    assert next(read_split(asked))["image"][0].as_py()["path"] == "a.jpg"
    assert read_texts(str(tmp_path), {("q0", "p0")})["q0", "p0"]["image"] == "a.jpg"


@pytest.mark.parametrize("ending", [".csv.bz2", ".csv.xz", ".csv.gz"])
def test_a_damaged_stream_behind_a_whole_one_is_damage(tmp_path: Path, ending: str) -> None:
    """Parallel compressors write many streams; Python takes one with a damaged head for the end of the file."""
    compress = {".csv.bz2": bz2.compress, ".csv.xz": lzma.compress, ".csv.gz": gzip.compress}[ending]
    first, second = compress(b"query_id,query,product_id,title\n1,a,1,t\n"), compress(b"2,b,2,u\n" * 1000)
    (tmp_path / f"a{ending}").write_bytes(first + second)
    assert len(_read(tmp_path)) == 1001
    (tmp_path / f"a{ending}").write_bytes(first + b"\xff\xff" + second[2:])
    with pytest.raises(ValueError, match=rf"a\{ending}: not a readable csv file .*: replace or remove it"):
        _read(tmp_path)


def test_keys_that_differ_by_a_slash_are_two_files(bucket: str) -> None:
    """A writer that was given a folder with a slash at its end adds another."""
    for url, query in ((f"{bucket}/day/a.csv", "one"), (f"{bucket}/day//a.csv", "two")):
        storage.write_bytes(url, f"query_id,query,product_id,title\n1,{query},1,t\n2,,\n".encode())
    rows = _read(f"{bucket}/day")
    assert sorted(row["query"] for row in rows if row["query"]) == ["one", "two"]
    assert sorted(row["error"] for row in rows if row["error"])[0].startswith("/a.csv line 3: ")
