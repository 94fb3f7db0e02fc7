"""Pairs that people labelled, read to judge a model: one row per pair, whoever and how many labelled it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.provenance import hide_credentials
from relevance.labels import LABELS, parse_label
from relevance.pairs.files import Split, find_splits, read_split
from relevance.pairs.pair import TRUTH_COLUMN, clean_pairs

_ANNOTATOR, _WEIGHT = "annotator", "weight"
_CARRIED = ("title", "brand", "market", TRUTH_COLUMN, _ANNOTATOR, _WEIGHT)
_TITLE_COLUMN = "shown_title"
MAX_TEXT_BYTES = 100_000
"""What scoring takes, by default."""
TIED = -1
"""The label of a pair on which people have no majority."""


@dataclass(frozen=True)
class EvaluationPairs:
    """n pairs, aligned; rows that no model could read are left out and counted."""

    rows: pa.Table
    """`pairs.CLEAN_SCHEMA`, as the scoring job makes it of the same file."""
    titles: Sequence[str]
    labels: np.ndarray
    """int (n,): the majority of people, `TIED` where there is none."""
    ratings: np.ndarray
    """int (people, n), -1 where one gave no label; one row where the file names nobody."""
    weights: np.ndarray
    """float (n,): how much a pair counts in training, mean over its rows; 1 where the file does not say."""
    brands: Sequence[str | None] | None
    """None: the file has no such column."""
    markets: Sequence[str | None] | None
    counts: dict[str, int]
    """Rows read, repeated, unusable, and pairs tied."""

    @cached_property
    def digest(self) -> str:
        """Of everything in these pairs that counts, whichever others the file has; hex, 16 digits."""
        content = [self.rows.column(name).to_pylist() for name in ("query_id", "product_id", "query", "product_text")]
        parts = [content, self.ratings.tolist()] + ([] if (self.weights == 1).all() else [self.weights.tolist()])
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def queries(self) -> list[str]:
        return self.rows["query"].to_pylist()

    @property
    def groups(self) -> np.ndarray:
        """The query of each pair as a number, (n,): the same text is the same query whatever its id."""
        return np.unique([fold_text(query) for query in self.queries], return_inverse=True)[1]

    def unseen_by(self, judged: EvaluationPairs) -> EvaluationPairs:
        """Keep the pairs whose query and title do not stand in `judged`, written in whatever way."""
        queries, titles = set(map(fold_text, judged.queries)), set(map(fold_text, judged.titles))
        rows = zip(self.queries, self.titles, strict=True)
        return self.take(np.array([fold_text(q) not in queries and fold_text(t) not in titles for q, t in rows], bool))

    def take(self, rows: np.ndarray) -> EvaluationPairs:
        """Keep some of the pairs, by bool (n,)."""
        kept = np.flatnonzero(rows)
        return replace(
            self,
            rows=self.rows.take(pa.array(kept)),
            titles=[self.titles[i] for i in kept],
            labels=self.labels[kept],
            ratings=self.ratings[:, kept],
            weights=self.weights[kept],
            brands=None if self.brands is None else [self.brands[i] for i in kept],
            markets=None if self.markets is None else [self.markets[i] for i in kept],
        )


def fold_text(text: str) -> str:
    """Write a query or title so that case, punctuation and white space make no difference.

    The one definition of "the same query": splits, folds, baselines and the check for leaks all group by it.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    # Marks stay: without its vowel signs a word in Devanagari would be another's.
    words = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text).split()
    return " ".join(words or text.split())


def query_digests(queries: Iterable[str]) -> list[str]:
    """Digest each distinct query, folded; sorted, hex, 16 digits each. They tell a leak without telling the queries."""
    return sorted({hashlib.sha256(fold_text(query).encode()).hexdigest()[:16] for query in queries})


def shared_queries(pairs: EvaluationPairs, training: EvaluationPairs) -> int:
    """Count the evaluation set's queries that the training set has too, under whatever id."""
    return len(set(map(fold_text, pairs.queries)) & set(map(fold_text, training.queries)))


def refuse_overlap(pairs: EvaluationPairs, training: EvaluationPairs, *, allow: bool) -> int:
    """Count shared queries, and refuse them unless told: a model looks better on queries that it has seen.

    Raises:
        ValueError: If a query is in both sets and `allow` is false.
    """
    shared = shared_queries(pairs, training)
    if shared and not allow:
        total = len(set(pairs.groups.tolist()))
        raise ValueError(
            f"the evaluation set shares {shared} of its {total} queries with the training set: take those pairs out "
            "of one of the two, or set allow_overlap=true and do not trust the figures"
        )
    return shared


def count_shared(pairs: EvaluationPairs, learnt: frozenset[str] | None) -> int | None:
    """Count the evaluation set's queries among those that weights have learnt from; None where they do not say.

    Args:
        pairs: The evaluation set.
        learnt: Digests, see `query_digests`.
    """
    return None if learnt is None else len(learnt.intersection(query_digests(pairs.queries)))


def refuse_learnt(pairs: EvaluationPairs, learnt: frozenset[str] | None, *, allow: bool) -> int | None:
    """Count as `count_shared`, and refuse such queries unless told.

    Raises:
        ValueError: If the weights say that they have learnt from a query of the set, and `allow` is false.
    """
    shared = count_shared(pairs, learnt)
    if shared and not allow:
        raise ValueError(
            f"the model says (training.json) that it has learnt from {shared} of the evaluation set's "
            f"{len(set(pairs.groups.tolist()))} queries: judge it by others, or set allow_overlap=true and do not "
            "trust the figures"
        )
    return shared


def read_evaluation_pairs(url: str, *, max_text_bytes: int = MAX_TEXT_BYTES) -> EvaluationPairs:
    """Read labelled pairs (parquet, CSV or JSONL; a file or folder, local or s3://), as scoring would read them.

    Raises:
        ValueError: If a column is missing, a row has none of the four labels, a pair has two labels by one person,
            or nothing usable is there; file, row and key are named.
    """
    splits = _find(url)
    tables, number = [], 0
    for split in splits:
        for raw in read_split(split):
            tables.append(_clean(raw, split, number, max_text_bytes))
            number += len(raw)
    if not number:
        raise ValueError(f"{hide_credentials(url)}: no row there: give labelled pairs")
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return _by_pair(table, url)


def _find(url: str) -> list[Split]:
    splits = find_splits(url, optional=(_ANNOTATOR, _WEIGHT))
    for split in splits:
        if TRUTH_COLUMN not in split.columns:
            raise ValueError(
                f"{hide_credentials(split.url)}: column {TRUTH_COLUMN!r} is missing: people's labels are needed"
            )
    return splits


def _clean(raw: pa.Table, split: Split, number: int, max_text_bytes: int) -> pa.Table:
    """Clean the rows as scoring does; the title as shown and the carried columns follow."""
    raw = raw.append_column(_TITLE_COLUMN, raw["title"])
    carried = [name for name in (_TITLE_COLUMN, *_CARRIED[1:]) if name in raw.column_names]
    clean = clean_pairs(raw, max_text_bytes=max_text_bytes, carry=carried)
    unlabelled = pc.and_(pc.is_null(clean["truth"]), pc.is_null(clean["error"])).to_numpy()
    for row in np.flatnonzero(unlabelled)[:1]:
        _refuse_label(clean[TRUTH_COLUMN][int(row)].as_py(), f"{hide_credentials(split.url)}, row {number + row + 1}")
    return clean


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return column.cast(pa.string()).to_pylist()


def _refuse_label(text: str | None, where: str) -> None:
    if not (text or "").strip():
        raise ValueError(f"{where}: no label: label the pair or take it out")
    try:
        parse_label(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _by_pair(table: pa.Table, url: str) -> EvaluationPairs:
    usable = table.filter(pc.is_null(table["error"])).combine_chunks()
    if not len(usable):
        raise ValueError(f"{hide_credentials(url)}: none of {len(table)} rows is usable (blank or damaged texts)")
    keys = list(zip(usable["query_id"].to_pylist(), usable["product_id"].to_pylist(), strict=True))
    _refuse_two_pairs(keys, usable, url)
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    pair = np.array([number_of[key] for key in keys])
    people = _optional(usable, _ANNOTATOR) or [None] * len(usable)
    names = list(dict.fromkeys(people))
    person = np.array([names.index(name) for name in people])
    ratings = _ratings(pair, person, usable["truth"].to_numpy(), keys, url)
    first = np.unique(pair, return_index=True)[1]
    rows = usable.take(pa.array(first))
    labels = _majority(ratings)
    counts = Counter(read=len(table), unusable=len(table) - len(usable), tied=int((labels == TIED).sum()))
    counts["repeated"] = len(usable) - int((ratings >= 0).sum())
    return EvaluationPairs(
        rows=rows.select(["query_id", "product_id", "query", "product_text", "error", "truth"]),
        titles=_texts(rows[_TITLE_COLUMN]),
        labels=labels,
        ratings=ratings,
        weights=_weights(usable, pair, url),
        brands=_optional(rows, "brand"),
        markets=_optional(rows, "market"),
        counts=dict(counts),
    )


def _refuse_two_pairs(keys: Sequence[tuple[str, str]], rows: pa.Table, url: str) -> None:
    """Two pairs under one pair of ids would be one, with the first one's texts and the labels of both."""
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for key, *text in zip(keys, rows["query"].to_pylist(), rows["product_text"].to_pylist(), strict=True):
        if texts.setdefault(key, (text[0], text[1])) != (text[0], text[1]):
            raise ValueError(
                f"{hide_credentials(url)}: pair {'/'.join(key)} stands there with two texts: ids have to name "
                "one pair; put the market in front where each market counts its own"
            )


def _ratings(
    pair: np.ndarray, person: np.ndarray, labels: np.ndarray, keys: Sequence[tuple[str, str]], url: str
) -> np.ndarray:
    """Spread labels over (people, pairs); the same label given twice counts once."""
    ratings = np.full((person.max() + 1, pair.max() + 1), -1)
    for row, (who, which, label) in enumerate(zip(person, pair, labels, strict=True)):
        if ratings[who, which] not in (-1, label):
            first = LABELS[ratings[who, which]]
            raise ValueError(
                f"{hide_credentials(url)}: pair {'/'.join(keys[row])} has the labels {first} and {LABELS[label]} by "
                "one annotator: keep one, or name the people in a column annotator"
            )
        ratings[who, which] = label
    return ratings


def _weights(rows: pa.Table, pair: np.ndarray, url: str) -> np.ndarray:
    if _WEIGHT not in rows.column_names:
        return np.ones(pair.max() + 1)
    try:
        weights = np.array([float(text) if (text or "").strip() else 1.0 for text in _texts(rows[_WEIGHT])])
    except ValueError:
        weights = np.array([np.nan])
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{hide_credentials(url)}: column weight: expected numbers of 0 or more: correct them")
    return np.bincount(pair, weights) / np.bincount(pair)


def _majority(ratings: np.ndarray) -> np.ndarray:
    votes = (ratings[:, :, None] == np.arange(len(LABELS))).sum(axis=0)
    tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(tied, TIED, votes.argmax(axis=1))


def _optional(rows: pa.Table, name: str) -> list[Any] | None:
    return _texts(rows[name]) if name in rows.column_names else None
