"""Drift of texts, from their vectors on: as seldom by chance as is stated, and told where it happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cancellation.monitoring.counts import MarketCounts
from cancellation.monitoring.drift import DriftSettings, FeatureDrift, feature_drift
from cancellation.monitoring.texts import TextSample, compare_texts, text_findings, text_moves
from cancellation.monitoring.triggers import TriggerSettings, decide
from cancellation.text.profile import TextProfile, fit_text_profile
from tests.builders.monitored_days import TEXT_WIDTH, text_vectors
from tests.builders.monitored_days import profile as feature_profile

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Vectors, and the market of each -> vectors."""


@pytest.fixture(scope="module")
def profile() -> TextProfile:
    return fit_text_profile(*text_vectors(6000))


def sample(profile: TextProfile, seed: int, change: Change = lambda vectors, _: vectors, **given: object) -> TextSample:
    vectors, markets = text_vectors(given.pop("number", 700), seed=seed, **given)
    places = profile.places(change(vectors, np.array(markets)), markets)
    return TextSample([f"e-{number}" for number in range(len(markets))], markets, places, len(markets), 0, [])


def drift(profile: TextProfile, today: TextSample, **changes: object) -> list[FeatureDrift]:
    settings = DriftSettings(**changes)
    compared = compare_texts(today, [], profile, settings)
    return feature_drift(MarketCounts(), [], feature_profile(), settings, texts=compared)


def told(profile: TextProfile, today: TextSample) -> list[str]:
    found = drift(profile, today)
    return [one.text for one in text_findings(found, text_moves(found, today, profile))]


@pytest.mark.parametrize("level", [0.01, 0.2])
def test_quiet_days_are_significant_no_more_often_than_is_stated(profile: TextProfile, level: float) -> None:
    """Four hundred days drawn anew from what the profile was drawn from, with market shares of their own."""
    days = 400
    shares = np.random.default_rng(1).dirichlet([4, 4, 4], days)
    found = [drift(profile, sample(profile, 1 + day, shares=tuple(shares[day])), level=level) for day in range(days)]
    significant = sum(any(one.significant for one in day) for day in found)
    assert significant <= days * level + 3 * np.sqrt(days * level * (1 - level))
    assert [one.name for day in found for one in day if one.drifted] == []


def test_markets_that_are_busier_than_in_training_are_no_drift(profile: TextProfile) -> None:
    assert told(profile, sample(profile, 5, shares=(0.96, 0.02, 0.02))) == []


def test_texts_that_moved_everywhere_are_told_once(profile: TextProfile) -> None:
    def further(vectors: np.ndarray, _: np.ndarray) -> np.ndarray:
        return vectors + 3.0 * np.eye(TEXT_WIDTH)[0]

    (line,) = told(profile, sample(profile, 6, further))
    assert line.startswith("texts differ from training in 1 of 9 directions, most in direction 1 (PSI ")
    assert ", furthest in " in line


def test_texts_of_a_kind_that_training_never_had_are_far_from_all_directions(profile: TextProfile) -> None:
    def elsewhere(vectors: np.ndarray, _: np.ndarray) -> np.ndarray:
        return vectors + 4.0 * np.eye(TEXT_WIDTH)[-1]

    (line,) = told(profile, sample(profile, 7, elsewhere))
    assert "in 1 of 9 directions, most in distance from all directions" in line


def test_a_market_that_moves_alone_is_named_with_events_behind_it(profile: TextProfile) -> None:
    def one_market(vectors: np.ndarray, markets: np.ndarray) -> np.ndarray:
        return vectors + 4.0 * np.eye(TEXT_WIDTH)[0] * (markets == "TH")[:, None]

    today = sample(profile, 8, one_market, number=2000, shares=(0.46, 0.46, 0.08))
    (line,) = told(profile, today)
    assert line.startswith("texts of TH differ from training in 1 of 9 directions, most in direction 1")
    moves = text_moves(drift(profile, today), today, profile)
    behind = next(move for move in moves if move.drift.name == "text direction 1")
    assert behind.market == "TH"
    markets = dict(zip(today.event_ids, today.markets, strict=True))
    assert {markets[event_id] for event_id in behind.event_ids} == {"TH"}


def test_few_texts_say_nothing(profile: TextProfile) -> None:
    assert drift(profile, sample(profile, 9, number=499)) == []


def _decided(days: Sequence[Sequence[FeatureDrift]]) -> list[str]:
    nothing: dict = {"signals": [], "feedback": [], "alarms": [], "settings": TriggerSettings()}
    decision = decide("2026-11-22", "small@1", drift=days, **nothing)
    return [trigger.reason for trigger in decision.triggers if trigger.fired]


def test_three_days_of_it_are_a_reason_to_train_anew(profile: TextProfile) -> None:
    def further(vectors: np.ndarray, _: np.ndarray) -> np.ndarray:
        return vectors + 3.0 * np.eye(TEXT_WIDTH)[0]

    moved = [drift(profile, sample(profile, 20 + day, further)) for day in range(3)]
    quiet = drift(profile, sample(profile, 30))
    assert _decided([quiet, *moved[:2]]) == []
    (reason,) = _decided(moved)
    assert reason.startswith("drifted for 3 days: text direction 1")
