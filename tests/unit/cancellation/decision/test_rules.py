"""Rules v1: what it sees, what it is known not to see, and that no event can break it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from cancellation.decision.rules import judge, rules_v1
from cancellation.events.event import parse_event
from cancellation.events.factors import FACTORS
from tests.builders.cancellation_events import before, event_mappings, sample_event


def quiet_event() -> dict[str, Any]:
    """An event in which nothing speaks against the seller."""
    mapping = sample_event()
    for name in ("fulfilment", "chat", "calls", "concurrent_orders", "seller_activity"):
        mapping[name] = []
    mapping["order"]["placed_at"] = before(3600)
    mapping["order"]["paid_at"] = before(3600)
    mapping["buyer_reason"] = None
    return mapping


def saying(sender: str, text: str) -> dict[str, Any]:
    return {**quiet_event(), "chat": [{"at": before(60), "sender": sender, "text": text}]}


def test_nothing_found_is_not_induced() -> None:
    verdict = judge(parse_event(quiet_event()))
    assert (verdict.verdict, verdict.score, verdict.factors) == ("not_induced", 0.0, ())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Please CANCEL it", "chat.asked_to_cancel"),
        ("ca\u200bncel it", "chat.asked_to_cancel"),
        ("ของหมดแล้วค่ะ", "chat.out_of_stock"),
        ("đặt lại giúp em", "chat.asked_to_reorder"),
        ("標錯價了", "chat.price_change"),
        ("chama no WhatsApp", "chat.off_platform"),
    ],
)
def test_a_keyword_of_the_seller_counts_and_the_same_of_the_buyer_does_not(text: str, code: str) -> None:
    verdict = judge(parse_event(saying("seller", text)))
    assert verdict.factors == (code,)
    assert verdict.evidence == {code: 0}
    assert verdict.score == rules_v1().weights[code]
    assert code not in judge(parse_event(saying("buyer", text))).factors


def test_keywords_add_up_to_induced() -> None:
    verdict = judge(parse_event(saying("seller", "out of stock, please cancel")))
    assert verdict.verdict == "induced"
    assert verdict.score == pytest.approx(0.8)


def test_the_buyers_reason_counts_for_the_seller() -> None:
    mapping = saying("seller", "out of stock, please cancel")
    mapping["buyer_reason"] = "I found it cheaper"
    verdict = judge(parse_event(mapping))
    assert verdict.score == pytest.approx(0.6)
    assert "buyer.found_cheaper" in verdict.factors


def test_an_overdue_order_without_an_update_and_an_unanswered_buyer() -> None:
    mapping = saying("buyer", "hello?")
    mapping["order"] = {"placed_at": before(90 * 3600), "promised_ship_at": before(3600)}
    mapping["chat"][0]["at"] = before(30 * 3600)
    verdict = judge(parse_event(mapping))
    assert verdict.factors == ("chat.no_reply", "fulfilment.no_shipping_update", "fulfilment.deadline_missed")
    assert verdict.verdict == "induced"


def test_an_extension_moves_the_deadline() -> None:
    mapping = quiet_event()
    mapping["order"]["promised_ship_at"] = before(60)
    mapping["fulfilment"] = [{"at": before(120), "kind": "deadline_extended", "new_deadline_at": before(-3600)}]
    assert judge(parse_event(mapping)).factors == ("fulfilment.deadline_extended",)


def test_only_an_answered_call_just_before_counts() -> None:
    call = {"at": before(600), "caller": "seller", "answered": True, "duration_seconds": 90}
    assert judge(parse_event({**quiet_event(), "calls": [call]})).factors == ("call.from_seller",)
    for change in ({"answered": False}, {"caller": "buyer"}, {"at": before(3599)}):
        assert judge(parse_event({**quiet_event(), "calls": [{**call, **change}]})).factors == ()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(event_mappings())
def test_no_event_breaks_the_rules(mapping: dict[str, Any]) -> None:
    verdict = judge(parse_event(mapping))
    assert 0 <= verdict.score <= 1
    assert set(verdict.factors) <= set(FACTORS)
    assert verdict.verdict in ("induced", "not_induced")
    for index in verdict.evidence.values():
        assert 0 <= index < len(mapping["chat"])
