"""Draws of whole groups, and the intervals that they leave."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.statistics.bootstrap import Figure, GroupBootstrap, interval, summarise


def means(values: np.ndarray, groups: np.ndarray, *, samples: int = 2000) -> np.ndarray:
    sums = GroupBootstrap(groups, samples=samples, seed=1).sums(np.stack([values, np.ones(len(values))], axis=1))
    return sums[:, 0] / sums[:, 1]


def test_copies_bring_no_certainty() -> None:
    values = np.random.default_rng(0).random(80)
    one = summarise(means(values, np.arange(80)))
    copies = summarise(means(np.repeat(values, 10), np.repeat(np.arange(80), 10)))
    assert (copies.low, copies.high) == pytest.approx((one.low, one.high))
    assert one.high - one.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(80), rel=0.1)


def test_weights_give_the_same_sums() -> None:
    draw = np.random.default_rng(0)
    values, groups = draw.random(50), draw.integers(9, size=50)
    bootstrap = GroupBootstrap(groups, samples=30, seed=4)
    assert bootstrap.weights() @ values == pytest.approx(bootstrap.sums(values))
    assert bootstrap.weights().shape == (31, 50)
    assert bootstrap.num_groups == len(np.unique(groups))


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    whole = means(values, np.arange(50))
    monkeypatch.setattr("cluster.statistics.bootstrap._CHUNK_VALUES", 50 * 7)
    assert (means(values, np.arange(50)) == whole).all()


def test_nothing_to_draw_from() -> None:
    bootstrap = GroupBootstrap(np.array([], int), samples=3, seed=0)
    assert bootstrap.sums(np.zeros((0, 2))).tolist() == [[0, 0]] * 4
    assert bootstrap.weights().shape == (4, 0)


def test_what_is_missing_is_said() -> None:
    nan = np.nan
    assert summarise(np.array([nan, 1.0, 1.0]), missing="no row") == Figure(None, missing="no row")
    few = summarise(np.array([0.5, nan, nan, 0.7]), too_few="too few draws")
    assert few == Figure(0.5, missing="too few draws")  # an interval over a third of the draws is one of luck
    assert summarise(np.array([0.5, nan, 0.4, 0.6])).low == pytest.approx(0.405)


def test_the_ends_of_an_interval() -> None:
    values = np.append(np.arange(101.0), np.nan)
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert interval(values, confidence=0.5) == pytest.approx((25, 75))
