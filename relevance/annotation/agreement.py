"""How far people agree: with each other, by round, version, label and pair of people, and with gold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from pydantic import Field

from cluster.settings import Settings
from cluster.statistics.shares import clustered_interval
from relevance.agreement import alpha_interval, nominal_alpha, unit_coincidences
from relevance.annotation.annotation import Annotation, PairKey, latest_per_annotator, round_order
from relevance.annotation.round import RoundPair
from relevance.labels import LABELS


class AgreementSettings(Settings):
    """How agreement is measured, and from where on it is good enough."""

    min_alpha: float = Field(default=0.667, ge=-1, le=1)
    """Alpha that the last round should reach: Krippendorff's own lowest limit for tentative conclusions. Pairs that
    the model is unsure of are harder than traffic: compare rounds that were drawn alike."""

    min_gold_accuracy: float = Field(default=0.8, ge=0, le=1)
    """Share of gold pairs that each annotator should get right. Who is below it is named; only who is so for sure, by
    a 95 % interval, spoils the verdict."""

    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamplings of the queries for each interval."""

    agenda_pairs: int = Field(default=30, ge=0)
    """Pairs on the agenda of the next calibration round, at most."""

    seed: int = Field(default=0, ge=0)
    """The same seed gives the same intervals."""


@dataclass(frozen=True)
class AlphaFigure:
    """Agreement within one set of annotations; figures are None where no pair has two of them.

    Alpha is None too where only one label was given: nobody could have disagreed by chance.
    """

    name: str
    annotations: int
    pairs: int
    """With two or more annotations in one round."""
    alpha: float | None
    low: float | None
    """Lower end of the 95 % interval, by bootstrap over queries."""
    high: float | None
    agreeing: float | None
    """Share of agreement between any two people on a pair, chance not taken off."""


@dataclass(frozen=True)
class GoldFigure:
    """One annotator against the settled labels."""

    annotator: str
    annotations: int
    """On all pairs, gold or not."""
    pairs: int
    """Gold pairs labelled."""
    accuracy: float | None
    accuracy_low: float | None
    """Lower end of the 95 % interval, for which pairs of one query may be alike."""
    accuracy_high: float | None
    alpha: float | None
    low: float | None
    high: float | None
    confusion: np.ndarray
    """int (4, 4): the gold label by the annotator's."""


@dataclass(frozen=True)
class AgendaItem:
    """A pair to talk about."""

    row: RoundPair
    votes: tuple[Annotation, ...]
    """Everybody's last word, in the order of the labels."""
    disagreement: float
    """Share of twos of people who differ."""
    against_gold: bool
    """Most people contradict the gold label: one of both is wrong."""


@dataclass(frozen=True)
class AgreementFigures:
    """All that is known about how people agree. Gold pairs count in `against_gold` alone."""

    overall: AlphaFigure
    by_round: tuple[AlphaFigure, ...]
    by_version: tuple[AlphaFigure, ...]
    by_label: tuple[AlphaFigure, ...]
    """Each label against the rest."""
    by_people: tuple[AlphaFigure, ...]
    """Each two people, the lowest alpha first, those without one last."""
    against_gold: tuple[GoldFigure, ...]
    coincidences: np.ndarray
    """float (4, 4): how often two people gave which two labels to one pair, each pair weighing its annotations."""
    agenda: tuple[AgendaItem, ...]


Rows = Mapping[tuple[str, PairKey], RoundPair]
"""What was given out, by round and pair."""


def measure_agreement(
    annotations: Sequence[Annotation], rows: Rows, settings: AgreementSettings, *, decided: Iterable[PairKey] = ()
) -> AgreementFigures:
    """Measure people against each other and against gold.

    Args:
        annotations: Checked (see `annotation.check_annotations`).
        rows: The pairs of the rounds.
        settings: Limits and resamplings.
        decided: Pairs that a lead has decided; they are off the agenda.
    """
    people = [one for one in annotations if rows[one.round, one.pair].gold is None]
    ratings, _ = _ratings(people)
    return AgreementFigures(
        overall=_figure("all rounds", people, settings),
        by_round=tuple(_by(people, lambda one: one.round, settings)),
        by_version=tuple(_by(people, lambda one: one.guideline_version, settings)),
        by_label=tuple(_figure(label, people, settings, label=label) for label in LABELS),
        by_people=tuple(_by_people(people, settings)),
        against_gold=tuple(_against_gold(annotations, rows, settings)),
        coincidences=_coincidences(ratings),
        agenda=tuple(_agenda(annotations, rows, set(decided))[: settings.agenda_pairs]),
    )


def _ratings(annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
    """Label numbers, int (people, units), -1 where none, and each unit's query; a unit is a pair in a round.

    Units with one annotation are left out: they say nothing about agreement and would thin out the bootstrap.
    """
    people = {name: row for row, name in enumerate(sorted({one.annotator for one in annotations}))}
    counts = Counter((one.round, one.pair) for one in annotations)
    units = {unit: column for column, unit in enumerate(sorted(unit for unit in counts if counts[unit] > 1))}
    ratings = np.full((len(people), len(units)), -1)
    for one in annotations:
        if (one.round, one.pair) in units:
            ratings[people[one.annotator], units[one.round, one.pair]] = LABELS.index(one.label)
    return ratings, np.array([query_id for _, (query_id, _) in units], dtype=object)


def _figure(
    name: str, annotations: Sequence[Annotation], settings: AgreementSettings, *, label: str | None = None
) -> AlphaFigure:
    ratings, queries = _ratings(annotations)
    if label is not None:
        ratings = np.where(ratings < 0, -1, (ratings == LABELS.index(label)).astype(int))
    if not len(queries):
        return AlphaFigure(name, len(annotations), 0, None, None, None, None)
    low, high = alpha_interval(ratings, queries.astype(str), samples=settings.bootstrap_samples, seed=settings.seed)
    units = unit_coincidences(ratings)
    # A unit's coincidences sum to its number of ratings m; divided by that, the diagonal is the share of equal twos.
    agreeing = np.trace(units, axis1=1, axis2=2) / units.sum(axis=(1, 2))
    alpha = _known(nominal_alpha(ratings), low, high)
    return AlphaFigure(name, len(annotations), len(queries), *alpha, float(agreeing.mean()))


def _known(*values: float) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _by(
    annotations: Sequence[Annotation], key: Callable[[Annotation], str], settings: AgreementSettings
) -> list[AlphaFigure]:
    groups: dict[str, list[Annotation]] = defaultdict(list)
    for one in annotations:
        groups[key(one)].append(one)
    return [_figure(name, groups[name], settings) for name in sorted(groups, key=round_order)]


def _by_people(annotations: Sequence[Annotation], settings: AgreementSettings) -> list[AlphaFigure]:
    names = sorted({one.annotator for one in annotations})
    figures = [
        _figure(f"{two[0]} and {two[1]}", [one for one in annotations if one.annotator in two], settings)
        for two in combinations(names, 2)
    ]
    shared = [figure for figure in figures if figure.pairs]
    return sorted(shared, key=lambda figure: (math.inf if figure.alpha is None else figure.alpha, figure.name))


def _against_gold(annotations: Sequence[Annotation], rows: Rows, settings: AgreementSettings) -> list[GoldFigure]:
    figures = []
    for name in sorted({one.annotator for one in annotations}):
        own = [one for one in annotations if one.annotator == name]
        judged = [(one, gold) for one in own if (gold := rows[one.round, one.pair].gold) is not None]
        confusion = np.zeros((len(LABELS), len(LABELS)), int)
        for one, gold in judged:
            confusion[LABELS.index(gold), LABELS.index(one.label)] += 1
        alpha = low = high = None
        accuracy = accuracy_low = accuracy_high = None
        if judged:
            ratings = np.array([[LABELS.index(gold), LABELS.index(one.label)] for one, gold in judged]).T
            queries = np.array([one.query_id for one, _ in judged])
            accuracy = float(np.trace(confusion) / len(judged))
            groups = np.unique(queries, return_inverse=True)[1]
            accuracy_low, accuracy_high = clustered_interval(ratings[0] == ratings[1], groups)
            ends = alpha_interval(ratings, queries, samples=settings.bootstrap_samples, seed=settings.seed)
            alpha, low, high = _known(nominal_alpha(ratings), *ends)
        right = accuracy, accuracy_low, accuracy_high
        figures.append(GoldFigure(name, len(own), len(judged), *right, alpha, low, high, confusion))
    return figures


def _coincidences(ratings: np.ndarray) -> np.ndarray:
    total = np.zeros((len(LABELS), len(LABELS)))
    if ratings.size:
        found = unit_coincidences(ratings).sum(axis=0)
        total[: len(found), : len(found)] = found
    return total


def _agenda(annotations: Sequence[Annotation], rows: Rows, decided: set[PairKey]) -> list[AgendaItem]:
    """Pairs on which people differ, the most disputed first; among equals, those whose labels lie furthest apart.

    Far apart in the order of the labels: exact against irrelevant says that the rules are read differently, exact
    against substitute that a line is fine.
    """
    votes: dict[PairKey, list[Annotation]] = defaultdict(list)
    for one in latest_per_annotator(annotations):
        votes[one.pair].append(one)
    items = []
    for pair, several in votes.items():
        row = rows[max(several, key=lambda one: round_order(one.round)).round, pair]
        labels = [one.label for one in several]
        most = max(labels.count(label) for label in LABELS)
        against_gold = row.gold is not None and len(labels) > 1 and 2 * labels.count(row.gold) < len(labels)
        if pair not in decided and (against_gold or (row.gold is None and most < len(labels))):
            ordered = tuple(sorted(several, key=lambda one: (LABELS.index(one.label), one.annotator)))
            items.append(AgendaItem(row, ordered, _disagreement(labels), against_gold))
    return sorted(items, key=lambda item: (-item.disagreement, -_distance(item), -len(item.votes), item.row.pair))


def _disagreement(labels: Sequence[str]) -> float:
    twos = list(combinations(labels, 2))
    return sum(one != other for one, other in twos) / max(1, len(twos))


def _distance(item: AgendaItem) -> int:
    numbers = [LABELS.index(one.label) for one in item.votes]
    return max(numbers) - min(numbers)
