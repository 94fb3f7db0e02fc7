"""Parts of an evaluation set in which a model may be better or worse: market, query, products, brand, rare labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.statistics.bootstrap import Figure, GroupBootstrap
from relevance.agreement import alphas_from_coincidences
from relevance.evaluation.figures import (
    ONE_LABEL,
    EvaluationSettings,
    confusion_rows,
    measure_confusion,
    summarise,
)
from relevance.evaluation.pairs import EvaluationPairs, fold_text
from relevance.labels import LABELS

SLICE_FIGURES = ("alpha", "accuracy", "f1")
"""F1 of exact against the rest; of a rare label, all three are of that label against the rest."""
_WORDS = ((1, 1), (2, 2), (3, 4), (5, None))
_PRODUCTS = ((1, 1), (2, 5), (6, 20), (21, None))


@dataclass(frozen=True)
class Slice:
    """A part of the pairs."""

    kind: str
    name: str
    pairs: int
    queries: int
    figures: dict[str, Figure]
    """By `SLICE_FIGURES`; empty where the part is too small to be measured."""


def measure_slices(
    pairs: EvaluationPairs, predictions: np.ndarray, bootstrap: GroupBootstrap, settings: EvaluationSettings
) -> list[Slice]:
    """Measure each part of the pairs on the draws of queries that serve the whole.

    Args:
        pairs: All with a settled label.
        predictions: Label numbers by the model, (n,).
        bootstrap: Over the queries of `pairs`.
        settings: The least size of a slice, and what a rare label is.
    """
    groups, slices = pairs.groups, []
    confusion = confusion_rows(pairs.labels, predictions)
    for kind, name, rows in find_slices(pairs):
        figures = {}
        if rows.sum() >= settings.min_slice_pairs:
            sums = bootstrap.sums(confusion * rows[:, None, None])
            figures = _against_the_rest(sums, LABELS.index("exact")) | _all_labels(sums)
        slices.append(Slice(kind, name, int(rows.sum()), len(np.unique(groups[rows])), figures))
    whole = bootstrap.sums(confusion)
    for number in _rare_labels(pairs.labels, settings.rare_label_fraction):
        # Not a choice of pairs: among those of one label alone there is no agreement to measure.
        rows = pairs.labels == number
        name = f"{LABELS[number]} against the rest"
        queries = len(np.unique(groups[rows]))
        slices.append(Slice("rare label", name, int(rows.sum()), queries, _against_the_rest(whole, number)))
    return slices


def _all_labels(confusion: np.ndarray) -> dict[str, Figure]:
    measured = measure_confusion(confusion)
    return {name: measured[name] for name in ("alpha", "accuracy")}


def _against_the_rest(confusion: np.ndarray, label: int) -> dict[str, Figure]:
    """Alpha, accuracy and F1 of one label, all others taken together; confusion matrices (1 + samples, 4, 4)."""
    hit = confusion[:, label, label]
    given, said = confusion[:, label].sum(axis=-1), confusion[:, :, label].sum(axis=-1)
    total = confusion.sum(axis=(-2, -1))
    off = given + said - 2 * hit
    coincidences = np.stack([2 * hit, off, off, 2 * (total - hit) - 2 * off], axis=-1).reshape(-1, 2, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {"accuracy": 1 - off / total, "f1": np.where(given > 0, 2 * hit / (given + said), np.nan)}
    values["alpha"] = alphas_from_coincidences(coincidences)
    # Alpha needs the label and another; the rest needs pairs that people gave the label.
    missing = dict.fromkeys(SLICE_FIGURES, f"no pair is labelled {LABELS[label]} by people") | {"alpha": ONE_LABEL}
    return {name: summarise(values[name], missing=missing[name]) for name in SLICE_FIGURES}


def _rare_labels(labels: np.ndarray, rare_fraction: float) -> list[int]:
    shares = np.bincount(labels, minlength=len(LABELS)) / max(1, len(labels))
    return [number for number in range(len(LABELS)) if 0 < shares[number] < rare_fraction]


def find_slices(pairs: EvaluationPairs) -> list[tuple[str, str, np.ndarray]]:
    """Name the parts and their rows, bool (n,); a part that a column would tell and does not is left out.

    Words are runs between blanks, so a query in a script that writes none counts as one word.
    """
    folded = [fold_text(query) for query in pairs.queries]
    words = np.array([len(query.split()) for query in pairs.queries])
    products = np.bincount(pairs.groups)[pairs.groups]
    found = [
        ("query length", f"{name} words" if name != "1" else "1 word", rows) for name, rows in _bands(words, _WORDS)
    ]
    found += [("products per query", name, rows) for name, rows in _bands(products, _PRODUCTS)]
    if pairs.brands is not None:
        branded = _names_a_brand(folded, pairs.brands)
        found += [("brand", "query names a brand", branded), ("brand", "query names none", ~branded)]
    if pairs.markets is not None:
        markets = np.array([market or "unknown" for market in pairs.markets])
        found += [("market", str(market), markets == market) for market in np.unique(markets)]
    return [(kind, name, rows) for kind, name, rows in found if rows.any()]


def _bands(values: np.ndarray, bands: Sequence[tuple[int, int | None]]) -> list[tuple[str, np.ndarray]]:
    names = [str(low) if low == high else f"{low} to {high}" if high else f"{low} or more" for low, high in bands]
    rows = [(values >= low) & (values <= (high or values.max(initial=low))) for low, high in bands]
    return list(zip(names, rows, strict=True))


def _names_a_brand(queries: Sequence[str], brands: Sequence[str | None]) -> np.ndarray:
    """Say which queries have some brand of the set among their words, bool (n,)."""
    known = {f" {fold_text(brand)} " for brand in brands if brand and brand.strip()}
    answers = {query: any(brand in f" {query} " for brand in known) for query in set(queries)}
    return np.array([answers[query] for query in queries], dtype=bool)
