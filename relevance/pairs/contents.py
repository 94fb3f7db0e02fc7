"""What a file of pairs says of itself before its rows are read: columns, their types, and how it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.sharded.compression import is_compressed, plain_name
from cluster.sharded.delimited import DelimitedTable
from cluster.sharded.input_files import (
    JSONL_ENDINGS,
    PARQUET_ENDINGS,
    cut_row_groups,
    open_input,
)
from cluster.storage import StoredFile
from relevance.pairs.json_rows import json_names
from relevance.pairs.pair import REQUIRED_COLUMNS, TRUTH_COLUMN
from relevance.pairs.texts import has_text, is_number, text_column

_CSV_ENDINGS = (".csv", ".tsv")
ENDINGS = (*PARQUET_ENDINGS, *_CSV_ENDINGS, *JSONL_ENDINGS)
"""Of the names that are data, with .gz, .bz2 or .xz behind those of texts."""

LABELS_ARE_WORDS = "expected exact, substitute, complement, irrelevant or E, S, C, I, never a number"

_SPLIT_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_USUAL_COMPRESSION = 5


@dataclass(frozen=True)
class Contents:
    """A file as it is read."""

    format: str
    names: list[str]
    """Of its columns; as often as they stand there."""
    schema: pa.Schema | None
    """Of a parquet file."""
    parts: tuple[tuple[tuple[int, ...], int, int], ...]
    """Row groups, rows (estimated in texts) and bytes of each; none in a file without rows."""
    separator: str | None = None

    @property
    def hint(self) -> str:
        """What may explain a missing column."""
        if self.format == "jsonl" and not self.names:
            return "; no line of it is one JSON object"
        return f"; the separator found is {self.separator}" if self.separator else ""


def look_into(file: StoredFile, wanted: Sequence[str]) -> Contents:
    """Read what a file says of itself; of JSON lines also where wanted columns first appear late.

    Raises:
        ValueError: If it cannot be read, or labels are numbers; the file is named.
    """
    name = plain_name(file.url)
    if name.endswith(PARQUET_ENDINGS):
        with open_input(file.url, "parquet") as stream:
            return _parquet(file, pq.ParquetFile(stream))
    kind = "csv" if name.endswith(_CSV_ENDINGS) else "jsonl"
    separator = None
    with open_input(file.url, kind) as stream:
        if kind == "csv":
            table = DelimitedTable(file.url, stream, wanted=REQUIRED_COLUMNS)
            names, separator = table.names, table.separator_name
            empty = not names
        else:
            names = json_names(file.url, stream, wanted)
            stream.seek(0)
            empty = not names and not any(line.strip() for line in stream)
        parts = () if empty else (((), _estimate_rows(stream, file), file.size_bytes),)
    return Contents(kind, names, None, parts, separator)


def _parquet(file: StoredFile, parquet: pq.ParquetFile) -> Contents:
    schema = parquet.schema_arrow
    cuts = cut_row_groups(parquet.metadata, part_bytes=_SPLIT_BYTES)
    parts = tuple((tuple(range(part.start, part.end)), part.num_rows, part.size_bytes) for part in cuts)
    if schema.names.count(TRUTH_COLUMN) == 1 and is_number(schema.field(TRUTH_COLUMN).type):
        labels = text_column(parquet.read(columns=[TRUTH_COLUMN])[TRUTH_COLUMN])
        if labels.null_count < len(labels):  # of nothing but gaps, pandas makes a double
            kind = schema.field(TRUTH_COLUMN).type
            raise ValueError(f"{file.url}: column {TRUTH_COLUMN!r} is {kind}: {LABELS_ARE_WORDS}")
    return Contents("parquet", schema.names, schema, parts if parquet.metadata.num_rows else ())


def refuse_types(url: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    """Stop where values of a column cannot be written as text.

    Raises:
        ValueError: Naming column, type and file.
    """
    for name in columns:
        kind = schema.field(name).type
        if not has_text(kind):
            raise ValueError(f"{url}: column {name!r} is {kind}, which cannot be written as text: write it as a string")


def _estimate_rows(stream: IO[bytes], file: StoredFile) -> int:
    stream.seek(0)
    sample = stream.read(_SAMPLE_BYTES)
    lines = max(1, sample.count(b"\n"))
    if len(sample) < _SAMPLE_BYTES:
        return lines
    size = file.size_bytes * (_USUAL_COMPRESSION if is_compressed(file.url) else 1)
    return max(1, round(lines * size / len(sample)))
