"""Pairs to train and judge on, read from CSV, and what keeps the judged ones unseen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from cluster.provenance import digest_of
from cluster.sharded.delimited import DelimitedTable
from cluster.sharded.input_files import open_input, refuse_repeated_column
from relevance.evaluation.pairs import fold_text
from relevance.labels import LABELS, parse_label


@dataclass(frozen=True)
class LabelledTexts:
    """Queries, titles and label numbers, aligned."""

    queries: Sequence[str]
    titles: Sequence[str]
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> LabelledTexts:
        return LabelledTexts([self.queries[i] for i in rows], [self.titles[i] for i in rows], self.labels[rows])


@dataclass(frozen=True)
class WeakPairs:
    """Queries and titles with a noisy answer to the question whether the product is a substitute."""

    queries: Sequence[str]
    titles: Sequence[str]
    is_substitute: np.ndarray

    @property
    def digest(self) -> str:
        """Of all of it; hex, 16 digits."""
        return digest_of([list(self.queries), list(self.titles), self.is_substitute.tolist()])

    def without(self, other: LabelledTexts) -> WeakPairs:
        """Drop the pairs whose query or title stands in `other` too, written in whatever way."""
        keep = keep_unseen(self.queries, self.titles, other)
        return WeakPairs([self.queries[i] for i in keep], [self.titles[i] for i in keep], self.is_substitute[keep])


def keep_unseen(queries: Sequence[str], titles: Sequence[str], judged: LabelledTexts) -> np.ndarray:
    """Rows of (queries, titles) that share neither query nor title with the judged pairs, int (m,)."""
    seen_queries, seen_titles = _folded(judged.queries), _folded(judged.titles)
    rows = enumerate(zip(queries, titles, strict=True))
    return np.array(
        [
            i
            for i, (query, title) in rows
            if fold_text(query) not in seen_queries and fold_text(title) not in seen_titles
        ],
        dtype=int,
    )


def _folded(texts: Iterable[str]) -> set[str]:
    return {fold_text(text) for text in texts}


def read_labelled_pairs(url: str) -> LabelledTexts:
    """Read a CSV with the columns query, title, label.

    Raises:
        ValueError: If a column is missing or a label is none of the four.
    """
    columns = _read_columns(url, ("query", "title", "label"))
    labels = np.array([LABELS.index(parse_label(label)) for label in columns["label"]])
    return LabelledTexts(columns["query"], columns["title"], labels)


def read_weak_pairs(url: str) -> WeakPairs:
    """Read a CSV with the columns query, title, is_substitute (yes or no, in whatever case).

    Raises:
        ValueError: If a column is missing or an answer is neither; its row is named.
    """
    columns = _read_columns(url, ("query", "title", "is_substitute"))
    answers = [answer.strip().lower() for answer in columns["is_substitute"]]
    for row, answer in enumerate(answers, 1):
        if answer not in ("yes", "no"):
            raise ValueError(
                f"{_name(url)}: row {row}: expected is_substitute to be yes or no, found another; correct it"
            )
    return WeakPairs(columns["query"], columns["title"], np.array(answers) == "yes")


def read_texts(url: str, markets: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Read (query, title) of a CSV with the columns query and title; where it has a column market, of `markets` alone.

    Raises:
        ValueError: If a column is missing.
    """
    columns = _read_columns(url, ("query", "title"), optional=("market",))
    of_row = columns.get("market") or [None] * len(columns["query"])
    rows = zip(columns["query"], columns["title"], of_row, strict=True)
    return [(query, title) for query, title, market in rows if not markets or market is None or market in markets]


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _read_columns(url: str, names: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, list[str]]:
    file = _name(url)
    with open_input(url, "csv") as stream:
        table = DelimitedTable(file, stream, wanted=names)
        missing = [name for name in names if name not in table.names]
        if missing:
            raise ValueError(f"{file}: expected the columns {', '.join(names)}, missing {', '.join(missing)}")
        for name in (*names, *optional):
            refuse_repeated_column(file, name, table.names)
        rows = list(table.records())
    if wrong := [row.error for row in rows if row.error]:
        raise ValueError(f"{file}: {wrong[0]} ({len(wrong)} such lines): correct them")
    places = {name: table.names.index(name) for name in (*names, *optional) if name in table.names}
    for name in names:
        empty = [number for number, row in enumerate(rows, 1) if row.cells[places[name]] is None]
        if empty:
            raise ValueError(f"{file}: row {empty[0]}: expected {name}, found nothing (\\N); correct it")
    try:
        return {name: [(row.cells[place] or b"").decode() for row in rows] for name, place in places.items()}
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not UTF-8: save it as CSV UTF-8") from None


def split_folds(pairs: LabelledTexts, num_folds: int, *, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split into (training rows, judged rows), the pairs of a query together and no judged title in training."""
    folds = []
    splitter = GroupKFold(num_folds, shuffle=True, random_state=seed)
    for training, judged in splitter.split(pairs.labels, groups=[fold_text(query) for query in pairs.queries]):
        kept = training[keep_unseen(*_texts(pairs, training), pairs.take(judged))]
        folds.append((kept, judged))
    return folds


def _texts(pairs: LabelledTexts, rows: np.ndarray) -> tuple[Sequence[str], Sequence[str]]:
    taken = pairs.take(rows)
    return taken.queries, taken.titles
