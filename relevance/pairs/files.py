"""Pairs on storage: which files there are, what is wrong with them, and their rows as Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from cluster import storage
from cluster.sharded.input_files import cut_input, cut_row_groups, open_input, refuse_missing_column
from relevance.pairs.pair import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, TRUTH_COLUMN

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
_SPLIT_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_READ_ROWS = 16_384


@dataclass(frozen=True)
class Split:
    """A part of one input file that one task reads: some row groups of a parquet file, or a whole other file."""

    name: str
    url: str
    format: str
    row_groups: tuple[int, ...]
    columns: tuple[str, ...]
    estimated_rows: int
    size_bytes: int
    version: str


def find_splits(url: str, *, carry: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> list[Split]:
    """List the input's files in order and cut them into splits, checking every file's columns.

    Columns of `carry` must be there; those of `optional` are read where they are.

    Raises:
        ValueError: If there is nothing to read, a file cannot be read, or a column is missing; file and column named.
    """
    return cut_input(url, tuple(_FORMATS), lambda number, file: _split_file(number, file, carry, optional))


def _format(url: str) -> str:
    return next(name for suffix, name in _FORMATS.items() if url.endswith(suffix))


def _split_file(
    number: int, file: storage.StoredFile, carry: tuple[str, ...], optional: tuple[str, ...]
) -> list[Split]:
    file_format = _format(file.url)
    with open_input(file.url, file_format) as stream:
        if file_format == "parquet":
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            cuts = cut_row_groups(parquet.metadata, part_bytes=_SPLIT_BYTES)
            parts = [(tuple(range(part.start, part.end)), part.num_rows, part.size_bytes) for part in cuts]
        else:
            names = _csv_names(stream) if file_format == "csv" else _jsonl_names(stream)
            parts = [((), _estimate_rows(stream, file.size_bytes), file.size_bytes)]
    columns = _needed_columns(file.url, names, carry, optional)
    return [
        Split(f"{number:06d}-{part:04d}", file.url, file_format, row_groups, columns, rows, size, file.version)
        for part, (row_groups, rows, size) in enumerate(parts)
    ]


def _csv_names(stream: IO[bytes]) -> list[str]:
    header = stream.readline()
    return pacsv.read_csv(pa.BufferReader(header or b"\n")).column_names if header.strip() else []


def _jsonl_names(stream: IO[bytes]) -> list[str]:
    names: dict[str, None] = {}
    for _, line in zip(range(100), stream, strict=False):
        try:
            names.update(dict.fromkeys(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return list(names)


def _estimate_rows(stream: IO[bytes], size_bytes: int) -> int:
    stream.seek(0)
    sample = stream.read(_SAMPLE_BYTES)
    return max(1, round(sample.count(b"\n") * size_bytes / max(1, len(sample))))


def _needed_columns(url: str, names: list[str], carry: tuple[str, ...], optional: tuple[str, ...]) -> tuple[str, ...]:
    for column in (*REQUIRED_COLUMNS, *carry):
        refuse_missing_column(url, column, names, why="named in carry" if column in carry else "required")
    wanted = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, TRUTH_COLUMN, *carry, *optional)
    return tuple(name for name in dict.fromkeys(wanted) if name in names)


def read_split(split: Split) -> Iterator[pa.Table]:
    """Read a split in tables of some thousand rows; memory does not grow with the file.

    A CSV or JSONL line that cannot be parsed becomes a row of nulls with an `error`.

    Raises:
        ValueError: If the file is damaged, naming it.
    """
    readers = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}
    with open_input(split.url, split.format) as stream:
        yield from readers[split.format](split, stream)


def _read_parquet(split: Split, stream: IO[bytes]) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(stream)
    batches = parquet.iter_batches(
        batch_size=_READ_ROWS, row_groups=list(split.row_groups), columns=list(split.columns), use_threads=False
    )
    for batch in batches:
        yield pa.table(batch)


def _read_csv(split: Split, stream: IO[bytes]) -> Iterator[pa.Table]:
    unparsed: list[str] = []

    def keep(row: pacsv.InvalidRow) -> str:
        unparsed.append(f"line with {row.actual_columns} columns, expected {row.expected_columns}")
        return "skip"

    reader = pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(block_size=4 * 2**20, use_threads=False),
        parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pacsv.ConvertOptions(
            include_columns=list(split.columns),
            column_types=dict.fromkeys(split.columns, pa.binary()),
            check_utf8=False,
        ),
    )
    for batch in reader:
        yield pa.table(batch)
    if unparsed:
        yield _unparsed_rows(split.columns, unparsed)


def _read_jsonl(split: Split, stream: IO[bytes]) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(stream, start=1):
        if line.strip():
            rows.append(_parse_line(split, line, number))
        if len(rows) == _READ_ROWS:
            yield _rows_table(split.columns, rows)
            rows = []
    if rows:
        yield _rows_table(split.columns, rows)


def _parse_line(split: Split, line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            return {"error": f"line {number}: not a JSON object"}
        return {name: _json_text(row.get(name)) for name in split.columns}
    except UnicodeDecodeError:
        return {"error": f"line {number}: bytes that are not UTF-8"}
    except ValueError:
        return {"error": f"line {number}: not JSON"}


def _json_text(value: Any) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", errors="surrogatepass")


def _rows_table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> pa.Table:
    table = {name: pa.array([row.get(name) for row in rows], pa.binary()) for name in columns}
    return pa.table({**table, "error": pa.array([row.get("error") for row in rows], pa.string())})


def _unparsed_rows(columns: tuple[str, ...], errors: list[str]) -> pa.Table:
    return _rows_table(columns, [{"error": error} for error in errors])
