"""The event's parser against the contract, and beyond it where JSON Schema cannot say it."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cancellation.events.event import cut_event, event_mapping, parse_event
from cancellation.events.fields import EventError
from tests.builders.cancellation_events import CUTOFF, before, event_mappings, sample_event, with_later_entries

SCHEMAS = resources.files("cancellation.events") / "schemas"
SHARED = Path(__file__).parents[5] / "shared" / "contracts"
ORACLE = jsonschema.Draft202012Validator(
    json.loads((SCHEMAS / "cancellation_event.schema.json").read_text()),
    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
)
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared contracts are not at hand")
@pytest.mark.parametrize("name", ["cancellation_event.schema.json", "verdict.schema.json"])
def test_schemas_equal_the_shared_contracts(name: str) -> None:
    assert json.loads((SCHEMAS / name).read_text()) == json.loads((SHARED / name).read_text())


def test_every_field_arrives() -> None:
    event = parse_event(json.dumps(sample_event()).encode())
    assert event.cancelled_at == CUTOFF.timestamp()
    assert event.market == "TH"
    assert event.order.paid_at == event.order.placed_at + 120
    assert event.order.shipped_at is None
    assert [entry.kind for entry in event.fulfilment] == ["packed", "deadline_extended"]
    assert event.fulfilment[1].new_deadline_at == event.cancelled_at + 36 * 3600
    assert [message.sender for message in event.chat] == ["buyer", "seller", "system", "seller", "buyer"]
    assert event.calls[1].duration_seconds == 61
    assert event.seller_activity[2].end == event.cancelled_at
    assert event.concurrent_orders[0].same_buyer is True
    assert event.seller_history.mean_reply_seconds == 1800
    assert event.absent == frozenset()


def test_a_list_that_was_not_sent_is_absent_and_an_empty_one_is_not() -> None:
    mapping = sample_event()
    del mapping["calls"]
    mapping["chat"] = []
    event = parse_event(mapping)
    assert (event.calls, event.chat) == ((), ())
    assert event.absent == {"calls"}


@relaxed
@given(event_mappings())
def test_what_the_contract_allows_is_parsed_and_survives_a_round_trip(mapping: dict[str, Any]) -> None:
    ORACLE.validate(mapping)
    event = parse_event(mapping)
    assert parse_event(json.dumps(mapping)) == event
    again = event_mapping(event, utc_offset_hours=7)
    ORACLE.validate(again)
    reparsed = parse_event(again)
    assert event_mapping(reparsed, utc_offset_hours=7) == again
    assert [m.text for m in reparsed.chat] == [m.text for m in event.chat]


@relaxed
@given(event_mappings(), st.randoms(use_true_random=False))
def test_order_within_lists_is_not_assumed(mapping: dict[str, Any], shuffler: random.Random) -> None:
    event = parse_event(mapping)
    for name in ("chat", "calls", "fulfilment"):
        entries = getattr(event, name)
        assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
        for entry in entries:
            assert parse_event({**mapping, name: [mapping[name][entry.index]]}).absent == event.absent
        ties = [(entry.at, entry.index) for entry in entries]
        assert ties == sorted(ties)
    distinct = {message["at"]: message for message in mapping.get("chat", ())}
    shuffled = list(distinct.values())
    shuffler.shuffle(shuffled)
    texts = [message.text for message in parse_event({**mapping, "chat": shuffled}).chat]
    by_time = sorted(distinct.values(), key=lambda m: parse_event({**mapping, "chat": [m]}).chat[0].at)
    if len({parse_event({**mapping, "chat": [m]}).chat[0].at for m in shuffled}) == len(shuffled):
        assert texts == [message["text"] for message in by_time]


@relaxed
@given(event_mappings(), st.floats(0.001, 1e6))
def test_a_longer_log_cut_at_the_cancellation_is_the_same_event(mapping: dict[str, Any], seconds: float) -> None:
    longer = with_later_entries(mapping, max(round(seconds, 3), 0.001))
    if any(name in longer for name in ("chat", "calls")):
        with pytest.raises(EventError, match="later than cancelled_at"):
            parse_event({**longer, "cancelled_at": mapping["cancelled_at"]})
    assert parse_event(cut_event(longer, mapping["cancelled_at"])) == parse_event(mapping)


def test_a_cut_shortens_a_span_and_forgets_a_later_shipment() -> None:
    mapping = sample_event()
    mapping["order"]["shipped_at"] = before(60)
    event = parse_event(cut_event(mapping, before(3600)))
    assert event.order.shipped_at is None
    assert event.order.paid_at is not None
    assert event.seller_activity[-1].end == event.cancelled_at == CUTOFF.timestamp() - 3600


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def mutate(mapping: dict[str, Any]) -> None:
        for key in keys[:-1]:
            mapping = mapping[key]
        mapping[keys[-1]] = to

    return mutate


def _delete(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def mutate(mapping: dict[str, Any]) -> None:
        for key in keys[:-1]:
            mapping = mapping[key]
        del mapping[keys[-1]]

    return mutate


REFUSED_BY_BOTH = [
    (_delete("event_id"), "event_id: required, but missing"),
    (_delete("chat", 3, "at"), "chat[3].at: required, but missing"),
    (_delete("order", "placed_at"), "order.placed_at: required, but missing"),
    (_set("event_id", to=""), "event_id: expected at least one character"),
    (_set("event_id", to="x" * 129), "event_id: expected at most 128 characters, found 129"),
    (_set("market", to="th"), "market: expected two capital letters, such as TH"),
    (_set("secret", to=1), "event: 1 unknown field(s); it may have only buyer_id, "),
    (_set("chat", 0, "secret", to=1), "chat[0]: 1 unknown field(s); it may have only at, sender, text"),
    (_set("chat", to={}), "chat: expected an array, found object"),
    (_set("chat", to=None), "chat: expected an array, found null"),
    (_set("chat", 2, to="secret"), "chat[2]: expected an object, found string"),
    (_set("chat", 0, "sender", to="secret"), "chat[0].sender: expected one of buyer, seller, system"),
    (_set("chat", 0, "text", to=None), "chat[0].text: expected a string, found null"),
    (_set("chat", 0, "text", to="x" * 4001), "chat[0].text: expected at most 4000 characters, found 4001"),
    (_set("chat", to=[{"at": before(1), "sender": "buyer", "text": ""}] * 1001), "chat: expected at most 1000 entries"),
    (_set("cancelled_at", to=0), "cancelled_at: expected an RFC 3339 instant, found number"),
    (_set("cancelled_at", to="2026-03-14T09:26:53"), "cancelled_at: expected an offset such as Z or +07:00"),
    (_set("cancelled_at", to="2026-03-14T09:26:53+00:60"), "cancelled_at: expected an RFC 3339 instant such as"),
    (_set("cancelled_at", to="14 secret 2026"), "cancelled_at: expected an RFC 3339 instant such as"),
    (_set("cancelled_at", to="20260314T092653Z"), "cancelled_at: expected an RFC 3339 instant such as"),
    (_set("cancelled_at", to="2026-03-14"), "cancelled_at: expected an RFC 3339 instant such as"),
    (_set("cancelled_at", to="2026-02-30T09:26:53Z"), "cancelled_at: expected an instant that exists"),
    (_set("order", "item_count", to=0), "order.item_count: expected a whole number of at least 1"),
    (_set("order", "item_count", to=1.5), "order.item_count: expected a whole number of at least 1"),
    (_set("order", "item_count", to=True), "order.item_count: expected a number, found boolean"),
    (_set("order", "value", to=-1), "order.value: expected a number from 0 to"),
    (_set("order", "value", to="secret"), "order.value: expected a number, found string"),
    (_set("order", "currency", to="thb"), "order.currency: expected three capital letters"),
    (_set("order", to=[]), "order: expected an object, found array"),
    (_set("calls", 1, "answered", to=1), "calls[1].answered: expected true or false, found number"),
    (_set("calls", 1, "caller", to="system"), "calls[1].caller: expected one of buyer, seller"),
    (_set("fulfilment", 0, "kind", to="secret"), "fulfilment[0].kind: expected one of packed, "),
    (_set("fulfilment", 0, "note", to="x" * 501), "fulfilment[0].note: expected at most 500 characters"),
    (_set("concurrent_orders", 0, "status", to=None), "concurrent_orders[0].status: expected one of open, "),
    (_set("seller_activity", 0, "state", to="busy"), "seller_activity[0].state: expected one of active, idle, "),
    (_set("seller_history", "orders", to=None), "seller_history.orders: expected a number, found null"),
    (_set("seller_history", "secret", to=1), "seller_history: 1 unknown field(s)"),
]

REFUSED_BEYOND_THE_SCHEMA = [
    (_set("cancelled_at", to="9999-12-31T23:59:59-23:59"), "cancelled_at: expected an instant of the years 1 to 9999"),
    (_set("order", "placed_at", to="0001-01-01T00:00:00+14:00"), "order.placed_at: expected an instant of the years"),
    (_set("chat", 1, "at", to=before(-1)), "chat[1].at: later than cancelled_at"),
    (_set("calls", 0, "at", to=before(-0.001)), "calls[0].at: later than cancelled_at"),
    (_set("fulfilment", 0, "at", to=before(-1)), "fulfilment[0].at: later than cancelled_at"),
    (_set("order", "placed_at", to=before(-1)), "order.placed_at: later than cancelled_at"),
    (_set("order", "paid_at", to=before(-1)), "order.paid_at: later than cancelled_at"),
    (_set("order", "shipped_at", to=before(-1)), "order.shipped_at: later than cancelled_at"),
    (_set("seller_activity", 2, "to", to=before(-1)), "seller_activity[2].to: later than cancelled_at"),
    (_set("seller_activity", 0, "to", to=before(99 * 3600)), "seller_activity[0].to: expected an instant at or after"),
    (_set("concurrent_orders", 0, "placed_at", to=before(-1)), "concurrent_orders[0].placed_at: later than"),
    (_set("chat", 0, "text", to="secret \ud83d"), "chat[0].text: expected Unicode text, character 7 is half"),
    (_set("buyer_reason", to="\udc00"), "buyer_reason: expected Unicode text"),
    (_set("event_id", to="\udc00"), "event_id: expected Unicode text"),
    (_set("order", "value", to=float("inf")), "order.value: expected a number from 0 to 1e+15"),
    (_set("order", "value", to=float("nan")), "order.value: expected a number from 0 to 1e+15"),
    (_set("order", "value", to=10**400), "order.value: expected a number from 0 to 1e+15"),
]


@pytest.mark.parametrize(("mutate", "message"), REFUSED_BY_BOTH)
def test_what_the_contract_forbids_is_refused_by_its_path(mutate: Callable[..., None], message: str) -> None:
    mapping = sample_event()
    mutate(mapping)
    assert not ORACLE.is_valid(mapping)
    with pytest.raises(EventError) as refusal:
        parse_event(mapping)
    assert str(refusal.value).startswith(message)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(("mutate", "message"), REFUSED_BEYOND_THE_SCHEMA)
def test_what_json_schema_cannot_say_is_refused_too(mutate: Callable[..., None], message: str) -> None:
    mapping = sample_event()
    mutate(mapping)
    with pytest.raises(EventError) as refusal:
        parse_event(mapping)
    assert str(refusal.value).startswith(message)
    assert "secret" not in str(refusal.value)


def test_deadlines_may_lie_after_the_cancellation() -> None:
    mapping = sample_event()
    mapping["order"]["promised_ship_at"] = before(-1e7)
    mapping["fulfilment"][1]["new_deadline_at"] = before(-2e7)
    assert parse_event(mapping).order.promised_ship_at == CUTOFF.timestamp() + 1e7


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"{", "event: expected JSON, found a syntax error at character 1"),
        (b'{"a": 1, "a": 2}', "event: expected each key once in an object, found one repeated"),
        (b'{"a": NaN}', "event: expected finite numbers, found NaN"),
        (b'{"a": -Infinity}', "event: expected finite numbers, found -Infinity"),
        (b'{"a": "\xff"}', "event: expected UTF-8, byte 7 is none"),
        (b"[" * 100_000, "event: expected JSON at most six levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "event: expected numbers that a 64-bit float can hold"),
        (b"[]", "event: expected an object, found array"),
        (b"null", "event: expected an object, found null"),
    ],
)
def test_json_that_is_not_plain_json_is_refused(source: bytes, message: str) -> None:
    with pytest.raises(EventError) as refusal:
        parse_event(source)
    assert str(refusal.value) == message


def test_a_number_too_large_for_a_float_is_refused_in_json() -> None:
    source = json.dumps(sample_event()).replace("410.5", "1e999")
    with pytest.raises(EventError, match=r"^order\.value: expected a number"):
        parse_event(source)


def test_lone_surrogates_are_refused_when_they_come_as_escapes() -> None:
    source = json.dumps(sample_event()).replace("sorry", "\\ud83d")
    with pytest.raises(EventError, match=r"^chat\[3\]\.text: expected Unicode text"):
        parse_event(source)
    paired = json.dumps(sample_event()).replace("sorry", "\\ud83d\\ude00")
    assert parse_event(paired).chat[3].text == "😀"


def test_a_refusal_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(EventError("chat[3].at", "required, but missing")))
    assert (error.path, error.problem, str(error)) == (
        "chat[3].at",
        "required, but missing",
        "chat[3].at: required, but missing",
    )
