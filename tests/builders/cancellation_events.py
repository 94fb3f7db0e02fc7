"""Cancellation events for tests: one written out, and hypothesis strategies for any the contract allows."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from cancellation.events import event as events

CUTOFF = datetime(2026, 3, 14, 9, 26, 53, tzinfo=timezone(timedelta(hours=7)))


def before(seconds: float, *, hours_east: float = 7) -> str:
    """An instant some seconds before the cancellation of `sample_event` (after it, if negative)."""
    zone = timezone(timedelta(hours=hours_east))
    return (CUTOFF - timedelta(seconds=seconds)).astimezone(zone).isoformat()


def sample_event() -> dict[str, Any]:
    """An event with something in every field, made anew at each call."""
    return {
        "event_id": "e-1",
        "market": "TH",
        "order_id": "o-1",
        "buyer_id": "b-1",
        "seller_id": "s-1",
        "cancelled_at": before(0),
        "buyer_reason": "changed my mind",
        "order": {
            "placed_at": before(36 * 3600),
            "paid_at": before(36 * 3600 - 120),
            "promised_ship_at": before(-12 * 3600),
            "shipped_at": None,
            "item_count": 2,
            "value": 410.5,
            "currency": "THB",
        },
        "fulfilment": [
            {"at": before(30 * 3600), "kind": "packed"},
            {
                "at": before(6 * 3600),
                "kind": "deadline_extended",
                "new_deadline_at": before(-36 * 3600),
                "note": "rain",
            },
        ],
        "chat": [
            {"at": before(7200), "sender": "buyer", "text": "is it on its way?"},
            {"at": before(6600), "sender": "seller", "text": "tomorrow, dear"},
            {"at": before(6000), "sender": "system", "text": "The seller extended the deadline."},
            {"at": before(5400), "sender": "seller", "text": "sorry"},
            {"at": before(600), "sender": "buyer", "text": "no hurry then"},
        ],
        "calls": [
            {"at": before(3600), "caller": "seller", "answered": False},
            {"at": before(1800), "caller": "seller", "answered": True, "duration_seconds": 61},
        ],
        "seller_activity": [
            {"from": before(36 * 3600), "to": before(18 * 3600), "state": "active"},
            {"from": before(18 * 3600), "to": before(9 * 3600), "state": "idle"},
            {"from": before(9 * 3600), "to": before(0), "state": "offline"},
        ],
        "concurrent_orders": [
            {"order_id": "o-2", "placed_at": before(40 * 3600), "status": "open", "same_buyer": True},
            {
                "order_id": "o-3",
                "placed_at": before(20 * 3600),
                "status": "cancelled_by_buyer",
                "same_buyer": False,
                "chat_excerpt": "ok, I will cancel",
            },
        ],
        "seller_history": {
            "orders": 200,
            "completed": 170,
            "cancelled_by_buyer": 24,
            "cancelled_by_seller": 6,
            "late_shipments": 30,
            "deadline_extensions": 12,
            "mean_processing_hours": 30.0,
            "processing_hours_std": 12.0,
            "mean_reply_seconds": 1800,
        },
    }


_TEXT_ALPHABET = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from("aeiou .,!?[]<>|:\n\t\0"),
    st.sampled_from("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202e\u2066\u2069\u061c"),
    st.sampled_from("שלוםمرحباกขคสวัสดี缺貨取消😀👍🏽ﬃＡ０［"),
)
texts = st.text(_TEXT_ALPHABET, max_size=40)
_PAST = st.one_of(
    st.sampled_from([0.0, 0.0, 60.0, 3600.0]),
    st.floats(0, 90 * 86400, allow_nan=False).map(lambda seconds: round(seconds, 3)),
)
_HOURS_EAST = st.sampled_from([0, 7, -6, 5.5])


@st.composite
def instants(draw: st.DrawFn, ages: st.SearchStrategy[float] = _PAST) -> str:
    text = before(draw(ages), hours_east=draw(_HOURS_EAST))
    return text.replace("+00:00", "Z")


_FUTURE_TOO = instants(st.floats(-90 * 86400, 90 * 86400).map(lambda seconds: round(seconds, 3)))
_COUNTS = st.one_of(st.integers(0, 500), st.just(0), st.integers(0, 10**15))
_NUMBERS = st.one_of(st.floats(0, 1e4), st.just(0), st.floats(0, 1e15, allow_subnormal=True))


def _fields(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


messages = _fields({"at": instants(), "sender": st.sampled_from(events.SENDERS), "text": texts}, {})
calls = _fields(
    {"at": instants(), "caller": st.sampled_from(events.CALLERS), "answered": st.booleans()},
    {"duration_seconds": _NUMBERS},
)
fulfilment_entries = _fields(
    {"at": instants(), "kind": st.sampled_from(events.FULFILMENT_KINDS)},
    {"new_deadline_at": st.none() | _FUTURE_TOO, "note": st.none() | texts},
)
concurrent_orders = _fields(
    {"order_id": texts, "placed_at": instants(), "status": st.sampled_from(events.ORDER_STATUSES)},
    {"same_buyer": st.booleans(), "chat_excerpt": st.none() | texts},
)
_HISTORY = _fields(
    {},
    {
        **dict.fromkeys(
            (
                "orders",
                "completed",
                "cancelled_by_buyer",
                "cancelled_by_seller",
                "late_shipments",
                "deadline_extensions",
            ),
            _COUNTS,
        ),
        **dict.fromkeys(("mean_processing_hours", "processing_hours_std", "mean_reply_seconds"), st.none() | _NUMBERS),
    },
)
_ORDER = _fields(
    {"placed_at": instants(), "promised_ship_at": _FUTURE_TOO},
    {
        "paid_at": st.none() | instants(),
        "shipped_at": st.none() | instants(),
        "item_count": st.integers(1, 99),
        "value": _NUMBERS,
        "currency": st.sampled_from(["THB", "BRL"]),
    },
)


@st.composite
def activity_spans(draw: st.DrawFn) -> dict[str, Any]:
    older, younger = sorted((draw(_PAST), draw(_PAST)), reverse=True)
    return {"from": before(older), "to": before(younger), "state": draw(st.sampled_from(events.ACTIVITY_STATES))}


def event_mappings(max_entries: int = 8) -> st.SearchStrategy[dict[str, Any]]:
    """Any event that the contract allows, in its form, cancelled at `CUTOFF`."""
    ids = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
    required = dict.fromkeys(("event_id", "order_id", "buyer_id", "seller_id"), ids)
    return _fields(
        {
            **required,
            "market": st.sampled_from(["ID", "TH", "BR", "ZZ"]),
            "cancelled_at": _HOURS_EAST.map(lambda hours: before(0, hours_east=hours)),
            "order": _ORDER,
        },
        {
            "buyer_reason": st.none() | texts,
            "fulfilment": st.lists(fulfilment_entries, max_size=max_entries),
            "chat": st.lists(messages, max_size=max_entries),
            "calls": st.lists(calls, max_size=max_entries),
            "seller_activity": st.lists(activity_spans(), max_size=max_entries),
            "concurrent_orders": st.lists(concurrent_orders, max_size=max_entries),
            "seller_history": _HISTORY,
        },
    )


def with_later_entries(mapping: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The same event as a complete log shows it: everything went on for a while after the cancellation."""
    at = before(-seconds)
    later: dict[str, dict[str, Any]] = {
        "fulfilment": {"at": at, "kind": "stock_out_flagged", "note": "gone"},
        "chat": {"at": at, "sender": "seller", "text": "thank you for cancelling"},
        "calls": {"at": at, "caller": "seller", "answered": True, "duration_seconds": 60},
        "seller_activity": {"from": at, "to": at, "state": "active"},
        "concurrent_orders": {"order_id": "later", "placed_at": at, "status": "open", "same_buyer": True},
    }
    longer = {name: [*mapping[name], entry] for name, entry in later.items() if name in mapping}
    return {**mapping, **longer, "cancelled_at": at}
