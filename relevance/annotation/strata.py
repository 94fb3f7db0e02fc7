"""Draw pairs for people to label: a number from each stratum of predicted label and uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from cluster.settings import Settings
from relevance.annotation.annotation import PairKey
from relevance.annotation.pairs import key_hashes, mix_hashes
from relevance.labels import LABELS
from relevance.scoring.shard_steps import SCORE_COLUMNS

THIRDS = ("sure", "middling", "unsure")
_BINS = 4096


class StrataSettings(Settings):
    """How many pairs of which kind."""

    counts: dict[str, tuple[int, int, int]] = Field(default=dict.fromkeys(LABELS, (10, 10, 20)))
    """Pairs by predicted label: from the sure, the middling and the unsure third of that label's rows. More of the
    unsure ones, since they teach the model most. A label that is left out gives none."""

    uncertainty: Literal["entropy", "margin"] = "entropy"
    """`entropy` of the four probabilities, or one minus the `margin` between the two highest."""

    seed: int = Field(default=0, ge=0)
    """The same seed draws the same pairs from the same scores, in whatever order files are read."""

    @field_validator("counts")
    @classmethod
    def _four_labels(cls, counts: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
        if unknown := sorted({*counts} - {*LABELS}):
            raise ValueError(f"expected the labels {', '.join(LABELS)}, found {', '.join(unknown)}")
        if min((min(three) for three in counts.values()), default=0) < 0 or not sum(map(sum, counts.values())):
            raise ValueError("expected counts of 0 or more, at least one of them above 0")
        return counts


@dataclass(frozen=True)
class DrawnPair:
    """A scored pair that was drawn."""

    pair: PairKey
    stratum: str
    """Label and third, such as `exact, unsure`."""
    predicted: str
    probabilities: tuple[float, ...]
    uncertainty: float
    """In [0, 1]."""


@dataclass(frozen=True)
class Stratum:
    """What there was and what was taken."""

    name: str
    population: int
    asked: int
    drawn: int


def uncertainties(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """How unsure the model was, from 0 (one label has it all) to 1 (none is ahead); probabilities float (n, 4)."""
    if kind == "margin":
        highest = np.sort(probabilities, axis=1)[:, -2:]
        return 1 - (highest[:, 1] - highest[:, 0])
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    return np.clip(-(probabilities * logs).sum(axis=1) / np.log(probabilities.shape[1]), 0, 1)


def third_edges(batches: Iterable[pa.Table], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Find where each label's thirds of uncertainty lie, from histograms, so that memory does not grow with the day.

    Returns:
        Lower ends of the middling and the unsure third, float (4, 2); rows of each label, int (4,).
    """
    histogram = np.zeros((len(LABELS), _BINS), np.int64)
    for batch in batches:
        uncertain = uncertainties(_probabilities(batch), kind)
        bins = np.minimum((uncertain * _BINS).astype(int), _BINS - 1)
        np.add.at(histogram, (np.asarray(batch["label"]), bins), 1)
    below = histogram.cumsum(axis=1)
    totals = below[:, -1]
    ends = [[np.searchsorted(below[label], totals[label] * part / 3) + 1 for part in (1, 2)] for label in range(4)]
    return np.array(ends) / _BINS, totals


def draw_pairs(
    batches: Iterable[pa.Table],
    edges: np.ndarray,
    settings: StrataSettings,
    *,
    excluded: np.ndarray,
    only: np.ndarray | None = None,
) -> tuple[list[DrawnPair], list[Stratum]]:
    """Take from each stratum the pairs with the lowest seeded hashes: random, repeatable, and streaming.

    Args:
        batches: As of `annotation_pairs.read_scores`.
        edges: From `third_edges` over the same batches.
        settings: How many from where.
        excluded: Key hashes of pairs that must not be drawn, uint64.
        only: Key hashes of the pairs that may be drawn, uint64; None: all.
    """
    asked = {(i, j): settings.counts.get(label, (0,) * 3)[j] for i, label in enumerate(LABELS) for j in range(3)}
    kept: dict[tuple[int, int], pa.Table] = {}
    population = dict.fromkeys(asked, 0)
    salt = mix_hashes(np.array([settings.seed + 1], np.uint64))[0]
    for batch in batches:
        uncertain = uncertainties(_probabilities(batch), settings.uncertainty)
        labels, hashes = np.asarray(batch["label"]), key_hashes(batch)
        thirds = (uncertain[:, None] >= edges[labels]).sum(axis=1)
        allowed = ~np.isin(hashes, excluded)
        if only is not None:
            allowed &= np.isin(hashes, only)
        batch = batch.append_column("uncertainty", pa.array(uncertain))
        batch = batch.append_column("order", pa.array(mix_hashes(hashes ^ salt)))
        for stratum, count in asked.items():
            rows = np.flatnonzero((labels == stratum[0]) & (thirds == stratum[1]) & allowed)
            population[stratum] += len(rows)
            if count and len(rows):
                kept[stratum] = _lowest(kept.get(stratum), batch.take(rows), count)
    drawn = [pair for stratum in asked if stratum in kept for pair in _drawn(stratum, kept[stratum])]
    counts = {stratum: len(kept.get(stratum, ())) for stratum in asked}
    strata = [Stratum(_name(stratum), population[stratum], asked[stratum], counts[stratum]) for stratum in asked]
    return drawn, strata


def _lowest(kept: pa.Table | None, new: pa.Table, count: int) -> pa.Table:
    """The `count` rows of lowest order; a repeated key has one hash and counts once."""
    both = new if kept is None else pa.concat_tables([kept, new])
    _, first = np.unique(np.asarray(both["order"]), return_index=True)
    return both.take(first[:count]).combine_chunks()


def _drawn(stratum: tuple[int, int], rows: pa.Table) -> list[DrawnPair]:
    return [
        DrawnPair(
            pair=(row["query_id"], row["product_id"]),
            stratum=_name(stratum),
            predicted=LABELS[row["label"]],
            probabilities=tuple(row[name] for name in SCORE_COLUMNS),
            uncertainty=row["uncertainty"],
        )
        for row in rows.to_pylist()
    ]


def _name(stratum: tuple[int, int]) -> str:
    return f"{LABELS[stratum[0]]}, {THIRDS[stratum[1]]}"


def _probabilities(batch: pa.Table) -> np.ndarray:
    columns = [np.asarray(pc.fill_null(batch[name], 0)) for name in SCORE_COLUMNS]
    return np.stack(columns, axis=1).astype(np.float64)


def strata_counts(strata: Iterable[Stratum]) -> Mapping[str, dict[str, int]]:
    """Strata as JSON types."""
    return {one.name: {"population": one.population, "asked": one.asked, "drawn": one.drawn} for one in strata}
