"""The 68 features: their order, their values by hand, and one event against a table of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cancellation.events.event import Event, cut_event, parse_event
from cancellation.features.measures import spread_of
from cancellation.features.vector import FEATURES, GROUPS, feature_digest, feature_names, feature_table, features
from tests.builders.cancellation_events import before, event_mappings, sample_event, with_later_entries

relaxed = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def named(event: Event) -> dict[str, float]:
    return dict(zip(feature_names(), features(event).tolist(), strict=True))


def test_there_are_18_and_7_and_38_and_5_features_in_that_order() -> None:
    assert {name: len(group) for name, group in GROUPS.items()} == {
        "fulfilment": 18,
        "seller_activity": 7,
        "communication": 38,
        "order": 5,
    }
    assert tuple(feature for group in GROUPS.values() for feature in group) == FEATURES
    assert len(set(feature_names())) == 68
    assert all(feature.unit and feature.meaning.endswith(".") for feature in FEATURES)


def test_the_order_is_the_one_that_models_were_trained_on() -> None:
    # A change here makes every saved model unusable: it needs a new digest and a new training.
    assert feature_digest() == "7f9e93aaf5ceec9f"


def test_the_values_of_an_event_worked_out_by_hand() -> None:
    expected = {
        "promised_ship_hours": 48,
        "actual_ship_hours": math.nan,
        "order_age_hours": 36,
        "promise_elapsed_ratio": 0.75,
        "promised_slack_hours": 12,
        "extended_slack_hours": 36,
        "packing_hours": 6,
        "handover_hours": math.nan,
        "fulfilment_update_count": 2,
        "last_update_age_hours": 6,
        "extension_count": 1,
        "extension_hours": 24,
        "deadline_miss_count": 0,
        "delay_count": 1,
        "stock_out_count": 0,
        "delay_volatility_index": 0.4,
        "seller_extension_share": 0.06,
        "seller_late_share": 0.15,
        "active_share": 0.5,
        "idle_share": 0.25,
        "offline_share": 0.25,
        "last_active_to_cancel_hours": 18,
        "mean_processing_hours": 30,
        "processing_elapsed_ratio": 1.2,
        "mean_reply_minutes": 30,
        "message_count": 4,
        "buyer_message_count": 2,
        "seller_message_count": 2,
        "system_message_count": 1,
        "seller_message_share": 0.5,
        "buyer_character_count": 30,
        "seller_character_count": 19,
        "buyer_mean_length": 15,
        "seller_mean_length": 9.5,
        "buyer_longest_length": 17,
        "seller_longest_length": 14,
        "seller_reply_count": 1,
        "seller_reply_mean_minutes": 10,
        "seller_reply_median_minutes": 10,
        "seller_reply_longest_minutes": 10,
        "seller_reply_spread_minutes": math.nan,
        "seller_reply_slowdown_ratio": 1 / 3,
        "buyer_reply_mean_minutes": 100,
        "buyer_reply_median_minutes": 100,
        "buyer_reply_spread_minutes": math.nan,
        "unanswered_buyer_message_count": 1,
        "unanswered_wait_hours": 1 / 6,
        "turn_count": 3,
        "first_speaker_is_seller": 0,
        "last_speaker_is_seller": 0,
        "first_message_delay_hours": 34,
        "chat_span_hours": 11 / 6,
        "mean_gap_minutes": 110 / 3,
        "longest_gap_hours": 4 / 3,
        "last_message_to_cancel_minutes": 10,
        "last_seller_message_to_cancel_minutes": 90,
        "last_buyer_message_to_cancel_minutes": 10,
        "seller_call_count": 2,
        "buyer_call_count": 0,
        "seller_call_answered_share": 0.5,
        "talk_minutes": 61 / 60,
        "last_call_to_cancel_minutes": 30,
        "last_seller_contact_to_cancel_minutes": 30,
        "concurrent_order_count": 2,
        "concurrent_cancelled_share": 0.5,
        "same_buyer_order_count": 1,
        "seller_completion_share": 0.85,
        "seller_cancellation_share": 0.15,
    }
    assert tuple(expected) == feature_names()
    assert named(parse_event(sample_event())) == pytest.approx(expected, nan_ok=True)


def test_missing_is_nan_and_none_is_zero() -> None:
    bare = sample_event()
    for name in ("fulfilment", "chat", "calls", "seller_activity", "concurrent_orders", "seller_history"):
        del bare[name]
    unknown = {name for name, value in named(parse_event(bare)).items() if math.isnan(value)}
    assert set(feature_names()) - unknown == {
        "promised_ship_hours",
        "order_age_hours",
        "promise_elapsed_ratio",
        "promised_slack_hours",
    }
    lists = ("fulfilment", "chat", "calls", "concurrent_orders")
    none = named(parse_event({**bare, **{name: [] for name in lists}}))
    for name, value in none.items():
        if name.endswith("_count") and name != "deadline_miss_count":
            assert value == 0, name
    assert none["talk_minutes"] == none["extension_hours"] == none["buyer_character_count"] == 0
    assert math.isnan(none["buyer_mean_length"])


def test_a_call_counts_only_up_to_the_cancellation() -> None:
    mapping = sample_event()
    mapping["calls"] = [{"at": before(60), "caller": "seller", "answered": True, "duration_seconds": 600}]
    assert named(parse_event(mapping))["talk_minutes"] == 1


def test_an_answered_call_of_unknown_duration_is_no_call_of_no_duration() -> None:
    mapping = sample_event()
    mapping["calls"] = [{"at": before(60), "caller": "seller", "answered": True}]
    assert math.isnan(named(parse_event(mapping))["talk_minutes"])


@relaxed
@given(st.lists(event_mappings(), min_size=1, max_size=6))
def test_one_event_and_a_table_agree_in_every_bit(mappings: list[dict[str, Any]]) -> None:
    events = [parse_event(mapping) for mapping in mappings]
    table = feature_table(events)
    assert table.shape == (len(events), 68)
    assert table.dtype == np.float64
    for event, row in zip(events, table, strict=True):
        single = features(event)
        different = [
            name for name, a, b in zip(feature_names(), single, row, strict=True) if a.tobytes() != b.tobytes()
        ]
        assert different == []
        assert not np.isinf(single.astype(np.float32)).any()


def test_an_empty_table_has_68_columns() -> None:
    assert feature_table([]).shape == (0, 68)


@relaxed
@given(event_mappings(), st.integers(1, 10**6))
def test_later_events_change_nothing(mapping: dict[str, Any], seconds: int) -> None:
    recut = cut_event(with_later_entries(mapping, seconds), mapping["cancelled_at"])
    np.testing.assert_array_equal(features(parse_event(recut)), features(parse_event(mapping)))


def test_a_thousand_messages_at_one_instant() -> None:
    mapping = sample_event()
    mapping["chat"] = [
        {"at": before(5), "sender": "buyer" if index % 2 else "seller", "text": "?"} for index in range(1000)
    ]
    event = parse_event(mapping)
    values = named(event)
    assert values["message_count"] == values["turn_count"] == 1000
    assert values["seller_reply_count"] == 499
    assert values["seller_reply_spread_minutes"] == values["mean_gap_minutes"] == values["chat_span_hours"] == 0
    np.testing.assert_array_equal(feature_table([event])[0], features(event))


def test_zero_durations_leave_ratios_missing_and_nothing_infinite() -> None:
    mapping = sample_event()
    mapping["order"] = {"placed_at": before(0), "promised_ship_at": before(0)}
    mapping["seller_activity"] = [{"from": before(0), "to": before(0), "state": "active"}]
    mapping["seller_history"] = {
        "orders": 0,
        "completed": 0,
        "mean_processing_hours": 5e-324,
        "processing_hours_std": 9,
    }
    values = named(parse_event(mapping))
    assert math.isnan(values["promise_elapsed_ratio"])
    assert math.isnan(values["active_share"])
    assert math.isnan(values["seller_completion_share"])
    assert values["delay_volatility_index"] == 1e12
    assert values["last_active_to_cancel_hours"] == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (math.nan,) * 4),
        ([3.0], (3.0, 3.0, 3.0, math.nan)),
        ([4.0, 1.0, 1.0, 2.0], (2.0, 1.5, 4.0, math.sqrt(1.5))),
    ],
)
def test_the_spread_of_a_few_numbers(values: list[float], expected: tuple[float, ...]) -> None:
    assert spread_of(values) == pytest.approx(expected, nan_ok=True)
