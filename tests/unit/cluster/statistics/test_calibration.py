"""The distance of what was predicted from what was so, reckoned by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.statistics.calibration import bin_rows, expected_calibration_error, fill_bins, reliability_bins


def test_expected_calibration_error_by_hand() -> None:
    bins = bin_rows(np.array([0.8, 0.8, 0.6, 1.0]), np.array([True, False, True, True]), num_bins=10).sum(axis=0)
    # 0.8 twice and right once, 0.6 and right, 1.0 and right: (2 * 0.3 + 0.4 + 0) / 4
    assert expected_calibration_error(bins) == pytest.approx(0.25)
    assert bins[9].tolist() == [1, 1, 1]
    assert np.isnan(expected_calibration_error(np.zeros((10, 3))))


def test_the_calibration_error_of_a_known_case() -> None:
    predicted = np.array([0.9] * 10 + [0.1] * 30)
    observed = np.array([True] * 7 + [False] * 3 + [False] * 30)
    bins = fill_bins(predicted, observed, num_bins=15)
    assert expected_calibration_error(bins) == pytest.approx((10 * 0.2 + 30 * 0.1) / 40)
    ends = fill_bins(np.array([0.0, 1.0]), np.array([False, True]), num_bins=15)
    assert sum(rows for _, _, rows, _, _ in reliability_bins(ends, lambda *point: point)) == 2


def test_bins_filled_at_once_are_those_of_the_rows() -> None:
    draw = np.random.default_rng(0)
    predicted, observed = draw.random(500), draw.random(500) < 0.4
    rows = bin_rows(predicted, observed, num_bins=7)
    assert fill_bins(predicted, observed, num_bins=7) == pytest.approx(rows.sum(axis=0))


def test_points_of_a_reliability_plot() -> None:
    bins = fill_bins(np.array([0.1, 0.3, 0.9]), np.array([False, True, True]), num_bins=2)
    assert reliability_bins(bins, lambda *point: point) == (
        (0.0, 0.5, 2, pytest.approx(0.2), 0.5),
        (0.5, 1.0, 1, pytest.approx(0.9), 1.0),
    )
    assert reliability_bins(np.zeros((1, 3)), lambda *point: point) == ((0.0, 1.0, 0, None, None),)
