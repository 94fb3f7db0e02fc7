"""The pair: its columns, what makes a row unusable, and the product group and shard it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relevance.labels import LABELS, parse_label
from relevance.pairs.texts import attribute_text, text_column
from relevance.prompting.prompts import product_texts

REQUIRED_COLUMNS = ("query_id", "query", "product_id", "title")
OPTIONAL_COLUMNS = ("brand", "category", "description", "attributes", "market", "image")
TRUTH_COLUMN = "label"
"""A label that the input already has, from people or from a generator: compared with, never read by the model."""

CLEAN_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("product_id", pa.string()),
        ("query", pa.string()),
        ("product_text", pa.string()),
        ("error", pa.string()),
        ("truth", pa.int8()),
    ]
)
"""Rows after `clean_pairs`; carried columns follow. `truth` is an index into `LABELS` or null."""

_TEXT_COLUMNS = ("query", "title", "brand", "category", "description", "attributes")
_LETTER_OR_DIGIT = r"[\p{L}\p{N}]"


def clean_pairs(pairs: pa.Table, *, max_text_bytes: int, carry: Sequence[str] = ()) -> pa.Table:
    """Validate rows and render the product text; no row is lost and none stops the job.

    Args:
        pairs: Any of the contract's columns; text as string or binary, attributes as map, JSON or text.
        max_text_bytes: A longer single field makes the row an error.
        carry: Names of further columns to keep as they are.

    Returns:
        `CLEAN_SCHEMA` and the carried columns, aligned with `pairs`. In a row with an error the texts are empty.
    """
    columns = {name: _as_text(pairs[name]) for name in pairs.column_names if name in _TEXT_COLUMNS}
    if "attributes" in columns:
        text, undecodable = columns["attributes"]
        columns["attributes"] = pa.array([attribute_text(item) for item in text.to_pylist()], pa.string()), undecodable
    ids = {name: _as_text(pairs[name]) for name in ("query_id", "product_id")}
    errors = np.full(len(pairs), None, dtype=object)
    if "error" in pairs.column_names:  # the reader could not parse the line
        _note(errors, pc.is_valid(pairs["error"]), pairs["error"])
    for name, (text, undecodable) in {**ids, **columns}.items():
        _note(errors, undecodable, f"{name}: bytes that are not UTF-8")
        _note(errors, pc.match_substring(text, "\0"), f"{name}: contains a NUL character")
        _note(errors, pc.greater(pc.binary_length(text), max_text_bytes), f"{name}: longer than {max_text_bytes} bytes")
    for name, (text, _) in {**ids, "query": columns["query"], "title": columns["title"]}.items():
        said = pc.utf8_trim_whitespace(pc.fill_null(text, ""))
        # Hive writes what is nothing as \N into text files: as an id it would be everybody's.
        _note(errors, pc.is_in(said, value_set=pa.array(["", "\\N"])), f"{name}: blank")
    for name in ("query", "title"):
        has_word = pc.match_substring_regex(pc.fill_null(columns[name][0], ""), _LETTER_OR_DIGIT)
        _note(errors, pc.invert(has_word), f"{name}: no letter or digit")
    usable = pa.array(np.equal(errors, None))
    texts = {name: pc.if_else(usable, text, "") for name, (text, _) in columns.items()}
    clean = {
        "query_id": ids["query_id"][0],
        "product_id": ids["product_id"][0],
        "query": texts["query"],
        "product_text": pc.if_else(usable, product_texts(pa.table(texts)), ""),
        "error": pa.array(errors, pa.string()),
        "truth": _truth(pairs),
        **{name: _carried(pairs[name]) for name in carry},
    }
    return pa.table({name: _one_chunk(column) for name, column in clean.items()})


def _carried(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text files give bytes, which leave as text; whatever type a parquet column has, it keeps."""
    return _as_text(column)[0] if pa.types.is_binary(column.type) else column


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _note(errors: np.ndarray, where: Any, reason: Any) -> None:
    """Set the reason where it applies and no earlier one stands."""
    mask = np.asarray(pc.fill_null(where, False)) & np.equal(errors, None)
    if mask.any():
        errors[mask] = reason if isinstance(reason, str) else np.asarray(reason.to_pylist(), dtype=object)[mask]


def _as_text(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """A column as string, and where its bytes were no UTF-8 (shown with backslashes then)."""
    column = _one_chunk(column)
    raw = text_column(column).cast(pa.binary())
    try:
        text = raw.cast(pa.string())
    except pa.ArrowInvalid:
        return _decode_each(raw)
    return text, _nowhere(text)


def _nowhere(column: pa.Array) -> pa.Array:
    return pa.array(np.zeros(len(column), dtype=bool))


def _decode_each(raw: pa.Array) -> tuple[pa.Array, pa.Array]:
    texts, bad = [], []
    for item in raw.to_pylist():
        text = None if item is None else item.decode("utf-8", errors="backslashreplace")
        texts.append(text)
        bad.append(text is not None and text.encode("utf-8") != item)
    return pa.array(texts, pa.string()), pa.array(bad, pa.bool_())


def _truth(pairs: pa.Table) -> pa.Array:
    if TRUTH_COLUMN not in pairs.column_names:
        return pa.nulls(len(pairs), pa.int8())
    encoded = _one_chunk(_as_text(pairs[TRUTH_COLUMN])[0].dictionary_encode())
    index = [_label_index(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(index, pa.int8()).take(encoded.indices)


def _label_index(text: str) -> int | None:
    try:
        return LABELS.index(parse_label(text))
    except ValueError:
        return None


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Hash texts to uint64, shape (n,): the same on every machine and in every version; null hashes as empty.

    Bytes hash as the text that they are.
    """
    encoded = pc.fill_null(ids, "").dictionary_encode()
    texts = encoded.dictionary.cast(pa.binary()).to_pylist()
    hashes = np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), dtype="<u8")
    return hashes[np.asarray(encoded.indices)] if len(encoded) else np.empty(0, dtype="<u8")


def shard_range(shard: int, num_shards: int) -> tuple[int, int]:
    """The half-open range of product hashes in [0, 2**64) that a shard holds."""
    return shard * 2**64 // num_shards, (shard + 1) * 2**64 // num_shards


def shards_of(product_ids: pa.Array, num_shards: int) -> np.ndarray:
    """Which shard each row belongs to, int64 (n,): all pairs of a product share one."""
    bounds = np.array([shard_range(shard, num_shards)[1] - 1 for shard in range(num_shards)], dtype=np.uint64)
    return np.searchsorted(bounds, hash_ids(product_ids), side="left")
