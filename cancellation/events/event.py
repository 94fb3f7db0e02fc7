"""The cancellation event: parsed and validated once, the same way for a request and for a backfill.

The contract is `schemas/cancellation_event.schema.json`; this parser is its hand-written twin, because the
endpoint has microseconds, not milliseconds, for it (a test holds the two against each other). It is stricter
where JSON Schema cannot be: nothing may be later than the cancellation, text must be encodable, numbers must
fit a float without becoming infinite.

Instants become seconds since 1970-01-01T00:00:00Z (float), so that everything behind this module subtracts
numbers. Lists come out in order of time; the position an entry had in its list is kept as `index`, because
that is what a decision factor's evidence refers to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from operator import attrgetter
from typing import Any, TypeVar

from cancellation.events.fields import (
    EventError,
    check_object,
    decode_json,
    read_boolean,
    read_choice,
    read_count,
    read_identifier,
    read_instant,
    read_market,
    read_number,
    read_past_instant,
    read_pattern,
    read_text,
    read_text_or_none,
    type_name,
)

SENDERS = ("buyer", "seller", "system")
CALLERS = ("buyer", "seller")
FULFILMENT_KINDS = (
    "packed",
    "label_created",
    "handed_to_carrier",
    "deadline_extended",
    "deadline_missed",
    "stock_out_flagged",
    "pickup_failed",
    "shipping_update",
)
ACTIVITY_STATES = ("active", "idle", "offline")
ORDER_STATUSES = ("open", "shipped", "completed", "cancelled_by_buyer", "cancelled_by_seller")

LISTS = ("fulfilment", "chat", "calls", "seller_activity", "concurrent_orders")
"""The event's lists: one that was not sent is empty and named in `Event.absent`, since unknown is not none."""


@dataclass(frozen=True, slots=True)
class Order:
    """The cancelled order. Instants in epoch seconds."""

    placed_at: float
    promised_ship_at: float
    paid_at: float | None = None
    shipped_at: float | None = None
    item_count: int | None = None
    value: float | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class FulfilmentEntry:
    """One step, or one failure, on the way to the carrier."""

    at: float
    kind: str
    new_deadline_at: float | None = None
    note: str | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    at: float
    sender: str
    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One call between buyer and seller; `at` is when it began to ring."""

    at: float
    caller: str
    answered: bool
    duration_seconds: float | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class ActivitySpan:
    """A span of time in which the seller's app was in one state. May have no length."""

    start: float
    end: float
    state: str


@dataclass(frozen=True, slots=True)
class ConcurrentOrder:
    """Another order of the same seller, open at some time while this one was."""

    order_id: str
    placed_at: float
    status: str
    same_buyer: bool | None = None
    chat_excerpt: str | None = None


@dataclass(frozen=True, slots=True)
class SellerHistory:
    """Counts and means over the 30 days before the order was placed; None is unknown."""

    orders: int | None = None
    completed: int | None = None
    cancelled_by_buyer: int | None = None
    cancelled_by_seller: int | None = None
    late_shipments: int | None = None
    deadline_extensions: int | None = None
    mean_processing_hours: float | None = None
    processing_hours_std: float | None = None
    mean_reply_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One cancelled order with every signal up to `cancelled_at`; every list is in order of time."""

    event_id: str
    market: str
    order_id: str
    buyer_id: str
    seller_id: str
    cancelled_at: float
    order: Order
    buyer_reason: str | None = None
    fulfilment: tuple[FulfilmentEntry, ...] = ()
    chat: tuple[Message, ...] = ()
    calls: tuple[Call, ...] = ()
    seller_activity: tuple[ActivitySpan, ...] = ()
    concurrent_orders: tuple[ConcurrentOrder, ...] = ()
    seller_history: SellerHistory = SellerHistory()
    absent: frozenset[str] = frozenset()


def parse_event(source: Mapping[str, Any] | bytes | str) -> Event:
    """Parse and validate one event, given as JSON or as what JSON decodes to.

    Raises:
        EventError: With the path of the first field that is refused.
    """
    value = decode_json(source) if isinstance(source, bytes | bytearray | str) else source
    check_object(value, _EVENT_FIELDS, _EVENT_REQUIRED)
    cutoff = read_instant(value, "cancelled_at")
    lists = {name: _entries(value, name, cutoff) for name in LISTS if name in value}
    return Event(
        event_id=read_identifier(value, "event_id"),
        market=read_market(value),
        order_id=read_identifier(value, "order_id"),
        buyer_id=read_identifier(value, "buyer_id"),
        seller_id=read_identifier(value, "seller_id"),
        cancelled_at=cutoff,
        order=_part(value, "order", _order, cutoff),
        buyer_reason=read_text_or_none(value, "buyer_reason", 2000),
        seller_history=_part(value, "seller_history", _history, cutoff) if "seller_history" in value else _UNKNOWN,
        absent=frozenset(name for name in LISTS if name not in value) if len(lists) < len(LISTS) else _NONE_ABSENT,
        **lists,
    )


def cut_event(source: Mapping[str, Any], cancelled_at: str) -> dict[str, Any]:
    """Drop everything later than a cut-off from an event in the contract's form, so that it parses.

    For a backfill from complete logs, where a chat goes on after the cancellation. A concurrent order's
    `status` has no instant of its own: the source must give it as of the cut-off.
    """
    cutoff = read_instant({"cancelled_at": cancelled_at}, "cancelled_at")
    event = {**source, "cancelled_at": cancelled_at}
    for name in LISTS:
        if name in event:
            starts = _STARTS.get(name, "at")
            event[name] = [item for item in event[name] if read_instant(item, starts) <= cutoff]
    if "seller_activity" in event:
        event["seller_activity"] = [
            span if read_instant(span, "to") <= cutoff else {**span, "to": cancelled_at}
            for span in event["seller_activity"]
        ]
    order = event["order"]
    later = [name for name in ("paid_at", "shipped_at") if order.get(name) and read_instant(order, name) > cutoff]
    event["order"] = {**order, **dict.fromkeys(later)}
    return event


def event_mapping(event: Event, utc_offset_hours: float = 0) -> dict[str, Any]:
    """Write an event in the contract's form, with instants at an offset; lists stay in order of time."""
    zone = timezone(timedelta(hours=utc_offset_hours)) if utc_offset_hours else UTC

    def fields(part: Any) -> dict[str, Any]:
        names = ((name, _CONTRACT_NAMES.get(name, name)) for name in part.__slots__ if name != "index")
        values = ((name, key, getattr(part, name)) for name, key in names)
        return {
            key: datetime.fromtimestamp(value, zone).isoformat() if name in _INSTANTS else value
            for name, key, value in values
            if value is not None
        }

    mapping = {name: getattr(event, name) for name in ("event_id", "market", "order_id", "buyer_id", "seller_id")}
    mapping["cancelled_at"] = datetime.fromtimestamp(event.cancelled_at, zone).isoformat()
    if event.buyer_reason is not None:
        mapping["buyer_reason"] = event.buyer_reason
    mapping["order"] = fields(event.order)
    mapping.update(
        (name, [fields(item) for item in getattr(event, name)]) for name in LISTS if name not in event.absent
    )
    history = fields(event.seller_history)
    return {**mapping, "seller_history": history} if history else mapping


_STARTS = {"seller_activity": "from", "concurrent_orders": "placed_at"}
_CONTRACT_NAMES = {"start": "from", "end": "to"}
_INSTANTS = {"at", "placed_at", "promised_ship_at", "paid_at", "shipped_at", "new_deadline_at", "start", "end"}
_EVENT_REQUIRED = frozenset({"event_id", "market", "order_id", "buyer_id", "seller_id", "cancelled_at", "order"})
_EVENT_FIELDS = _EVENT_REQUIRED | {"buyer_reason", "seller_history", *LISTS}
_ORDER_REQUIRED = frozenset({"placed_at", "promised_ship_at"})
_ORDER_FIELDS = _ORDER_REQUIRED | {"paid_at", "shipped_at", "item_count", "value", "currency"}
_COUNTS = ("orders", "completed", "cancelled_by_buyer", "cancelled_by_seller", "late_shipments", "deadline_extensions")
_MEANS = ("mean_processing_hours", "processing_hours_std", "mean_reply_seconds")
_HISTORY_FIELDS = frozenset(_COUNTS + _MEANS)
_CURRENCY = re.compile(r"[A-Z]{3}")
_UNKNOWN = SellerHistory()
_NONE_ABSENT: frozenset[str] = frozenset()
_PartT = TypeVar("_PartT")


def _part(value: Mapping[str, Any], name: str, parse: Callable[[Any, float], _PartT], cutoff: float) -> _PartT:
    try:
        return parse(value[name], cutoff)
    except EventError as error:
        raise error.within(name) from None


def _entries(value: Mapping[str, Any], name: str, cutoff: float) -> tuple[Any, ...]:
    items = value[name]
    if not isinstance(items, list | tuple):
        raise EventError(name, f"expected an array, found {type_name(items)}")
    parse, fields, required, max_items, order = _LIST_RULES[name]
    if len(items) > max_items:
        raise EventError(name, f"expected at most {max_items} entries, found {len(items)}")
    entries = []
    try:
        for item in items:
            check_object(item, fields, required)
            entries.append(parse(item, cutoff, len(entries)))
    except EventError as error:
        raise error.within(f"{name}[{len(entries)}]") from None
    entries.sort(key=order)
    return tuple(entries)


def _order(value: Any, cutoff: float) -> Order:
    check_object(value, _ORDER_FIELDS, _ORDER_REQUIRED)
    return Order(
        placed_at=read_past_instant(value, "placed_at", cutoff),
        promised_ship_at=read_instant(value, "promised_ship_at"),
        paid_at=read_past_instant(value, "paid_at", cutoff) if value.get("paid_at") is not None else None,
        shipped_at=read_past_instant(value, "shipped_at", cutoff) if value.get("shipped_at") is not None else None,
        item_count=read_count(value, "item_count", 1) if "item_count" in value else None,
        value=read_number(value, "value") if "value" in value else None,
        currency=read_pattern(value, "currency", _CURRENCY, "three capital letters") if "currency" in value else None,
    )


def _history(value: Any, _cutoff: float) -> SellerHistory:
    check_object(value, _HISTORY_FIELDS)
    numbers: dict[str, Any] = {name: read_count(value, name, 0) for name in _COUNTS if name in value}
    numbers.update((name, read_number(value, name)) for name in _MEANS if value.get(name) is not None)
    return SellerHistory(**numbers)


def _fulfilment_entry(item: Any, cutoff: float, index: int) -> FulfilmentEntry:
    deadline = read_instant(item, "new_deadline_at") if item.get("new_deadline_at") is not None else None
    kind = read_choice(item, "kind", FULFILMENT_KINDS)
    return FulfilmentEntry(
        read_past_instant(item, "at", cutoff), kind, deadline, read_text_or_none(item, "note", 500), index
    )


def _message(item: Any, cutoff: float, index: int) -> Message:
    return Message(
        read_past_instant(item, "at", cutoff),
        read_choice(item, "sender", SENDERS),
        read_text(item, "text", 4000),
        index,
    )


def _call(item: Any, cutoff: float, index: int) -> Call:
    duration = read_number(item, "duration_seconds") if "duration_seconds" in item else None
    return Call(
        read_past_instant(item, "at", cutoff),
        read_choice(item, "caller", CALLERS),
        read_boolean(item, "answered"),
        duration,
        index,
    )


def _activity_span(item: Any, cutoff: float, _index: int) -> ActivitySpan:
    span = ActivitySpan(
        read_past_instant(item, "from", cutoff),
        read_past_instant(item, "to", cutoff),
        read_choice(item, "state", ACTIVITY_STATES),
    )
    if span.end < span.start:
        raise EventError("to", "expected an instant at or after from")
    return span


def _concurrent_order(item: Any, cutoff: float, _index: int) -> ConcurrentOrder:
    return ConcurrentOrder(
        read_text(item, "order_id", None),
        read_past_instant(item, "placed_at", cutoff),
        read_choice(item, "status", ORDER_STATUSES),
        read_boolean(item, "same_buyer") if "same_buyer" in item else None,
        read_text_or_none(item, "chat_excerpt", 2000),
    )


_BY_TIME = attrgetter("at")
_LIST_RULES: dict[str, tuple[Callable[..., Any], frozenset[str], frozenset[str], int, Callable[..., Any]]] = {
    "fulfilment": (
        _fulfilment_entry,
        frozenset({"at", "kind", "new_deadline_at", "note"}),
        frozenset({"at", "kind"}),
        200,
        _BY_TIME,
    ),
    "chat": (_message, frozenset({"at", "sender", "text"}), frozenset({"at", "sender", "text"}), 1000, _BY_TIME),
    "calls": (
        _call,
        frozenset({"at", "caller", "answered", "duration_seconds"}),
        frozenset({"at", "caller", "answered"}),
        200,
        _BY_TIME,
    ),
    "seller_activity": (
        _activity_span,
        frozenset({"from", "to", "state"}),
        frozenset({"from", "to", "state"}),
        2000,
        attrgetter("start", "end"),
    ),
    "concurrent_orders": (
        _concurrent_order,
        frozenset({"order_id", "placed_at", "status", "same_buyer", "chat_excerpt"}),
        frozenset({"order_id", "placed_at", "status"}),
        500,
        attrgetter("placed_at"),
    ),
}
