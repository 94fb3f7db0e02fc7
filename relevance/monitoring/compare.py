"""Two days pair by pair, in parts by query, so that memory is bounded by a part and not by a day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cluster.settings import Settings
from relevance.annotation.strata import uncertainties
from relevance.labels import LABELS
from relevance.monitoring.scores import Rows, columns_of, stream_rows
from relevance.pairs.texts import text_column

EXACT = LABELS.index("exact")
_NUMBER = r"^\d+(\.\d+)?$"
_PAIR = ("query_id", "product_id")


class CompareSettings(Settings):
    """What is compared and how much of it is shown."""

    by: tuple[str, ...] = ("market", "query_class")
    """Columns of the scores by which label shares are split; those that a day does not have are left out. The scoring
    job carries them along where `scoring.carry` names them."""

    rank_column: str = "rank"
    """Column with a product's place in its query's results, from 1; without it there is no search-quality figure."""

    first: int = Field(default=10, ge=1)
    """Places of a query's results that the search-quality figure is about."""

    min_pairs: int = Field(default=5, ge=1)
    """Pairs of a query on both days below which its exact share is not compared."""

    queries: int = Field(default=20, ge=1, le=1000)
    """Queries whose exact share fell most that are shown."""

    to_annotate: int = Field(default=200, ge=1, le=100_000)
    """Pairs that are proposed to people, half of them uncertain and half of them conflicting."""

    rows_per_part: int = Field(default=4_000_000, ge=1000)
    """Rows of a day that are held at once, about 30 bytes each; a larger day is read several times."""


@dataclass
class FallenQuery:
    """A query with fewer exact products than the day before."""

    query_id: str
    pairs: int
    pairs_before: int
    exact: float
    exact_before: float
    came: list[str] = field(default_factory=list)
    """Products that are new, with their label: `p7 irrelevant`."""
    went: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Products of both days whose label is another."""


@dataclass
class Comparison:
    """What came of it."""

    shares: dict[str, dict[str, tuple[list[int], list[int]]]]
    """By column and value: counts of the four labels, of this day and of the one before."""
    moves: np.ndarray
    """int64 (4, 4): label before by label now, of pairs that both days have."""
    came: int
    went: int
    queries: int
    queries_before: int
    fallen: list[FallenQuery]
    quality: tuple[float, float, float] | None
    """Mean over queries of the exact share among the first places, with its 95 % interval; None without ranks."""
    quality_before: tuple[float, float, float] | None
    to_annotate: list[dict[str, Any]]
    """query_id, product_id, label, and why: `uncertain` or `conflicting`."""

    @property
    def kept(self) -> int:
        """Pairs that both days have."""
        return int(self.moves.sum())

    @property
    def churn(self) -> float | None:
        """Share of them whose label is another; None without any."""
        return 1 - float(self.moves.trace()) / self.kept if self.kept else None


def compare_days(url: str, before_url: str | None, num_rows: int, settings: CompareSettings) -> Comparison:
    """Compare two committed days.

    Args:
        url: The day's folder.
        before_url: The earlier one's; None: there is none.
        num_rows: Of the larger of the two.
        settings: What to compare.

    Raises:
        ValueError: If a day is not committed.
    """
    whole = _Whole(settings)
    num_parts = max(1, math.ceil(num_rows / settings.rows_per_part))
    for part in range(num_parts):
        whole.add(_part(url, part, num_parts, settings), _part(before_url, part, num_parts, settings))
    found = whole.finish()
    _explain(found.fallen, url, before_url)
    return found


@dataclass
class _Part:
    """Rows of one part of a day, in one piece."""

    rows: Rows | None
    columns: Sequence[str]


def _part(url: str | None, part: int, num_parts: int, settings: CompareSettings) -> _Part:
    if url is None:
        return _Part(None, ())
    known = columns_of(url)
    columns = [name for name in dict.fromkeys((*settings.by, settings.rank_column)) if name in known]
    pieces = list(stream_rows(url, more=columns, part=part, num_parts=num_parts))
    if not pieces:
        return _Part(None, columns)
    arrays = {name: np.concatenate([getattr(one, name) for one in pieces]) for name in ("pair", "query", "label")}
    table = pa.concat_tables([one.table for one in pieces])
    # A key that a day has twice is one pair: the first row stands, as in scoring.
    _, first = np.unique(arrays["pair"], return_index=True)
    probabilities = np.concatenate([one.probabilities for one in pieces])[first]
    rows = Rows(table.take(pa.array(first)), probabilities=probabilities, **{n: a[first] for n, a in arrays.items()})
    return _Part(rows, columns)


class _Whole:
    """Adds parts up."""

    def __init__(self, settings: CompareSettings) -> None:
        self._settings = settings
        self._shares: dict[str, dict[str, tuple[list[int], list[int]]]] = {}
        self._moves = np.zeros((4, 4), np.int64)
        self._came = self._went = 0
        self._queries = [0, 0]
        self._quality: list[list[np.ndarray]] = [[], []]
        self._fallen: list[FallenQuery] = []
        self._uncertain: list[tuple[float, dict[str, Any]]] = []
        self._conflicting: list[tuple[float, dict[str, Any]]] = []

    def add(self, now: _Part, before: _Part) -> None:
        for place, part in enumerate((now, before)):
            if part.rows is not None:
                self._queries[place] += len(np.unique(part.rows.query))
                self._count_shares(part, place)
                self._measure(part, place)
        if now.rows is not None:
            self._propose_uncertain(now.rows)
        if now.rows is None or before.rows is None:
            self._came += len(now.rows or ())
            self._went += len(before.rows or ())
            return
        _, here, there = np.intersect1d(now.rows.pair, before.rows.pair, assume_unique=True, return_indices=True)
        np.add.at(self._moves, (before.rows.label[there], now.rows.label[here]), 1)
        self._came += len(now.rows) - len(here)
        self._went += len(before.rows) - len(there)
        self._propose_conflicting(now.rows, before.rows, here, there)
        self._find_fallen(now.rows, before.rows)

    def finish(self) -> Comparison:
        half = self._settings.to_annotate // 2 or 1
        proposed = [row for _, row in self._conflicting[:half]]
        known = {tuple(row[name] for name in _PAIR) for row in proposed}
        fresh = [row for _, row in self._uncertain if tuple(row[name] for name in _PAIR) not in known]
        quality, quality_before = (_mean_interval(values) for values in self._quality)
        return Comparison(
            self._shares,
            self._moves,
            self._came,
            self._went,
            *self._queries,
            self._fallen,
            quality,
            quality_before,
            proposed + fresh[:half],
        )

    def _count_shares(self, part: _Part, place: int) -> None:
        rows = part.rows
        assert rows is not None
        for column in (name for name in self._settings.by if name in part.columns):
            encoded = pc.fill_null(_texts(rows, column), "none").dictionary_encode()
            codes = np.asarray(encoded.indices)
            counts = np.zeros((len(encoded.dictionary), 4), np.int64)
            np.add.at(counts, (codes, rows.label), 1)
            for value, own in zip(encoded.dictionary.to_pylist(), counts.tolist(), strict=True):
                both = self._shares.setdefault(column, {}).setdefault(value, ([0] * 4, [0] * 4))
                both[place][:] = [a + b for a, b in zip(both[place], own, strict=True)]

    def _measure(self, part: _Part, place: int) -> None:
        rows, name = part.rows, self._settings.rank_column
        if rows is None or name not in part.columns:
            return
        ranks = _numbers(rows, name)
        first = (ranks >= 1) & (ranks <= self._settings.first)
        _, of = np.unique(rows.query[first], return_inverse=True)
        if len(of):
            self._quality[place].append(np.bincount(of, rows.label[first] == EXACT) / np.bincount(of))

    def _propose_uncertain(self, rows: Rows) -> None:
        unsure = uncertainties(rows.probabilities.astype(np.float64), "entropy")
        self._uncertain = self._keep(self._uncertain, rows, np.arange(len(rows)), unsure, "uncertain")

    def _propose_conflicting(self, now: Rows, before: Rows, here: np.ndarray, there: np.ndarray) -> None:
        """Pairs whose label is another though the model was sure both times."""
        other = now.label[here] != before.label[there]
        here, there = here[other], there[other]
        sure = np.minimum(now.probabilities[here].max(axis=1), before.probabilities[there].max(axis=1))
        self._conflicting = self._keep(self._conflicting, now, here, sure, "conflicting")

    def _keep(
        self, kept: list[tuple[float, dict[str, Any]]], rows: Rows, places: np.ndarray, size: np.ndarray, why: str
    ) -> list[tuple[float, dict[str, Any]]]:
        most = np.argsort(-size, kind="stable")[: self._settings.to_annotate]
        ids = rows.table.select(_PAIR).take(pa.array(places[most])).to_pylist()
        labels = rows.label[places[most]]
        found = [
            (float(value), {**row, "label": LABELS[label], "why": why})
            for value, row, label in zip(size[most], ids, labels, strict=True)
        ]
        both = sorted([*kept, *found], key=lambda one: (-one[0], one[1]["query_id"], one[1]["product_id"]))
        return both[: self._settings.to_annotate]

    def _find_fallen(self, now: Rows, before: Rows) -> None:
        names, places = np.unique(now.query, return_index=True)
        totals, exact = _per_query(now, names)
        totals_before, exact_before = _per_query(before, names)
        least = self._settings.min_pairs
        with np.errstate(divide="ignore", invalid="ignore"):
            fall = exact_before / totals_before - exact / totals
        fall[(totals < least) | (totals_before < least) | ~(fall > 0)] = -1
        for place in np.argsort(-fall, kind="stable")[: self._settings.queries]:
            if fall[place] > 0:
                query = now.table["query_id"][int(places[place])].as_py()
                sizes = (int(totals[place]), int(totals_before[place]))
                shares = (exact[place] / totals[place], exact_before[place] / totals_before[place])
                self._fallen.append(FallenQuery(query, *sizes, *map(float, shares)))
        self._fallen.sort(key=lambda one: (one.exact - one.exact_before, -one.pairs, one.query_id))
        del self._fallen[self._settings.queries :]


def _texts(rows: Rows, name: str) -> pa.Array:
    """A carried column of whatever type as text."""
    try:
        return text_column(rows.table[name]).cast(pa.string())
    except TypeError as error:
        raise ValueError(f"column {name!r} of the scores: {error}: name another one in monitor.compare") from error


def _numbers(rows: Rows, name: str) -> np.ndarray:
    """A column of ranks as numbers, infinity where there is none: text files give texts, with blank cells."""
    column = rows.table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        text = pc.utf8_trim_whitespace(_texts(rows, name))
        column = pc.if_else(pc.match_substring_regex(text, _NUMBER), text, None)
    return pc.fill_null(column.cast(pa.float64(), safe=False), math.inf).to_numpy(zero_copy_only=False)


def _per_query(rows: Rows, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.minimum(np.searchsorted(names, rows.query), len(names) - 1)
    known = names[place] == rows.query
    totals = np.bincount(place[known], minlength=len(names))
    return totals, np.bincount(place[known], rows.label[known] == EXACT, minlength=len(names))


def _mean_interval(values: Sequence[np.ndarray]) -> tuple[float, float, float] | None:
    """Mean over queries and its normal interval: queries are independent, a query's products are not."""
    every = np.concatenate(values) if values else np.empty(0)
    if not len(every):
        return None
    mean = float(every.mean())
    apart = 1.96 * float(every.std(ddof=1)) / math.sqrt(len(every)) if len(every) > 1 else 1.0
    return mean, max(0.0, mean - apart), min(1.0, mean + apart)


def _explain(fallen: Sequence[FallenQuery], url: str, before_url: str | None) -> None:
    """Name the products that came, went or have another label, of the fallen queries alone."""
    if not fallen or before_url is None:
        return
    wanted = pa.array([one.query_id for one in fallen], pa.string())
    days: list[dict[str, dict[str, str]]] = []
    for day_url in (url, before_url):
        products: dict[str, dict[str, str]] = {}
        for rows in stream_rows(day_url):
            own = rows.table.filter(pc.is_in(rows.table["query_id"].cast(pa.string()), wanted))
            for query, product, label in zip(*(own[name].to_pylist() for name in (*_PAIR, "label")), strict=True):
                products.setdefault(query, {}).setdefault(product, LABELS[label])
        days.append(products)
    for one in fallen:
        now, before = (day.get(one.query_id, {}) for day in days)
        one.came = [f"{product} {now[product]}" for product in sorted(now.keys() - before.keys())]
        one.went = [f"{product} {before[product]}" for product in sorted(before.keys() - now.keys())]
        both = sorted(now.keys() & before.keys())
        one.changed = [f"{key} {before[key]} → {now[key]}" for key in both if now[key] != before[key]]
