"""Thresholds: the exact test against its references, its error rate, pooling, and what is said to be missing."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from cancellation.decision.thresholds import (
    ThresholdSettings,
    cases_needed,
    count_flagged,
    find_thresholds,
    prove_threshold,
)
from cluster.statistics.shares import lower_bound, upper_bound

SETTINGS = ThresholdSettings()


def cases(num: int, precision: float, *, score: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cases of one score of which an exact share is induced."""
    induced = np.arange(num) < round(num * precision)
    return np.full(num, score), np.random.default_rng(seed).permutation(induced)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (29, 29), (45, 46), (390, 400), (1, 2)])
def test_bounds_are_clopper_and_pearsons(correct: int, total: int) -> None:
    # One-sided at 95 % is an end of the two-sided interval at 90 %.
    expected = binomtest(correct, total).proportion_ci(confidence_level=0.90, method="exact")
    assert lower_bound(correct, total, confidence=0.95) == pytest.approx(expected.low)
    assert upper_bound(correct, total, confidence=0.95) == pytest.approx(expected.high)


@pytest.mark.parametrize(("precision", "published"), [(0.92, 1360), (0.93, 560), (0.95, 179)])
def test_cases_needed_are_near_the_published_figures(precision: float, published: int) -> None:
    # Power of an exact test saws up and down with n: within one tooth.
    assert cases_needed(precision, SETTINGS) == pytest.approx(published, rel=0.12)


def test_no_number_of_cases_proves_what_is_not_so() -> None:
    assert cases_needed(0.90, SETTINGS) is None
    assert cases_needed(0.9001, SETTINGS) is None


def test_a_score_at_the_threshold_is_not_flagged() -> None:
    proof = count_flagged(np.array([0.95, 0.9501]), np.array([True, True]), 0.95, confidence=0.95)
    assert (proof.cases, proof.correct) == (1, 1)


def test_the_sequence_ends_at_the_first_failure() -> None:
    strict, strict_labels = cases(1000, 0.97, score=0.985)
    loose, loose_labels = cases(3000, 0.80, score=0.955)
    clean, clean_labels = cases(60_000, 1.00, score=0.925)  # would pass again below; the sequence never gets there
    scores = np.concatenate([strict, loose, clean])
    labels = np.concatenate([strict_labels, loose_labels, clean_labels])
    proven, failed = prove_threshold(scores, labels, SETTINGS)
    assert proven is not None
    assert failed is not None
    assert (proven.threshold, failed.threshold) == (0.96, 0.95)
    assert (proven.cases, proven.correct) == (1000, 970)


def test_a_wrong_threshold_passes_as_seldom_as_promised() -> None:
    """At a true precision of exactly 0.90 at most 5 % of the draws may prove it, over the whole sequence."""
    rng = np.random.default_rng(7)
    scores = np.repeat([0.995, 0.975, 0.945, 0.91], 150)
    wrong = sum(prove_threshold(scores, rng.random(600) < 0.90, SETTINGS)[0] is not None for _ in range(2000))
    assert wrong / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_cases_of_one_seller_count_for_what_they_are_worth_together() -> None:
    """Sellers of twenty cases each, right in all or in none of them, nine of ten right: as seldom as promised."""
    rng = np.random.default_rng(11)
    sellers = np.repeat(np.arange(60), 20)
    scores = np.full(len(sellers), 0.96)
    draws = [(rng.random(60) < 0.90)[sellers] for _ in range(400)]
    alike = sum(prove_threshold(scores, right, SETTINGS, sellers)[0] is not None for right in draws)
    blind = sum(prove_threshold(scores, right, SETTINGS)[0] is not None for right in draws)
    assert alike / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert blind / 400 > 0.2, "cases taken for independent prove what is not so"


def test_a_seller_of_each_case_leaves_the_exact_bound_and_no_error_counts_sellers() -> None:
    scores, labels = cases(400, 0.95, score=0.97)
    single = count_flagged(scores, labels, 0.9, confidence=0.95, sellers=np.arange(400))
    assert single.lower_bound == pytest.approx(lower_bound(380, 400, confidence=0.95))
    perfect = count_flagged(scores, labels | True, 0.9, confidence=0.95, sellers=np.arange(400) // 10)
    assert (perfect.sellers, perfect.lower_bound) == (40, pytest.approx(lower_bound(40, 40, confidence=0.95)))


def test_mapie_finds_the_same_threshold() -> None:
    """But where it counts one error too many: it rounds cases x risk up, and 0.05 x 100 is 5.000000000000001."""
    risk_control = pytest.importorskip("mapie.risk_control")
    rng = np.random.default_rng(3)
    settings = ThresholdSettings(min_cases=29)
    equal = 0
    for _ in range(20):
        scores = rng.uniform(0.85, 1.0, 3000)
        labels = rng.random(3000) < np.clip(scores - rng.uniform(-0.02, 0.06), 0, 1)
        controller = risk_control.BinaryClassificationController(
            lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
            risk="precision",
            target_level=0.90,
            confidence_level=0.95,
            list_predict_params=np.array(settings.penalty_grid),
            fwer_method="fixed_sequence",
        )
        with np.testing.suppress_warnings() as quiet:
            quiet.filter(UserWarning)
            controller.calibrate(scores[:, None], labels.astype(int))
        valid = controller.valid_predict_params
        ours, _ = prove_threshold(scores, labels, settings)
        theirs, found = (min(valid) if len(valid) else 1.0), (ours.threshold if ours else 1.0)
        assert theirs >= found
        equal += theirs == found
    assert equal >= 16


def test_small_markets_are_pooled_and_a_large_one_stands_alone() -> None:
    rows = [
        ("ID", cases(900, 0.97, score=0.96)),
        ("SG", cases(120, 0.98, score=0.96)),
        ("TW", cases(130, 0.97, score=0.96)),
    ]
    scores = np.concatenate([part[0] for _, part in rows])
    labels = np.concatenate([part[1] for _, part in rows])
    markets = [code for code, part in rows for _ in part[0]]
    found = find_thresholds(scores, labels, markets, SETTINGS)
    assert found["ID"].pooled == ()
    assert found["SG"].pooled == found["TW"].pooled == ("SG", "TW")
    assert found["SG"].proven is not None
    assert found["SG"].proven.cases == 250


def test_a_market_that_contradicts_its_pool_gets_no_penalty() -> None:
    good, bad = cases(175, 1.0, score=0.96), cases(40, 0.7, score=0.96)
    scores, labels = (np.concatenate(parts) for parts in zip(good, good, bad, strict=True))
    found = find_thresholds(scores, labels, ["BR"] * 175 + ["MX"] * 175 + ["SG"] * 40, SETTINGS)
    assert found["BR"].proven is not None
    assert found["SG"].proven is None
    assert found["SG"].note == "its own cases contradict the pool's proof: 28 of 40 above 0.9 were induced"


def test_a_market_of_few_cases_is_told_how_many_are_missing() -> None:
    scores, labels = cases(100, 0.95, score=0.97)
    quiet = np.full(900, 0.1)
    found = find_thresholds(
        np.concatenate([scores, quiet]), np.concatenate([labels, quiet > 1]), ["SG"] * 1000, SETTINGS
    )["SG"]
    assert found.proven is None
    assert found.cases_missing == cases_needed(0.95, SETTINGS) - 100
    assert found.events_missing == 10 * found.cases_missing


def test_a_market_of_low_precision_is_told_that_cases_would_not_help() -> None:
    found = find_thresholds(*cases(1000, 0.85, score=0.97), ["ID"] * 1000, SETTINGS)["ID"]
    assert (found.proven, found.cases_missing) == (None, None)
    assert "a better model would" in found.note


def test_a_market_without_a_flagged_case_is_no_crash() -> None:
    found = find_thresholds(np.full(10, 0.2), np.zeros(10, bool), ["ID"] * 10, SETTINGS)["ID"]
    assert found.note == "no case above 0.9: nothing to go by"


@pytest.mark.parametrize("grid", [(), (0.9, 0.95), (0.95, 0.95), (1.2,), (float("nan"),)])
def test_a_grid_that_is_no_sequence_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"the largest first|finite number"):
        ThresholdSettings(penalty_grid=grid)


def test_equal_weights_change_next_to_nothing() -> None:
    scores, induced = cases(600, 0.95, score=0.99)
    plain = count_flagged(scores, induced, 0.95, confidence=0.95)
    weighted = count_flagged(scores, induced, 0.95, confidence=0.95, weights=np.full(600, 0.7))
    assert weighted.precision == pytest.approx(plain.precision)
    assert weighted.lower_bound == pytest.approx(plain.lower_bound, abs=0.001)


def test_cases_that_stand_for_many_prove_less() -> None:
    scores, induced = cases(100, 1.0, score=0.99)
    weights = np.where(np.arange(100) < 10, 10.0, 1.0)
    weighted = count_flagged(scores, induced, 0.95, confidence=0.95, weights=weights)
    assert weighted.effective == int(weights.sum() ** 2 / (weights**2).sum())
    assert weighted.lower_bound == lower_bound(33, 33, confidence=0.95)
    assert weighted.precision == 1.0


def test_the_bound_of_a_stratified_sample_holds_as_often_as_it_says() -> None:
    """Two strata of one precision each, one drawn three times as often: the weighted bound is below the truth."""
    rng, held, naive = np.random.default_rng(1), 0, 0
    truth = 0.5 * 0.97 + 0.5 * 0.85
    for _ in range(400):
        induced = np.concatenate([rng.random(300) < 0.97, rng.random(100) < 0.85])
        weights = np.repeat([2 / 3, 2.0], [300, 100])
        scores = np.full(400, 0.99)
        held += count_flagged(scores, induced, 0.9, confidence=0.95, weights=weights).lower_bound <= truth
        naive += count_flagged(scores, induced, 0.9, confidence=0.95).lower_bound <= truth
    assert held / 400 >= 0.93
    assert naive / 400 < 0.85
