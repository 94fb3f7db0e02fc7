"""From which score on a verdict accuses: the lowest at which the labelled cases keep the promise, not lower."""

from __future__ import annotations

import numpy as np

from cancellation.decision.induced_thresholds import InducedThreshold, find_induced_thresholds
from cancellation.decision.thresholds import ThresholdSettings

SETTINGS = ThresholdSettings(min_precision=0.9, min_cases=180)


def cases(*counts: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of (score, how many, how many of them induced)."""
    scores = np.concatenate([np.full(many, score) for score, many, _ in counts])
    induced = np.concatenate([np.arange(many) < right for _, many, right in counts])
    return np.stack([scores, 1 - scores, np.zeros(len(scores))], axis=1), induced


def test_the_lowest_score_that_keeps_the_promise_is_chosen_and_none_where_the_likeliest_does() -> None:
    probabilities, induced = cases((0.58, 40, 20), (0.68, 40, 32), (0.97, 120, 118), (0.2, 100, 3))
    markets = ["TH"] * len(induced)
    found = find_induced_thresholds(probabilities, induced, markets, ["TH"], SETTINGS)["TH"]
    assert found == InducedThreshold(0.6, 160, 150 / 160, pooled=False)
    easy = find_induced_thresholds(probabilities[80:], induced[80:], markets[80:], ["TH"], SETTINGS)["TH"]
    assert (easy.threshold, easy.cases) == (None, 120)


def test_a_market_that_accuses_seldom_takes_the_score_of_all_and_a_large_one_its_own() -> None:
    poor, wrong = cases((0.7, 100, 60), (0.95, 100, 98))
    good, right = cases((0.7, 20, 18))
    found = find_induced_thresholds(
        np.vstack([poor, good]),
        np.concatenate([wrong, right]),
        ["TH"] * 200 + ["BR"] * 20,
        ["BR", "MX", "TH"],
        SETTINGS,
    )
    assert found["TH"].threshold == 0.7
    assert not found["TH"].pooled
    assert found["BR"] == found["MX"]
    assert found["BR"].pooled


def test_weights_count_and_what_is_punished_is_always_called_induced() -> None:
    probabilities, induced = cases((0.6, 100, 90), (0.99, 100, 100))
    markets = ["TH"] * 200
    weights = np.where((probabilities[:, 0] == 0.6) & ~induced, 20.0, 1.0)
    assert find_induced_thresholds(probabilities, induced, markets, ["TH"], SETTINGS)["TH"].threshold is None
    assert find_induced_thresholds(probabilities, induced, markets, ["TH"], SETTINGS, weights)["TH"].threshold == 0.6
    hopeless, labels = cases((0.99, 200, 20))
    strictest = find_induced_thresholds(hopeless, labels, markets, ["TH"], SETTINGS)["TH"]
    assert (strictest.threshold, strictest.precision) == (SETTINGS.penalty_grid[-1], 0.1)


def test_without_a_case_there_is_nothing_to_choose_by() -> None:
    probabilities, induced = cases((0.1, 50, 0))
    assert find_induced_thresholds(probabilities, induced, ["TH"] * 50, ["TH"], SETTINGS) == {
        "TH": InducedThreshold(None, 0, None, pooled=True)
    }
