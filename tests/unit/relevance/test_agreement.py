"""Nominal alpha against the `krippendorff` package, and its interval."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest

from relevance.agreement import alpha_from_confusion, alpha_interval, nominal_alpha


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_reference_on_random_tables_with_gaps(seed: int) -> None:
    random = np.random.default_rng(seed)
    raters, units, labels = random.integers(2, 6), random.integers(3, 40), random.integers(2, 6)
    truth = random.integers(0, labels, units)
    ratings = np.where(random.random((raters, units)) < 0.6, truth, random.integers(0, labels, (raters, units)))
    ratings[random.random((raters, units)) < 0.3] = -1
    ratings[:, 0], ratings[:2, 1] = [0, *[-1] * (raters - 1)], [0, 1]  # one lonely rating, one disagreement
    reference = np.where(ratings < 0, np.nan, ratings)
    expected = krippendorff.alpha(reliability_data=reference, level_of_measurement="nominal")
    assert nominal_alpha(ratings) == pytest.approx(expected, abs=1e-12)


def test_confusion_matrix_says_the_same() -> None:
    random = np.random.default_rng(0)
    ratings = random.integers(0, 4, (2, 200))
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (ratings[0], ratings[1]), 1)
    assert alpha_from_confusion(confusion) == pytest.approx(nominal_alpha(ratings))


def test_corner_cases() -> None:
    assert nominal_alpha(np.array([[1, 0, 1], [1, 0, 1]])) == 1.0
    assert np.isnan(nominal_alpha(np.array([[0, 1, -1], [-1, -1, 2]])))


def test_where_only_one_label_occurs_nobody_can_tell_agreement_from_habit() -> None:
    same = np.array([[1, 1, 1], [1, 1, 1]])
    assert np.isnan(nominal_alpha(same))
    assert np.isnan(alpha_interval(same, np.arange(3))).all()
    confusion = np.zeros((4, 4))
    confusion[2, 2] = 50
    assert np.isnan(alpha_from_confusion(confusion))


def test_interval_holds_alpha_and_copies_within_a_group_do_not_narrow_it() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(0, 4, 100)
    ratings = np.stack([truth, np.where(random.random(100) < 0.7, truth, random.integers(0, 4, 100))])
    low, high = alpha_interval(ratings, np.arange(100))
    assert low < nominal_alpha(ratings) < high
    assert (low, high) == alpha_interval(ratings, np.arange(100))
    copied = np.repeat(ratings, 9, axis=1)
    grouped = alpha_interval(copied, np.repeat(np.arange(100), 9))
    assert grouped == pytest.approx((low, high), abs=0.01)
    alone_low, alone_high = alpha_interval(copied, np.arange(900))
    assert alone_high - alone_low < 0.5 * (high - low)
