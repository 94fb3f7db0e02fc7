"""Temperatures that are known, and the distance of confidence from truth."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.statistics.bootstrap import GroupBootstrap
from relevance.evaluation.calibration import (
    fit_temperature,
    measure_calibration,
    scale_probabilities,
    split_queries,
)


def drawn_labels(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from exactly these."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([0.6] * 4, size=n)
    labels = (probabilities.cumsum(axis=1) > draw.random(n)[:, None]).argmax(axis=1)
    return probabilities, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    probabilities, labels = drawn_labels(20_000)
    distorted = scale_probabilities(probabilities, 1 / temperature)
    assert fit_temperature(distorted, labels) == pytest.approx(temperature, rel=0.05)


def test_scaling_changes_no_label_and_keeps_sums() -> None:
    probabilities, _ = drawn_labels(500)
    for temperature in (0.3, 1.0, 4.0):
        scaled = scale_probabilities(probabilities, temperature)
        assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        assert scaled.sum(axis=1) == pytest.approx(1)
    assert scale_probabilities(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-9)


def test_certainty_of_zero_and_one_is_no_obstacle() -> None:
    probabilities = np.eye(4)[[0, 1, 2, 3, 0]]
    assert np.isfinite(fit_temperature(probabilities, np.array([0, 1, 2, 3, 1])))


def test_splits_take_queries_whole() -> None:
    groups = np.repeat(np.arange(30), 5)
    chosen = split_queries(groups, fraction=0.4, seed=0)
    assert len(np.unique(groups[chosen])) == 12
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert split_queries(np.array([7, 7]), fraction=0.5, seed=0).tolist() == [False, False]
    assert split_queries(np.array([1, 2]), fraction=0.01, seed=0).sum() == 1


def test_calibration_is_judged_on_queries_that_the_temperature_never_saw() -> None:
    probabilities, labels = drawn_labels(4000)
    groups = np.arange(4000) // 2
    too_sure = scale_probabilities(probabilities, 0.4)
    bootstrap = GroupBootstrap(groups, samples=200, seed=0)
    found = measure_calibration(too_sure, labels, groups, bootstrap, num_bins=10, fit_fraction=0.5, seed=0)
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    assert (found.fitted_pairs, found.judged_pairs) == (2000, 2000)
    assert found.ece_after.high < found.ece_before.low
    assert sum(one.pairs for one in found.after) == 2000
    labels[np.flatnonzero(~split_queries(groups, fraction=0.5, seed=0))] = 0
    again = measure_calibration(too_sure, labels, groups, bootstrap, num_bins=10, fit_fraction=0.5, seed=0)
    assert again.temperature == found.temperature
