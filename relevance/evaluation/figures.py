"""Labels beside predictions: every figure with its 95 % interval, all of them from one resampling of the queries.

A figure is a function of sums over pairs (a confusion matrix, the content of calibration bins). The queries are
drawn anew a few thousand times, the sums are taken of each draw at once, and the same function gives the observed
figure and its interval. A figure that needs what is not there (a label that nobody gave) is missing, not zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cluster.settings import Settings
from cluster.statistics import bootstrap
from cluster.statistics.bootstrap import Figure, GroupBootstrap
from relevance.agreement import alphas_from_coincidences
from relevance.labels import LABELS

_K = len(LABELS)
ONE_LABEL = "only one label occurs"
"""Why there is no alpha: nobody could have disagreed by chance."""


class EvaluationSettings(Settings):
    """How figures and their intervals are measured."""

    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamplings of the queries; the same for all figures."""

    calibration_bins: int = Field(default=10, ge=2)
    """Bins of equal width in which confidence is compared with accuracy (ECE, reliability plot)."""

    calibration_fit_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of the queries on which the temperature is fitted; calibration is judged on the others."""

    min_slice_pairs: int = Field(default=30, ge=1)
    """A slice of fewer pairs is counted but not measured."""

    rare_label_fraction: float = Field(default=0.15, gt=0, le=1)
    """A label that a smaller share of the pairs has counts as rare."""

    baseline_folds: int = Field(default=5, ge=2)
    """Folds, grouped by query, in which the word-overlap baseline is fitted where no training set is given."""

    seed: int = Field(default=0, ge=0)
    """The same seed gives the same intervals, splits and folds."""


def summarise(values: np.ndarray, *, missing: str | None = None) -> Figure:
    """Read a figure from its observed value and the resampled ones, (1 + samples,); `missing` says why it is NaN."""
    return bootstrap.summarise(
        values, missing=missing or "undefined on these pairs", too_few="too few queries for an interval"
    )


def confusion_rows(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """What each pair adds to the confusion matrix (people's label by the model's), float (n, 4, 4)."""
    return np.eye(_K)[labels][:, :, None] * np.eye(_K)[predictions][:, None, :]


def confusion_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Compute all figures of labels from confusion matrices, float (..., 4, 4); NaN where one is undefined.

    Ordinal alpha rests on an order of the labels, exact < substitute < complement < irrelevant: a choice of this
    project (how far a product is from serving the need), not a fact; the nominal figure is the one that counts.
    """
    both = confusion + np.swapaxes(confusion, -1, -2)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    given, said = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = hits.sum(axis=-1) / given.sum(axis=-1)
        # A label that nobody gave has no recall, and its precision and F1 would be zero for no fault of the model's.
        precision = np.where(given > 0, hits / said, np.nan)
        recall = hits / given
        f1 = np.where(given > 0, 2 * hits / (given + said), np.nan)
    figures = {
        "alpha": alphas_from_coincidences(both),
        "alpha_ordinal": alphas_from_coincidences(both, ordinal=True),
        "accuracy": accuracy,
        "f1_exact": f1[..., 0],
        "f1_macro": f1.mean(axis=-1),
        "precision_macro": precision.mean(axis=-1),
        "recall_macro": recall.mean(axis=-1),
    }
    for number, label in enumerate(LABELS):
        figures[f"precision.{label}"] = precision[..., number]
        figures[f"recall.{label}"] = recall[..., number]
        figures[f"f1.{label}"] = f1[..., number]
    return figures


def measure_labels(labels: np.ndarray, predictions: np.ndarray, draws: GroupBootstrap) -> dict[str, Figure]:
    """Measure predicted labels against people's.

    Args:
        labels: Label numbers by people, int (n,).
        predictions: Label numbers by the model, int (n,).
        draws: Of the queries of these n pairs.
    """
    return measure_confusion(draws.sums(confusion_rows(labels, predictions)))


def measure_confusion(sums: np.ndarray) -> dict[str, Figure]:
    """Measure the confusion matrices of the data and of its draws, (1 + samples, 4, 4)."""
    return {
        name: summarise(values, missing=_why_missing(name, sums[0])) for name, values in confusion_figures(sums).items()
    }


def _why_missing(name: str, confusion: np.ndarray) -> str:
    """Say what a figure lacks; meaningful only where it is undefined."""
    if name.startswith("alpha"):
        return ONE_LABEL if confusion.any() else "no pair to compare"
    if name == "accuracy":
        return "no pair"
    kind, _, label = name.removesuffix("_macro").partition(".")
    of_one = label or ("exact" if name == "f1_exact" else "")
    unseen = [other for other, total in zip(LABELS, confusion.sum(axis=1), strict=True) if not total]
    if (of_one and of_one in unseen) or (not of_one and unseen):
        return f"no pair is labelled {' or '.join([of_one] if of_one else unseen)} by people"
    unsaid = [other for other, total in zip(LABELS, confusion.sum(axis=0), strict=True) if not total]
    return f"no pair is labelled {' or '.join([of_one] if of_one else unsaid)} by the model, {kind} needs one"


def paired_alpha_difference(
    labels: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    groups: np.ndarray,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Figure:
    """Measure alpha of `a` less alpha of `b` on the same pairs, with its interval over queries.

    Paired: each draw of queries judges both, so what makes a draw hard cancels, and the interval is far
    narrower than those of the two alphas.

    Args:
        labels: Label numbers by people, int (n,), n >= 1.
        predictions_a: Label numbers by one model, (n,).
        predictions_b: Label numbers by the other, (n,).
        groups: The query of each pair, (n,).
        samples: Resamplings.
        seed: The same seed gives the same interval.
    """
    draws = GroupBootstrap(groups, samples=samples, seed=seed)
    alphas = [alpha_draws(labels, said, draws) for said in (predictions_a, predictions_b)]
    return summarise(alphas[0] - alphas[1], missing=ONE_LABEL if len(labels) else "no pair to compare")


def alpha_draws(labels: np.ndarray, predictions: np.ndarray, draws: GroupBootstrap) -> np.ndarray:
    """Alpha of the data and of each draw of its queries, (1 + samples,), NaN where undefined; for `pooled`."""
    return _alphas(draws.sums(confusion_rows(labels, predictions)))


def _alphas(confusion: np.ndarray) -> np.ndarray:
    return alphas_from_coincidences(confusion + np.swapaxes(confusion, -1, -2))


@dataclass(frozen=True)
class PeopleFigures:
    """People with each other, and the model with the same people on the same pairs."""

    annotators: int
    pairs: int
    """With labels by two or more people; the others are left out here."""
    people: Figure
    """Alpha among people."""
    model: Figure
    """Alpha of the model with one person at a time: the figure that may be set beside `people`."""
    difference: Figure
    """`model` less `people`, paired."""


def measure_people(
    ratings: np.ndarray, predictions: np.ndarray, groups: np.ndarray, *, samples: int, seed: int
) -> PeopleFigures | None:
    """Set the model beside people's own agreement; None where no pair has two labels by people.

    The model is compared with single people and not with their majority: a majority has less noise than any of
    them, and agreement with it looks better than people's agreement with each other ever can.

    Args:
        ratings: Label numbers by person, int (people, n), -1 where one gave none.
        predictions: Label numbers by the model, (n,).
        groups: The query of each pair, (n,).
        samples: Resamplings.
        seed: The same seed gives the same intervals.
    """
    counts = (ratings[:, :, None] == np.arange(_K)).sum(axis=0).astype(float)
    several = counts.sum(axis=1) >= 2
    if not several.any():
        return None
    counts, said = counts[several], np.eye(_K)[predictions[several]]
    among = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(_K)
    among /= (counts.sum(axis=1) - 1)[:, None, None]
    with_model = counts[:, :, None] * said[:, None, :]
    with_model = (with_model + np.swapaxes(with_model, 1, 2)) / counts.sum(axis=1)[:, None, None]
    draws = GroupBootstrap(groups[several], samples=samples, seed=seed)
    people, model = (alphas_from_coincidences(draws.sums(rows)) for rows in (among, with_model))
    return PeopleFigures(
        annotators=len(ratings),
        pairs=int(several.sum()),
        people=summarise(people, missing=ONE_LABEL),
        model=summarise(model, missing=ONE_LABEL),
        difference=summarise(model - people, missing=ONE_LABEL),
    )
