"""Drift: nothing where nothing happened, however many or few rows; something where something did."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from cluster.statistics.drift import (
    MIN_DAYS,
    holm,
    kolmogorov_smirnov,
    population_stability,
    share_difference,
    share_shift,
    size_shift,
)


def test_the_index_of_few_rows_is_not_drift() -> None:
    """The plain index of 60 rows in 20 bins against 20,000 of the same kind is about 0.3: a large move, by custom."""
    rng = np.random.default_rng(1)
    reference = rng.multinomial(20_000, np.full(20, 0.05))
    found = [population_stability(rng.multinomial(60, np.full(20, 0.05)), reference) for _ in range(200)]
    assert np.mean(found) < 0.06
    assert np.mean(np.array(found) > 0.2) < 0.05


def test_the_index_of_a_real_move() -> None:
    assert population_stability(np.array([7000, 3000]), np.array([5000, 5000])) == pytest.approx(0.169, abs=0.002)
    assert population_stability(np.array([0, 100]), np.array([100, 100])) > 0.2
    assert np.isnan(population_stability(np.zeros(3), np.ones(3)))


def test_the_distance_at_the_edges_equals_scipys_on_values_of_those_edges() -> None:
    rng = np.random.default_rng(2)
    now, before = rng.integers(0, 12, 4000), rng.integers(0, 12, 5000)
    now[:400] = 0
    distance, p_value = kolmogorov_smirnov(np.bincount(now, minlength=12), np.bincount(before, minlength=12))
    expected = ks_2samp(now, before, method="asymp")
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.1)
    assert kolmogorov_smirnov(np.zeros(4), np.ones(4)) == (0.0, 1.0)


def test_a_share_of_nothing_says_nothing() -> None:
    assert share_difference(0, 0, 5, 10) == 1.0
    assert share_difference(5, 10, 50, 100) == 1.0
    assert share_difference(0, 10, 0, 100) == 1.0
    assert share_difference(100, 100, 50, 100) < 1e-9


def test_many_tests_cost_what_they_should() -> None:
    assert holm([0.001, 0.4, 0.004], level=0.01).tolist() == [True, False, True]
    assert holm([0.004, 0.004, 0.004], level=0.01).tolist() == [False, False, False]
    rng = np.random.default_rng(3)
    assert np.mean([holm(rng.random(68), level=0.05).any() for _ in range(1000)]) < 0.075


def test_a_restless_share_has_to_move_further() -> None:
    steady = [(300, 1000)] * 28
    restless = [(250, 1000), (350, 1000)] * 14
    assert share_shift(370, 1000, steady)[1] < 1e-4
    assert share_shift(370, 1000, restless)[1] > 0.05
    assert share_shift(370, 1000, steady[: MIN_DAYS - 1]) == (0.3, 1.0)
    assert np.isnan(share_shift(1, 2, [])[0])


def test_a_size_is_compared_on_the_scale_of_ratios() -> None:
    before = [100.0, 110.0, 95.0, 105.0, 98.0, 102.0, 90.0, 0.0]
    usual, p_value = size_shift(100.0, before)
    assert usual == pytest.approx(99.8, abs=0.1)
    assert p_value > 0.5
    assert size_shift(300.0, before)[1] < 1e-4
    assert size_shift(0.0, before)[1] == 0.0
    assert size_shift(300.0, before[:3])[1] == 1.0
