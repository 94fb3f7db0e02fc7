"""Pairs on storage: which files there are, what is wrong with them, and their rows as Arrow tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.sharded.delimited import DelimitedTable
from cluster.sharded.input_files import (
    cut_input,
    data_files,
    open_input,
    path_values,
    place_of,
    refuse_missing_column,
    refuse_other_spelling,
    refuse_repeated_column,
)
from relevance.pairs.contents import ENDINGS, LABELS_ARE_WORDS, look_into, refuse_types
from relevance.pairs.json_rows import json_rows
from relevance.pairs.pair import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, TRUTH_COLUMN
from relevance.pairs.texts import carried_kind, exact_whole, is_number, is_text, text_column

IMAGE = "image"
"""Kept as it is, and read only where it is asked for: text models do not read it."""
_CONTRACT = (*(name for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name != IMAGE), TRUTH_COLUMN)
_IDS = ("query_id", "product_id")
_READ_ROWS = 16_384
_LINE = re.compile(r".*\bline \d+: ", re.DOTALL)
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


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
    place: str
    """The file's path below the input, by which bad rows are named."""
    path_values: tuple[tuple[str, str | None], ...] = ()
    """Columns that stand in no row but in the file's path."""
    carried: tuple[tuple[str, pa.DataType], ...] = ()
    """Columns that are copied as they are, with the one type that they have in all files."""


def find_splits(url: str, *, carry: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> list[Split]:
    """List the input's files in order and cut them into splits, checking every file's columns and their types.

    Columns of `carry` must be there; those of `optional` are read where they are. What the folders below the input
    say (`market=BR/`) is a column where the file has none of that name.

    Raises:
        ValueError: If there is nothing to read, a file cannot be read, a column is missing or stands there twice, or
            its type cannot be used; file and column named.
    """

    def cut(number: int, file: storage.StoredFile) -> list[Split]:
        return _split_file(number, file, url, carry, optional)

    return _with_one_type(cut_input(url, ENDINGS, cut))


def passed_over(url: str, *, carry: Sequence[str] = ()) -> list[str]:
    """Name what an input holds and no row shows: files of other endings, values in paths that are no column here."""
    files, others = data_files(url, ENDINGS)
    unused = sorted({name for file in files for name in path_values(file.url, url)} - {*_CONTRACT, *carry})
    return others + [f"{name}=… in paths (no column that is read; scoring.carry may name it)" for name in unused]


def _split_file(
    number: int, file: storage.StoredFile, root: str, carry: tuple[str, ...], optional: tuple[str, ...]
) -> list[Split]:
    wanted = tuple(dict.fromkeys((*_CONTRACT, *carry, *optional)))
    contents = look_into(file, wanted)
    if not contents.parts:
        return []  # an empty part, as Spark writes it, may have no columns either
    names = contents.names
    in_path = tuple(item for item in path_values(file.url, root).items() if item[0] in wanted and item[0] not in names)
    found = [*names, *dict(in_path)]
    for column in wanted:
        refuse_other_spelling(file.url, column, found)
    for column in (*REQUIRED_COLUMNS, *carry):
        why = "named in carry" if column in carry else "required"
        refuse_missing_column(file.url, column, found, why=why + contents.hint)
    columns = tuple(name for name in wanted if name in found)
    for column in columns:
        refuse_repeated_column(file.url, column, names)
    kinds = {name: pa.string() for name in columns if name in carry and name not in (*_CONTRACT, *optional)}
    if contents.schema is not None:
        kinds |= {name: carried_kind(contents.schema.field(name).type) for name in kinds if name in names}
        as_text = [name for name in columns if name in names and name not in kinds and name != IMAGE]
        refuse_types(file.url, contents.schema, as_text)
    return [
        Split(
            name=f"{number:06d}-{part:04d}",
            url=file.url,
            format=contents.format,
            row_groups=row_groups,
            columns=columns,
            estimated_rows=rows,
            size_bytes=size,
            version=file.version,
            place=place_of(file.url, root),
            path_values=in_path,
            carried=tuple(kinds.items()),
        )
        for part, (row_groups, rows, size) in enumerate(contents.parts)
    ]


def _with_one_type(splits: list[Split]) -> list[Split]:
    """Give each carried column one type: text, or the wider of two numbers; a column of nothing has any.

    Raises:
        ValueError: If two files disagree, naming both and their types.
    """
    common: dict[str, tuple[pa.DataType, str]] = {}
    for split in splits:
        for name, kind in split.carried:
            known, where = common.setdefault(name, (kind, split.url))
            if (joined := _join_types(known, kind)) is None:
                raise ValueError(
                    f"column {name!r}, named in carry, is {known} in {where} and {kind} in {split.url}: "
                    "write it with one type"
                )
            common[name] = joined, where if joined == known else split.url
    kinds = {name: kind for name, (kind, _) in common.items()}
    return [replace(split, carried=tuple((name, kinds[name]) for name, _ in split.carried)) for split in splits]


def _join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if is_text(one) and is_text(other):
        return pa.string()
    if is_number(one) and is_number(other) and not pa.types.is_boolean(one) and not pa.types.is_boolean(other):
        try:
            fields = [pa.schema([("x", kind)]) for kind in (one, other)]
            return pa.unify_schemas(fields, promote_options="permissive").field("x").type
        except pa.ArrowException:
            return None
    return None


def read_split(split: Split, *, only: tuple[str, ...] = ()) -> Iterator[pa.Table]:
    """Read a split in tables of some thousand rows; memory does not grow with the file.

    Columns are texts or their bytes, but for carried ones and the image. A CSV or JSONL line that cannot be parsed
    becomes a row of nulls with an `error` that names file and line. With `only` these columns of the file are read, of
    parquet without the rest.

    Raises:
        ValueError: If the file is damaged, or holds ids or labels that are none, naming it.
    """
    readers = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}
    columns = only or tuple(name for name in split.columns if name not in dict(split.path_values))
    with open_input(split.url, split.format, read_ahead=not only, version=split.version) as stream:
        for table in readers[split.format](split, columns, stream):
            _refuse_number_labels(split.url, table)
            if "error" in table.column_names:
                where = pc.binary_join_element_wise(split.place, table["error"], " ")
                table = table.set_column(table.column_names.index("error"), "error", where)
            for name, value in () if only else split.path_values:
                text = None if value is None else value.encode()
                table = table.append_column(name, pa.array([text] * len(table), pa.binary()))
            yield table


def error_kind(error: str) -> str:
    """An error of a row without the place that makes it one of a million."""
    return re.sub(r"\bline \d+\b", "a line", _LINE.sub("", error, count=1))


def _read_parquet(split: Split, columns: tuple[str, ...], stream: IO[bytes]) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(stream)
    batches = parquet.iter_batches(
        batch_size=_READ_ROWS, row_groups=list(split.row_groups), columns=list(columns), use_threads=False
    )
    for batch in batches:
        yield pa.table({name: _column(split, name, batch[name]) for name in columns})


def _column(split: Split, name: str, column: pa.Array) -> pa.Array:
    kind = dict(split.carried).get(name)
    if kind is not None:
        return column if column.type == kind else _cast(split, name, column, kind)
    if name == IMAGE:
        return column
    if name in _IDS and pa.types.is_floating(column.type):
        largest = pc.max(pc.abs(column.cast(pa.float64()))).as_py()
        if largest is not None and largest >= exact_whole(column.type):
            raise ValueError(
                f"{split.url}: column {name!r} is {column.type} and holds ids of more digits than that keeps: "
                "write ids as strings"
            )
    try:
        return text_column(column)
    except (OverflowError, ValueError):
        raise ValueError(
            f"{split.url}: column {name!r} holds bytes that are not UTF-8, or a time outside of the years 1 to 9999 or "
            "of an unknown zone: write it as a string"
        ) from None


def _cast(split: Split, name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        raise ValueError(
            f"{split.url}: column {name!r}, named in carry, holds values that {kind}, as which it is copied, cannot: "
            "write it as that type in all files"
        ) from None


def _refuse_number_labels(url: str, table: pa.Table) -> None:
    if TRUTH_COLUMN in table.column_names:
        labels = table[TRUTH_COLUMN].unique()
        if pc.any(pc.match_substring_regex(labels, _NUMBER)).as_py():
            raise ValueError(f"{url}: column {TRUTH_COLUMN!r} holds numbers: {LABELS_ARE_WORDS}")


def _read_csv(split: Split, columns: tuple[str, ...], stream: IO[bytes]) -> Iterator[pa.Table]:
    yield from DelimitedTable(split.url, stream, wanted=REQUIRED_COLUMNS).tables(columns)


def _read_jsonl(split: Split, columns: tuple[str, ...], stream: IO[bytes]) -> Iterator[pa.Table]:
    yield from _tables(columns, json_rows(split.url, stream, columns))


def _tables(columns: tuple[str, ...], rows: Iterator[dict[str, Any]]) -> Iterator[pa.Table]:
    while some := list(islice(rows, _READ_ROWS)):
        table = pa.table({name: pa.array([row.get(name) for row in some], pa.binary()) for name in columns})
        if any("error" in row for row in some):
            table = table.append_column("error", pa.array([row.get("error") for row in some], pa.string()))
        yield table
