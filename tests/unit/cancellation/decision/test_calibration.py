"""Calibration: a known temperature is found, the error shrinks, and one path for one event and for many."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from cancellation.decision.calibration import INDUCED, calibrate, choose_events, market_class_probabilities
from cancellation.decision.verdicts import verdict_probabilities
from cluster.statistics.temperature import class_probabilities


def draw(num: int, *, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right once divided by a temperature, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    right = rng.normal(0, 2, (num, 3))
    probabilities = class_probabilities(right, 1.0)
    labels = (rng.random((num, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return right * temperature, np.minimum(labels, 2)


def test_calibration_is_judged_on_other_events_and_gets_better() -> None:
    logits, labels = draw(8000, temperature=3.0)
    two_classes = np.zeros(8000, bool)
    fit = choose_events([f"e{i}" for i in range(8000)], 0.5, purpose="test")
    found = calibrate(logits, labels, two_classes, fit)
    assert found.fitted_events + found.judged_events == 8000
    assert 3600 < found.fitted_events < 4400
    assert found.ece_after < 0.03 < 0.08 < found.ece_before
    assert found.nll_after < found.nll_before
    spoilt = np.where(fit, labels, 0)  # what happens to the judged half's labels must not reach the temperature
    assert calibrate(logits, spoilt, two_classes, fit).temperature == found.temperature


def test_a_market_of_two_classes_is_calibrated_by_those_two() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1.5, 8000)
    labels = np.where(rng.random(8000) < 1 / (1 + np.exp(-odds)), 0, 1)
    labels[:40] = 2  # said of a market that does not know it
    # Of induced against not induced the model is as sure as it should be, whatever it holds of the third class.
    logits = np.stack([odds / 2, -odds / 2, rng.normal(1.0, 1.0, 8000)], axis=1).astype(np.float32)
    fit = np.arange(8000) % 2 == 0
    found = calibrate(logits, labels, np.ones(8000, bool), fit)
    assert found.temperature == pytest.approx(1.0, abs=0.1)
    assert found.ece_after < 0.03
    shares = market_class_probabilities(logits[~fit], found.temperature, two_classes=np.ones(4000, bool))
    two = log_loss(labels[~fit] == 0, shares[:, INDUCED])
    assert found.nll_after == pytest.approx(two)


def test_the_chosen_do_not_depend_on_the_order_of_events() -> None:
    names = [f"e{i}" for i in range(100)]
    chosen = dict(zip(names, choose_events(names, 0.3, purpose="test"), strict=True))
    assert dict(zip(names[::-1], choose_events(names[::-1], 0.3, purpose="test"), strict=True)) == chosen


def test_many_scores_are_those_of_one_event_at_a_time() -> None:
    logits, _ = draw(200, temperature=1.0)
    two_classes = np.arange(200) % 2 == 0
    shares = market_class_probabilities(logits, 1.7, two_classes=two_classes)
    for many, row, two in zip(shares, logits, two_classes, strict=True):
        one = list(verdict_probabilities(row, temperature=1.7, classes=2 if two else 3).values())
        assert many.tolist() == pytest.approx([*one, 0.0][:3], abs=1e-12)


def test_one_choice_may_be_made_within_another() -> None:
    names = [f"e{i}" for i in range(4000)]
    kept = [name for name, chosen in zip(names, choose_events(names, 0.3, purpose="a"), strict=True) if chosen]
    assert choose_events(kept, 0.3, purpose="b").mean() == pytest.approx(0.3, abs=0.06)


def test_a_backfill_that_leaves_nothing_to_judge_by_is_refused() -> None:
    logits, labels = draw(10, temperature=1.0)
    with pytest.raises(ValueError, match="events to fit on and others to judge by"):
        calibrate(logits, labels, np.zeros(10, bool), np.ones(10, bool))
