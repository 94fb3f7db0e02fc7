"""A shard of pairs becomes a shard of labels, in three steps that know nothing of Ray.

`prepare_shard` decides row by row what there is to do (compute, reuse, repeat, or nothing) and tokenises,
`score_block` runs the engine on what is left, `finish_block` gives every row of the input its row of output.
Between the steps a shard is one Arrow table ("block"), ordered so that pairs that share a product are neighbours.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relevance.engines.interface import Engine, TokenBatch
from relevance.labels import LABELS
from relevance.pairs.files import error_kind
from relevance.prompting.prompts import PromptEncoder, query_texts
from relevance.scoring.label_store import content_digests

COMPUTE, REUSED, REPEATED, FAILED, POISONED = range(5)
"""What becomes of a row: the model labels it, the label of the same texts is known (from the label store or another
row), an earlier row of the same key has its label, it is unusable, or the engine died on its shard again and again."""

NOT_FINITE = "model: its probabilities are not finite"
"""The error of a row whose numbers are none: overflow in 16 bits, damaged weights."""

SCORE_COLUMNS = tuple(f"p_{label}" for label in LABELS)
HISTOGRAM_BINS = 20
_TOKENS = pa.list_(pa.int32())
_TEXTS = ("query", "product_text")
_LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
"""Types whose arrays hold 2 GiB at most, and those that hold the same without an end."""
_WORK_COLUMNS = ("product_tokens", "query_tokens")

OF_ACTOR = ("waiting_seconds", "gpu_busy_seconds", "gpu_seconds")
"""What the actor around the engine measures of a shard: `score_block` knows nothing of what was before it."""

_USED = ("prompt_tokens", "computed_tokens", "engine_seconds", "unshared_pairs", *OF_ACTOR)
_OUTPUT = ("query_id", "product_id", "label", *SCORE_COLUMNS, "label_mass", "model_version", "prompt_version", "error")
RESERVED_COLUMNS = frozenset(
    {
        *_OUTPUT,
        *_WORK_COLUMNS,
        *_USED,
        "query",
        "product_text",
        "truth",
        "origin",
        "source",
        "content",
        "shard",
        "ignored",
        "conflicting",
    }
)
"""Names that a carried column may not have."""

Lookup = Callable[[pa.Array], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Digests (n,) -> found bool (n,), probabilities float32 (n, 4), label mass float32 (n,), NaN where it was not asked
for. Not found although its probabilities are NaN: there is an entry, and it is no label."""


def know_nothing(digests: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answer as a label store without entries."""
    n = len(digests)
    return np.zeros(n, bool), np.zeros((n, len(LABELS)), np.float32), np.zeros(n, np.float32)


def prepare_shard(rows: pa.Table, encoder: PromptEncoder, lookup: Lookup) -> pa.Table:
    """Order a shard's rows, look up what is known, and tokenise the rest.

    Args:
        rows: `pairs.CLEAN_SCHEMA` and carried columns, in the order of the input.
        encoder: Turns the texts into token ids.
        lookup: The label store's answer for content digests.

    Returns:
        A block: the input's columns without texts, and `origin` (see `COMPUTE` …), `source` (the row whose
        scores this row takes), `content`, probabilities, `label_mass`, `ignored` (what is stored of it is no
        label), `conflicting` (the first row of a pair that has another pair's ids), and the tokens.
        `product_tokens` is set on the first computed row of each product, `query_tokens` on every computed row.
    """
    order = pc.sort_indices(rows, [(name, "ascending") for name in ("product_id", "product_text", "query")])
    rows = _in_order(rows, order)
    digests = content_digests(rows["product_text"], rows["query"])
    source, conflicting = _first_of_pair(rows, digests)
    origin = np.where(source == np.arange(len(rows)), COMPUTE, REPEATED).astype(np.int8)
    origin[np.asarray(pc.is_valid(rows["error"]))] = FAILED
    probabilities, mass = np.zeros((len(rows), 4), np.float32), np.zeros(len(rows), np.float32)
    wanted = np.flatnonzero(origin == COMPUTE)
    found, probabilities[wanted], mass[wanted] = lookup(digests.take(pa.array(wanted)))
    origin[wanted[found]] = REUSED
    ignored = np.isnan(probabilities).any(axis=1)
    probabilities[ignored] = 0
    _share_equal_content(origin, source, digests)

    error = np.asarray(rows["error"].to_pylist(), dtype=object)
    product_tokens, query_tokens = _tokenise(rows, encoder, origin, error)
    kept = {name: rows[name] for name in rows.column_names if name not in (*_TEXTS, "error")}
    return pa.table(
        {
            **kept,
            "error": pa.array(error, pa.string()),
            "origin": origin,
            "source": source,
            "content": digests,
            **{name: probabilities[:, column] for column, name in enumerate(SCORE_COLUMNS)},
            "label_mass": mass,
            "ignored": ignored,
            "conflicting": conflicting,
            "product_tokens": product_tokens,
            "query_tokens": query_tokens,
        }
    )


def _in_order(rows: pa.Table, order: pa.Array) -> pa.Table:
    """Bring rows into an order, though a product with many pairs and a long text may have more than 2 GiB of it.

    The prompt's texts come out in a type that has no such end; the others keep theirs, in several chunks if need be.
    """

    def ordered(name: str) -> pa.ChunkedArray:
        column = rows[name].cast(_LARGE.get(rows[name].type, rows[name].type))
        return column.take(order) if name in _TEXTS else _taken(column, order, rows[name].type)

    return pa.table({name: ordered(name) for name in rows.column_names}).combine_chunks()


def _taken(column: pa.ChunkedArray, order: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """Take rows of a column and cast them back, half by half where one array cannot hold them."""
    taken = column.take(order)
    if taken.type == kind:
        return taken
    try:
        return taken.cast(kind)
    except pa.ArrowInvalid:
        del taken  # GiB
        middle = len(order) // 2
        halves = [_taken(column, half, kind) for half in (order[:middle], order[middle:])]
        return pa.chunked_array([chunk for half in halves for chunk in half.chunks], kind)


def _first_of_pair(rows: pa.Table, digests: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Find for each row the first usable one with its ids and its texts; an unusable row stands for itself.

    Ids alone are not enough: where each market counts its own, two pairs have the same, and neither's label is the
    other's. The second array marks, once each, the pairs that have another pair's ids, bool (n,).
    """
    source, conflicting = np.arange(len(rows)), np.zeros(len(rows), bool)
    usable = np.flatnonzero(np.asarray(pc.is_null(rows["error"])))
    if not len(usable):
        return source, conflicting
    ids = rows.select(["product_id", "query_id"]).take(pa.array(usable))
    # A length in front keeps ("ab", "c") and ("a", "bc") apart whatever the ids contain.
    length = pc.cast(pc.binary_length(ids["product_id"]), pa.string())
    keys = pc.binary_join_element_wise(length, ids["product_id"], ids["query_id"], ":").combine_chunks()
    key = np.asarray(keys.dictionary_encode().indices)
    text = np.asarray(digests.take(pa.array(usable)).cast(pa.binary()).dictionary_encode().indices)
    both = key.astype(np.int64) * len(usable) + text
    _, first, pair = np.unique(both, return_index=True, return_inverse=True)
    source[usable] = usable[first[pair]]
    _, first_of_key, place = np.unique(key, return_index=True, return_inverse=True)
    conflicting[usable[first]] = (text != text[first_of_key[place]])[first]
    return source, conflicting


def _share_equal_content(origin: np.ndarray, source: np.ndarray, digests: pa.Array) -> None:
    """Of rows to compute that read the same under different keys, compute the first and point the others to it."""
    wanted = np.flatnonzero(origin == COMPUTE)
    codes = np.asarray(digests.take(pa.array(wanted)).cast(pa.binary()).dictionary_encode().indices)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    first_row = wanted[first[inverse]]
    equal = first_row != wanted
    origin[wanted[equal]] = REUSED
    moved = np.arange(len(source))
    moved[wanted] = first_row
    source[:] = moved[source]


def _tokenise(
    rows: pa.Table, encoder: PromptEncoder, origin: np.ndarray, error: np.ndarray
) -> tuple[pa.Array, pa.Array]:
    """Encode each distinct query and each run of equal product texts once; marks over-long queries as failed."""
    wanted = np.flatnonzero(origin == COMPUTE)
    encoded = query_texts(rows["query"].take(pa.array(wanted))).dictionary_encode()
    distinct = encoder.encode_queries(encoded.dictionary.to_pylist())
    query_tokens: list[list[int] | None] = [None] * len(rows)
    for row, index in zip(wanted.tolist(), encoded.indices.to_pylist(), strict=True):
        query_tokens[row] = distinct[index]
        if distinct[index] is None:
            origin[row] = FAILED
            error[row] = f"query: longer than its budget of {encoder.prompt.query_token_budget} tokens"

    wanted = np.flatnonzero(origin == COMPUTE)
    runs = rows["product_text"].take(pa.array(wanted)).combine_chunks().dictionary_encode()
    index = np.asarray(runs.indices)
    starts = wanted[np.flatnonzero(np.diff(index, prepend=-1))]
    texts = rows["product_text"].take(pa.array(starts)).to_pylist()
    product_tokens: list[list[int] | None] = [None] * len(rows)
    for row, tokens in zip(starts.tolist(), encoder.encode_products(texts), strict=True):
        product_tokens[row] = tokens
    return pa.array(product_tokens, _TOKENS), pa.array(query_tokens, _TOKENS)


def score_block(block: pa.Table, engine: Engine, guidelines_ids: list[int]) -> pa.Table:
    """Label the rows that are left to compute; adds what that used (`_USED`).

    A row whose numbers are not finite gets an error in place of a label, and counts as failed from here on.
    """
    block = block.combine_chunks()
    rows = np.flatnonzero(np.asarray(block["origin"]) == COMPUTE)
    tokens = block.select(_WORK_COLUMNS).take(pa.array(rows)).combine_chunks()
    block = block.drop_columns(list(_WORK_COLUMNS))
    used = {"prompt_tokens": 0, "computed_tokens": 0, "engine_seconds": 0.0, "unshared_pairs": 0}
    if len(rows):
        starts_product = np.asarray(pc.is_valid(tokens["product_tokens"]))
        batch = TokenBatch(
            guidelines=guidelines_ids,
            products=pc.drop_null(tokens["product_tokens"]).to_pylist(),
            queries=tokens["query_tokens"].to_pylist(),
            product_of_pair=(np.cumsum(starts_product) - 1).astype(np.int32),
            query_of_pair=np.arange(len(rows), dtype=np.int32),
        )
        started = time.perf_counter()
        scores = engine.label_logprobs(batch)
        used = {
            "prompt_tokens": scores.prompt_tokens,
            "computed_tokens": scores.computed_tokens,
            "engine_seconds": time.perf_counter() - started,
            "unshared_pairs": 0 if scores.shared_prefix else len(rows),
        }
        with np.errstate(over="ignore"):
            probabilities = np.exp(scores.logprobs)
        for column, name in enumerate(SCORE_COLUMNS):
            block = _with_values(block, name, rows, probabilities[:, column])
        mass = np.full(len(rows), np.nan, np.float32) if scores.label_mass is None else scores.label_mass
        block = _with_values(block, "label_mass", rows, mass)
        unmeasured = scores.label_mass is not None and ~np.isfinite(mass)
        none = ~np.isfinite(probabilities).all(axis=1) | ~(probabilities.sum(axis=1) > 0) | unmeasured
        block = _fail(block, rows[none], FAILED, NOT_FINITE)
    return with_used(block, used | dict.fromkeys(OF_ACTOR, 0.0))


def with_used(block: pa.Table, used: Mapping[str, float]) -> pa.Table:
    """Note what a shard used, in columns that are the same in every row; replaces what they said before."""
    block = block.drop_columns([name for name in used if name in block.column_names])
    for name, value in used.items():
        block = block.append_column(name, pa.array(np.full(len(block), value)))
    return block


def poison_block(block: pa.Table, reason: str) -> pa.Table:
    """Give up on the rows that are left to compute, with the reason as their error."""
    block = block.drop_columns([name for name in _WORK_COLUMNS if name in block.column_names]).combine_chunks()
    rows = np.flatnonzero(block["origin"].to_numpy() == COMPUTE)
    block = _fail(block, rows, POISONED, reason)
    return with_used(block, dict.fromkeys(_USED, 0.0))


def _fail(block: pa.Table, rows: np.ndarray, origin: int, reason: str) -> pa.Table:
    if not len(rows):
        return block
    error = np.asarray(block["error"].to_pylist(), dtype=object)
    error[rows] = reason
    block = _with_values(block, "origin", rows, np.full(len(rows), origin, np.int8))
    return block.set_column(block.column_names.index("error"), "error", pa.array(error, pa.string()))


def _with_values(block: pa.Table, name: str, rows: np.ndarray, values: np.ndarray) -> pa.Table:
    column = block[name].to_numpy().copy()
    column[rows] = values
    return block.set_column(block.column_names.index(name), name, pa.array(column))


def finish_block(block: pa.Table, *, model_version: str, prompt_version: str) -> tuple[pa.Table, dict[str, Any]]:
    """Give every row its output row, and count.

    Returns:
        The contract's score columns and the carried ones, one row per row of input; and the shard's figures.
    """
    block = block.combine_chunks()
    source = pa.array(np.asarray(block["source"]))
    error = pc.coalesce(block["error"], block["error"].take(source))
    labelled = np.asarray(pc.is_null(error))
    probabilities = np.stack([np.asarray(block[name].take(source)) for name in SCORE_COLUMNS], axis=1)
    mass = np.asarray(block["label_mass"].take(source))
    best = probabilities.argmax(axis=1).astype(np.int8)

    blank, unmeasured = pa.array(~labelled), pa.array(~labelled | np.isnan(mass))
    label = pa.DictionaryArray.from_arrays(pa.array(best, mask=~labelled), pa.array(LABELS))
    carried = [name for name in block.column_names if name not in RESERVED_COLUMNS]
    table = pa.table(
        {
            "query_id": block["query_id"],
            "product_id": block["product_id"],
            "label": label,
            **{
                name: pc.if_else(blank, pa.scalar(None, pa.float32()), pa.array(probabilities[:, column]))
                for column, name in enumerate(SCORE_COLUMNS)
            },
            "label_mass": pc.if_else(unmeasured, pa.scalar(None, pa.float32()), pa.array(mass)),
            "model_version": _constant(model_version, len(block)),
            "prompt_version": _constant(prompt_version, len(block)),
            "error": error,
            **{name: block[name] for name in carried},
        }
    )
    return table, _count(block, error, labelled, probabilities, mass, best)


def _constant(text: str, length: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, np.int8)), pa.array([text]))


def _count(
    block: pa.Table,
    error: pa.ChunkedArray,
    labelled: np.ndarray,
    probabilities: np.ndarray,
    mass: np.ndarray,
    best: np.ndarray,
) -> dict[str, Any]:
    origin = np.asarray(block["origin"])
    of_row, of_engine = (error.filter(pa.array(which)) for which in (origin == FAILED, origin != FAILED))
    errors = Counter(map(error_kind, pc.drop_null(of_row).to_pylist()))
    errors.update(pc.drop_null(of_engine).to_pylist())
    truth = np.asarray(pc.fill_null(block["truth"], -1))
    judged = labelled & (truth >= 0)
    confusion = np.zeros((4, 4), np.int64)
    np.add.at(confusion, (truth[judged], best[judged]), 1)

    def bins(values: np.ndarray) -> list[int]:
        measured = values[labelled & np.isfinite(values)]
        return np.histogram(measured, HISTOGRAM_BINS, (0.0, 1.0))[0].tolist()

    return {
        "read": len(block),
        "labelled": int((labelled & (origin == COMPUTE)).sum()),
        "reused": int((labelled & (origin == REUSED)).sum()),
        "repeated": int((labelled & (origin == REPEATED)).sum()),
        "failed": int((~labelled).sum()),
        "poisoned": int((origin == POISONED).sum()),
        "not_finite": errors[NOT_FINITE],
        "ignored": int(np.asarray(block["ignored"]).sum()),
        "conflicting": int(np.asarray(block["conflicting"]).sum()),
        "errors": dict(errors),
        "labels": {label: int((best[labelled] == index).sum()) for index, label in enumerate(LABELS)},
        "confusion": confusion.tolist(),
        "confidence_histogram": bins(probabilities.max(axis=1)),
        "label_mass_histogram": bins(mass),
        "label_mass_sum": None if np.isnan(mass[labelled]).any() else float(mass[labelled].sum()),
        **{name: block[name][0].as_py() for name in _USED},
    }
