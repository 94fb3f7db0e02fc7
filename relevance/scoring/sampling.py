"""A small day that costs what a large one does: its products have as many pairs as in the whole input.

The pairs of a product may lie in all of a day's files. So products are chosen by the hash of their ids, and their pairs
are counted in the whole input, of which that one column is read; texts are lent to them by rows of a few places.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relevance.pairs.files import Split, read_split
from relevance.pairs.pair import CLEAN_SCHEMA, clean_pairs, hash_ids

_PLACES = 4
_SAMPLE_ROWS = 600
_SPARE = 8
"""Times as many rows are looked for as are wanted: products are of very different sizes."""
_PARALLEL_SPLITS = 8
_TEXT_BYTES = 2**28
"""Text files have no columns to be read alone: past so many bytes only the places' own files are counted in."""
_LARGEST_HASH = 2**64 - 1


@dataclass(frozen=True)
class DaySample:
    """Some of an input's rows, and how many pairs its products have."""

    rows: pa.Table
    """`CLEAN_SCHEMA`: of the places that were read, those of products in `hash_range`."""
    hash_range: tuple[int, int]
    lenders: pa.Table
    """`CLEAN_SCHEMA`: all rows that were read and have no error."""
    sizes: np.ndarray
    """Pairs of each product of a sample of the whole input, int (p,)."""
    whole: bool
    """Whether all of the input was looked at for the sizes."""

    def products(self, *, known_fraction: float) -> pa.Table:
        """Make products of these sizes, less the pairs that are known, out of texts that were read; `CLEAN_SCHEMA`."""
        chooser = np.random.default_rng(0)
        sizes = chooser.binomial(self.sizes, 1 - known_fraction)
        texts, queries = (pc.unique(self.lenders[name]) for name in ("product_text", "query"))
        if not len(texts):
            return CLEAN_SCHEMA.empty_table()
        sizes = sizes[sizes > 0]
        product = np.repeat(np.arange(len(sizes)), sizes)
        pair = np.arange(len(product))
        lent = {
            "query_id": pa.array(pair).cast(pa.string()),
            "product_id": pa.array(product).cast(pa.string()),
            "query": queries.take(pa.array(chooser.permutation(len(queries))[pair % len(queries)])),
            "product_text": texts.take(pa.array(chooser.permutation(len(texts))[product % len(texts)])),
        }
        nothing = {name: pa.nulls(len(pair), CLEAN_SCHEMA.field(name).type) for name in ("error", "truth")}
        return pa.table({**lent, **nothing}, schema=CLEAN_SCHEMA)


def sample_day(splits: Sequence[Split], *, max_text_bytes: int) -> DaySample:
    """Read a little of an input: rows at a few places, and ids.

    Raises:
        ValueError: If a file is damaged, naming it.
    """
    places = [splits[i] for i in np.linspace(0, len(splits) - 1, min(len(splits), _PLACES)).astype(int)]
    tables = [clean_pairs(table, max_text_bytes=max_text_bytes) for split in places for table in _first_rows(split)]
    read = pa.concat_tables(tables).combine_chunks() if tables else CLEAN_SCHEMA.empty_table()
    hashes = hash_ids(read["product_id"].combine_chunks()) if len(read) else np.empty(0, "<u8")
    last = int(np.sort(hashes)[_SAMPLE_ROWS]) if len(hashes) > _SAMPLE_ROWS else _LARGEST_HASH
    counted = _to_be_counted(splits, places)
    return DaySample(
        rows=read.filter(pa.array(hashes <= np.uint64(last))),
        hash_range=(0, last + 1),
        lenders=read.filter(pc.is_null(read["error"])),
        sizes=_count_pairs(counted),
        whole=len(counted) == len(splits),
    )


def _first_rows(split: Split) -> list[pa.Table]:
    return [table for table, _ in zip(read_split(split), range(1), strict=False)]


def _to_be_counted(splits: Sequence[Split], places: Sequence[Split]) -> list[Split]:
    """All parquet; of text files as many as are read in little time, those of the places first."""
    left, found = _TEXT_BYTES, []
    for split in sorted(splits, key=lambda split: split not in places):
        if split.format != "parquet":
            left -= split.size_bytes
        if split.format == "parquet" or split in places or left > 0:
            found.append(split)
    return found


def _count_pairs(splits: Sequence[Split]) -> np.ndarray:
    """Count the pairs of the products whose hashes are the smallest, until there are enough of them."""
    total = max(1, sum(split.estimated_rows for split in splits))
    bound = np.uint64(min(1.0, _SPARE * _SAMPLE_ROWS / total) * (_LARGEST_HASH - 2**12))

    def small_hashes(split: Split) -> np.ndarray:
        tables = read_split(split, only=("product_id",))
        found = [hash_ids(pc.drop_null(table["product_id"]).combine_chunks()) for table in tables]
        return np.concatenate([hashes[hashes <= bound] for hashes in found] or [np.empty(0, "<u8")])

    with ThreadPoolExecutor(_PARALLEL_SPLITS) as pool:
        hashes = np.concatenate(list(pool.map(small_hashes, splits)))
    if not len(hashes):
        return np.array([_SAMPLE_ROWS])  # few products, each larger than any sample
    _, sizes = np.unique(hashes, return_counts=True)
    enough = int(np.searchsorted(np.cumsum(sizes), _SAMPLE_ROWS)) + 1
    return np.minimum(sizes[:enough], _SAMPLE_ROWS)
