"""Whether a probability means what it says: temperature scaling, ECE, and the points of a reliability plot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.statistics.bootstrap import Figure, GroupBootstrap
from cluster.statistics.calibration import bin_rows, expected_calibration_error, reliability_bins
from cluster.statistics.temperature import class_probabilities, find_temperature
from relevance.evaluation.figures import summarise

_LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose label has a probability in [start, stop)."""

    start: float
    stop: float
    pairs: int
    confidence: float | None
    """Mean probability of the label given; None where the bin is empty."""
    accuracy: float | None


@dataclass(frozen=True)
class CalibrationFigures:
    """Calibration on the pairs that the temperature was not fitted on, before and after scaling."""

    temperature: float | None
    """Divides the log-probabilities; above 1 the model was too sure. None: nothing to fit on."""
    fitted_pairs: int
    judged_pairs: int
    ece_before: Figure
    ece_after: Figure
    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...]


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature of the highest likelihood, within 0.05 to 20.

    Args:
        probabilities: Of the four labels, (n, 4), n >= 1.
        labels: Label numbers by people, (n,).
    """
    return find_temperature(_logits(probabilities), labels)


def scale_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the log-probabilities by a temperature, (n, 4); no label changes."""
    return class_probabilities(_logits(probabilities), temperature)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST_PROBABILITY))


def split_queries(groups: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of the queries, at least one of two or more; bool (n,), equal within a query."""
    names, group_of_row = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = min(max(1, round(fraction * len(names))), len(names) - 1)
    return (order < chosen)[group_of_row]


def _bin_rows(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> np.ndarray:
    """What each pair adds to the bins of its confidence."""
    return bin_rows(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, num_bins=num_bins)


def measure_calibration(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    bootstrap: GroupBootstrap,
    *,
    num_bins: int,
    fit_fraction: float,
    seed: int,
) -> CalibrationFigures:
    """Fit a temperature on some of the queries and judge it on the others.

    The intervals hold the temperature fixed. ECE is biased upwards on few pairs, resampled ECE more so: compare
    before with after, not either with zero.

    Args:
        probabilities: Of the four labels, (n, 4), n >= 1.
        labels: Label numbers by people, (n,).
        groups: The query of each pair, (n,).
        bootstrap: Over `groups`.
        num_bins: Bins of equal width.
        fit_fraction: Share of the queries for fitting.
        seed: Of the split.
    """
    fitted = split_queries(groups, fraction=fit_fraction, seed=seed)
    temperature = fit_temperature(probabilities[fitted], labels[fitted]) if fitted.any() else None
    scaled = scale_probabilities(probabilities, temperature or 1.0)
    judged = ~fitted[:, None, None]
    sums = [bootstrap.sums(_bin_rows(p, labels, num_bins) * judged) for p in (probabilities, scaled)]
    before, after = (summarise(expected_calibration_error(bins), missing="no pair to judge on") for bins in sums)
    if temperature is None:
        after = Figure(None, missing="a single query: none is left to fit a temperature on")
    return CalibrationFigures(
        temperature=temperature,
        fitted_pairs=int(fitted.sum()),
        judged_pairs=int((~fitted).sum()),
        ece_before=before,
        ece_after=after,
        before=reliability_bins(sums[0][0], ReliabilityBin),
        after=reliability_bins(sums[1][0], ReliabilityBin),
    )
