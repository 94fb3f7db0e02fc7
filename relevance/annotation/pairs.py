"""The rows that annotation starts from: scored pairs, their texts, and gold pairs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import SUCCESS, read_job_manifest
from cluster.sharded.input_files import open_input
from relevance.annotation.annotation import PairKey, show_pair
from relevance.labels import LABELS
from relevance.pairs.files import IMAGE, find_splits, read_split
from relevance.pairs.pair import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, clean_pairs, hash_ids
from relevance.pairs.texts import value_text
from relevance.scoring.shard_steps import SCORE_COLUMNS

TEXT_COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
_SCORE_READ = ("query_id", "product_id", "label", *SCORE_COLUMNS)
_MAX_TEXT_BYTES = 2**30
"""What scoring accepted is accepted here."""
_TWO_TEXTS = (
    "stands there with two texts: ids have to name one pair; put the market in front where each market counts its own"
)


def scored_day(url: str) -> dict[str, Any]:
    """Read the manifest of a finished scoring run.

    Raises:
        RuntimeError: If the folder holds none: it may be being scored yet.
    """
    manifest = read_job_manifest(url)
    if manifest is None:
        raise RuntimeError(
            f"{url}: no {SUCCESS} there: run again when jobs.relevance_score is done with it, or give the folder of a "
            "finished run (a day's partition such as …/ds=2026-11-22)"
        )
    return manifest


def read_scores(url: str) -> Iterator[pa.Table]:
    """Stream a day's scored rows that have a label: query_id, product_id, label (index, int8), p_*; one batch each."""
    for name in scored_day(url)["files"]:
        with open_input(storage.join_url(url, name), "parquet") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(columns=list(_SCORE_READ), use_threads=False):
                table = pa.table(batch)
                label = pc.index_in(table["label"].cast(pa.string()), pa.array(LABELS)).cast(pa.int8())
                table = table.set_column(table.column_names.index("label"), "label", label)
                numbers = [pc.fill_null(pc.is_finite(table[name]), False) for name in SCORE_COLUMNS]
                yield table.filter(reduce(pc.and_, [pc.is_valid(label), *numbers])).combine_chunks()


def key_hashes(pairs: pa.Table) -> np.ndarray:
    """Hash each row's key to uint64, (n,)."""
    query, product = (hash_ids(pairs[name].combine_chunks()) for name in ("query_id", "product_id"))
    return mix_hashes(query ^ mix_hashes(product))


def mix_hashes(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values evenly, (n,) (the finaliser of splitmix64)."""
    values = values.astype(np.uint64, copy=True)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def read_texts(url: str, keys: set[PairKey]) -> dict[PairKey, dict[str, str | None]]:
    """Find the texts of some pairs in a day's input, streaming; of a repeated key the first row that can be used.

    Raises:
        ValueError: If a pair is not there, or stands there with two texts, naming the first.
    """
    wanted = key_hashes(_key_table(keys))
    found: dict[PairKey, dict[str, str | None]] = {}
    judged: dict[PairKey, tuple[str, str]] = {}
    for table in _read_all(url):
        clean = clean_pairs(table, max_text_bytes=_MAX_TEXT_BYTES)
        usable = pc.is_null(clean["error"]).to_numpy()  # a row that got no label is not what was drawn
        for row in np.flatnonzero(np.isin(key_hashes(clean), wanted) & usable):
            key = clean["query_id"][row].as_py(), clean["product_id"][row].as_py()
            if key not in keys:
                continue
            texts = clean["query"][row].as_py(), clean["product_text"][row].as_py()
            if judged.setdefault(key, texts) != texts:
                raise ValueError(f"{url}: pair {show_pair(key)} {_TWO_TEXTS}")
            if key not in found:
                found[key] = _texts(table, int(row), key)
    missing = sorted(keys - found.keys())
    if missing:
        raise ValueError(
            f"{url}: {len(missing)} scored pairs are not in this input, the first {show_pair(missing[0])}: give in "
            "`pairs` the input that was scored"
        )
    return found


def read_gold(url: str) -> dict[PairKey, tuple[dict[str, str | None], str]]:
    """Read pairs whose label is settled (contract: labelled pairs), as {key: (texts, label)}.

    Raises:
        ValueError: If a row cannot be used or has none of the four labels, or a key stands there with two labels or
            two texts.
    """
    gold: dict[PairKey, tuple[dict[str, str | None], str]] = {}
    for table in _read_all(url):
        clean = clean_pairs(table, max_text_bytes=_MAX_TEXT_BYTES)
        for row, (query_id, product_id, error, truth) in enumerate(_columns(clean)):
            key = query_id or "", product_id or ""
            if error is not None or truth is None:
                reason = error or "expected label: exact, substitute, complement, irrelevant or E, S, C, I"
                raise ValueError(f"{url}: gold pair {show_pair(key)}: {reason}")
            if key in gold and gold[key][1] != LABELS[truth]:
                raise ValueError(f"{url}: gold pair {show_pair(key)} stands there with two labels: keep one")
            texts = _texts(table, row, key)
            if key in gold and gold[key][0] != texts:
                raise ValueError(f"{url}: gold pair {show_pair(key)} {_TWO_TEXTS}")
            gold[key] = texts, LABELS[truth]
    return gold


def _columns(clean: pa.Table) -> Iterator[tuple[Any, ...]]:
    names = ("query_id", "product_id", "error", "truth")
    return zip(*(clean[name].to_pylist() for name in names), strict=True)


def _read_all(url: str) -> Iterator[pa.Table]:
    for split in find_splits(url, optional=(IMAGE,)):
        yield from read_split(split)


def _key_table(keys: set[PairKey]) -> pa.Table:
    ordered = sorted(keys)
    columns = {name: pa.array([key[i] for key in ordered], pa.string()) for i, name in enumerate(REQUIRED_COLUMNS[::2])}
    return pa.table(columns)


def _texts(table: pa.Table, row: int, key: PairKey) -> dict[str, str | None]:
    values = {name: _text(table[name][row].as_py()) for name in TEXT_COLUMNS if name in table.column_names}
    query_id, product_id = key
    return dict.fromkeys(TEXT_COLUMNS) | values | {"query_id": query_id, "product_id": product_id}


def _text(value: Any) -> str | None:
    """Nested values leave as JSON, which the contract accepts too; of an image that is bytes, its path or nothing."""
    if isinstance(value, dict) and any(isinstance(item, bytes) for item in value.values()):
        value = value.get("path")
    if isinstance(value, bytes):
        return None if b"\0" in value else value.decode("utf-8", errors="replace")
    try:
        return value_text(value)
    except TypeError:
        return None
