"""Alarms: none in a quiet month, one at once when something broke, and as seldom by chance as is stated."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from cancellation.features.vector import feature_names
from cancellation.monitoring.counts import DECISION_COLUMNS, DayCounts, DecisionCounter, MarketCounts, merge
from cancellation.monitoring.drift import DriftSettings, MissingSignal, feature_drift, missing_signals
from cancellation.monitoring.feedback import FeedbackDay, Review
from cancellation.monitoring.findings import FindingSettings, compare_day, missing_hours
from cancellation.monitoring.precision import PrecisionSettings, detect, measure
from cancellation.monitoring.triggers import RetrainDecision, TriggerSettings, decide
from tests.builders.monitored_days import DAY, Change, decisions, pool, profile

CALLS = [place for place, name in enumerate(feature_names()) if "call" in name]


def counted(back: int, num_events: int = 900, **changes: object) -> DayCounts:
    day = DAY - timedelta(days=back)
    counter = DecisionCounter(day, profile())
    counter.add(decisions(day, num_events, **changes).select(DECISION_COLUMNS))
    return counter.counts


@pytest.fixture(scope="module")
def quiet() -> list[DayCounts]:
    return [counted(back) for back in range(40, 0, -1)]


def drift(day: DayCounts, before: Sequence[DayCounts] = ()) -> list:
    past = [merge(list(one.markets.values())) for one in before]
    return feature_drift(merge(list(day.markets.values())), past, profile(), DriftSettings())


def test_thirty_quiet_days_raise_no_alarm(quiet: list[DayCounts]) -> None:
    for place in range(10, 40):
        before = quiet[max(0, place - 28) : place]
        assert compare_day(quiet[place], before, FindingSettings()) == []
        assert missing_hours(quiet[place], before, FindingSettings()) == {}
        assert [one.name for one in drift(quiet[place]) if one.drifted] == []


def test_what_broke_is_told_on_the_day(quiet: list[DayCounts]) -> None:
    broken = counted(0, induced=0.45, fallback=0.12, total_ms=40.0)
    told = "\n".join(one.text for one in compare_day(broken, quiet[-28:], FindingSettings()))
    assert "all markets: induced 4" in told
    assert "answered by the rules, as the model did not, 1" in told
    assert "slowest hundredth of the answers" in told
    assert "BR: induced" not in told, "what moved everywhere is not told of each market again"


def test_a_market_that_moves_alone_is_named(quiet: list[DayCounts]) -> None:
    today = counted(0)
    today.markets["TH"] = counted(0, 300, markets=("TH",), induced=0.6).markets["TH"]
    subjects = [one.text[:2] for one in compare_day(today, quiet[-28:], FindingSettings()) if one.subject == "verdicts"]
    assert "TH" in subjects


def test_hours_that_chance_left_empty_are_told_on_one_day_in_a_hundred_at_most() -> None:
    rng, codes = np.random.default_rng(5), [f"M{number}" for number in range(9)]

    def drawn(mean: float) -> DayCounts:
        hours = {code: rng.poisson(mean, 24).tolist() for code in codes}
        return DayCounts("2026-11-22", {code: MarketCounts(hours=one) for code, one in hours.items()})

    for mean in (0.5, 2.0, 7.0):
        before = [drawn(mean) for _ in range(28)]
        told = sum(bool(missing_hours(drawn(mean), before, FindingSettings())) for _ in range(1000))
        assert told <= 20, mean
    silent = drawn(7.0)
    silent.markets["M3"].hours[4:6] = [0, 0]
    assert missing_hours(silent, [drawn(7.0) for _ in range(28)], FindingSettings()) == {"M3": [4, 5]}


def test_traffic_that_halves_is_told(quiet: list[DayCounts]) -> None:
    told = [one.text for one in compare_day(counted(0, 420), quiet[-28:], FindingSettings())]
    assert "all markets: 420 decisions, usually 900" in told


def _silent_calls(features: np.ndarray, _: np.random.Generator) -> np.ndarray:
    features[:, CALLS] = np.nan
    return features


def _slang(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """People write otherwise: one feature takes the values of another part of its range."""
    place = feature_names().index("order_age_hours")
    features[:, place] = features[:, place] * rng.uniform(2, 4, len(features))
    return features


def test_a_dead_feed_is_drift_and_a_missing_signal_at_once(quiet: list[DayCounts]) -> None:
    broken = counted(0, change=_silent_calls)
    drifted = {one.name for one in drift(broken, quiet) if one.drifted}
    assert {feature_names()[place] for place in CALLS if np.isfinite(pool()[:, place]).mean() > 0.6} <= drifted
    past = {code: [day.markets[code] for day in quiet] for code in broken.markets}
    found = missing_signals(broken.markets, past, profile(), DriftSettings())
    assert found
    assert {one.how for one in found} == {"missing"}
    assert {one.market for one in found} == {""}, "what is missing everywhere is named once"


def test_a_feed_that_dies_in_one_market_is_named_there(quiet: list[DayCounts]) -> None:
    broken = counted(0)
    broken.markets["ID"] = counted(0, 600, markets=("ID",), change=_silent_calls).markets["ID"]
    past = {code: [day.markets[code] for day in quiet] for code in broken.markets}
    found = missing_signals(broken.markets, past, profile(), DriftSettings())
    assert {one.market for one in found} == {"ID"}


def test_few_events_say_nothing(quiet: list[DayCounts]) -> None:
    assert drift(counted(0, 120, change=_silent_calls)) == []


def reviews(right: Sequence[bool], market: str = "TH") -> list[Review]:
    return [Review(str(n), market, "small@1", "model", "induced", "none", bool(one)) for n, one in enumerate(right)]


def day_of(right: Sequence[bool], day: str = "2026-11-22") -> FeedbackDay:
    return FeedbackDay(day, reviews=reviews(right))


def test_the_precision_alarm_is_as_seldom_as_it_says() -> None:
    """At the promised precision, the worst case, 300 reviews pass on average until an alarm, at least."""
    settings = PrecisionSettings(reviews_per_false_alarm=300)
    rng = np.random.default_rng(5)
    lengths = []
    for _ in range(60):
        days = [day_of([right], str(number)) for number, right in enumerate(rng.random(1500) < settings.promised)]
        crossed = (number for number in range(50, 1500, 50) if detect(days[:number], "", settings).since)
        lengths.append(next(crossed, 1500))  # one that is longer counts as that long
    assert np.mean(lengths) > 300


def test_a_fall_of_precision_is_noticed_within_the_reviews_that_are_stated() -> None:
    rng = np.random.default_rng(6)
    for precision, within in ((0.8, 450), (0.5, 70)):
        good, bad = rng.random(2000) < 0.95, rng.random(within) < precision
        days = [day_of(good, "2026-11-01"), day_of(bad, "2026-11-22")]
        assert detect(days, "", PrecisionSettings()).since == "2026-11-22"
        assert detect(days, "BR", PrecisionSettings()).reviews == 0


def test_precision_is_estimated_and_measured() -> None:
    found = measure([200, 184.0], reviews([True] * 45 + [False] * 5))
    assert (found.flagged, found.expected, found.measured) == (200, pytest.approx(0.92), 0.9)
    assert found.low < 0.9 < found.high
    assert measure([0, 0.0], []).measured is measure([0, 0.0], []).expected is None


def test_a_feared_precision_above_the_promised_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="feared: expected less than promised"):
        PrecisionSettings(promised=0.8, feared=0.9)


def decided(**changes: object) -> RetrainDecision:
    given = {"drift": [], "signals": [], "feedback": [], "alarms": [], "settings": TriggerSettings(), **changes}
    return decide("2026-11-22", "small@1", **given)


def _fired(decision: RetrainDecision) -> list[str]:
    return [trigger.name for trigger in decision.triggers if trigger.fired]


def test_nothing_fires_on_a_quiet_day(quiet: list[DayCounts]) -> None:
    decision = decided(drift=[drift(day) for day in quiet[-3:]])
    assert not decision.retrain
    assert (decision.relabel, decision.command) == (None, None)
    assert all(trigger.reason for trigger in decision.triggers)


@pytest.mark.parametrize("change", [_silent_calls, _slang])
def test_drift_fires_on_the_third_day_of_it(quiet: list[DayCounts], change: Change) -> None:
    broken = [counted(back, change=change) for back in (2, 1, 0)]
    assert _fired(decided(drift=[drift(day) for day in [quiet[-1], *broken[:2]]])) == []
    decision = decided(drift=[drift(day) for day in broken])
    assert _fired(decision) == ["drift"]
    assert "jobs.cancellation_train" in (decision.command or "")
    assert "jobs.cancellation_relabel" in (decision.relabel or "")


def test_a_thousand_wrong_predictions_of_the_model_in_service_fire() -> None:
    settings = TriggerSettings(wrong_predictions=100)
    days = [day_of([False] * 60, "2026-11-21"), day_of([False] * 40 + [True] * 500)]
    assert _fired(decided(feedback=days, settings=settings)) == ["wrong_predictions"]
    other = [FeedbackDay("2026-11-22", reviews=[Review("a", "TH", "old@0", "model", "induced", "none", False)] * 100)]
    assert _fired(decided(feedback=other, settings=settings)) == []


def test_an_alarm_and_a_missing_signal_fire(quiet: list[DayCounts]) -> None:
    alarm = detect([day_of([False] * 60)], "TH", PrecisionSettings())
    broken = counted(0, change=_silent_calls)
    signals = missing_signals(broken.markets, {}, profile(), DriftSettings())
    decision = decided(alarms=[alarm], signals=signals)
    assert _fired(decision) == ["precision", "signals"]
    assert "TH since 2026-11-22" in decision.triggers[2].reason


def test_the_printed_round_reads_what_the_monitor_reads_and_writes() -> None:
    gone = MissingSignal("BR", "calls.count", "missing", 1.0, 0.1)
    places = {"ARCHIVE": "s3://logs/of verdicts", "MONITORING": "var/days"}
    printed = decided(signals=[gone], places=places).relabel or ""
    assert {"archive=s3://logs/of verdicts", "monitoring=var/days"} <= {*shlex.split(printed)}
