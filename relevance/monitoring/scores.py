"""A committed day's rows with a label, streamed as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.sharded.input_files import open_input
from relevance.annotation.pairs import key_hashes, scored_day
from relevance.labels import LABELS
from relevance.pairs.pair import hash_ids
from relevance.scoring.shard_steps import SCORE_COLUMNS

_IDS = ("query_id", "product_id")


@dataclass(frozen=True)
class Rows:
    """Some rows of a day; arrays of n."""

    table: pa.Table
    """The columns themselves."""
    pair: np.ndarray
    """Hash of query and product, uint64."""
    query: np.ndarray
    """Hash of the query, uint64."""
    label: np.ndarray
    """Place in `LABELS`, int8."""
    probabilities: np.ndarray
    """float32 (n, 4)."""

    def __len__(self) -> int:
        return len(self.label)


def columns_of(url: str) -> list[str]:
    """Name the columns of a day; empty if it has no files."""
    names = scored_day(url)["files"]
    if not names:
        return []
    with open_input(storage.join_url(url, names[0]), "parquet") as stream:
        return pq.ParquetFile(stream).schema_arrow.names


def stream_rows(url: str, *, more: Sequence[str] = (), part: int = 0, num_parts: int = 1) -> Iterator[Rows]:
    """Stream a day's labelled rows.

    Args:
        url: The day's folder.
        more: Further columns to read.
        part: Of the queries, by their hash: the rows of a query are all in one part.
        num_parts: How many there are.

    Raises:
        ValueError: If no day is committed there.
    """
    columns = [*_IDS, "label", *SCORE_COLUMNS, *more]
    for name in scored_day(url)["files"]:
        with open_input(storage.join_url(url, name), "parquet") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(columns=columns, use_threads=False):
                rows = _rows(pa.table(batch), part, num_parts)
                if len(rows):
                    yield rows


def _rows(table: pa.Table, part: int, num_parts: int) -> Rows:
    label = pc.index_in(table["label"].cast(pa.string()), pa.array(LABELS))
    table = table.set_column(table.column_names.index("label"), "label", label.cast(pa.int8()))
    table = table.filter(pc.is_valid(table["label"])).combine_chunks()
    query = _hash(table["query_id"])
    if num_parts > 1:
        own = query % np.uint64(num_parts) == part
        table, query = table.filter(pa.array(own)).combine_chunks(), query[own]
    probabilities = [np.asarray(pc.fill_null(table[name], 0), np.float32) for name in SCORE_COLUMNS]
    pair = key_hashes(table) if len(table) else np.empty(0, np.uint64)
    return Rows(table, pair, query, np.asarray(table["label"]), np.stack(probabilities, axis=1))


def _hash(column: Any) -> np.ndarray:
    return hash_ids(column.combine_chunks()) if len(column) else np.empty(0, np.uint64)
