"""Event to text: what was said and done before the cancellation, with speakers that nobody can forge.

A timeline is a tuple of segments; each has a kind that becomes one special token (`[BUYER]`), a time before
the cancellation that becomes another (`[T30M]`), and a text. A person's text goes through `clean_text`, which
leaves no bracket in it: who types "[SELLER]" or "SELLER:" stays who they are. Only what the event holds is
used, and an event ends with the cancellation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cancellation.events.clean_text import clean_text
from cancellation.events.event import ActivitySpan, Event, FulfilmentEntry, SellerHistory

BUYER, SELLER, SYSTEM, CALL = "[BUYER]", "[SELLER]", "[SYSTEM]", "[CALL]"
ORDER, FULFILMENT, HISTORY, OTHER_ORDER, REASON = "[ORDER]", "[FULFILMENT]", "[HISTORY]", "[OTHER_ORDER]", "[REASON]"
KIND_TOKENS = (BUYER, SELLER, SYSTEM, CALL, ORDER, FULFILMENT, HISTORY, OTHER_ORDER, REASON)

TIME_TOKENS = ("[T1M]", "[T5M]", "[T30M]", "[T2H]", "[T12H]", "[T1D]", "[T3D]", "[TLONG]")
_TIME_BOUNDS = (60.0, 300.0, 1800.0, 7200.0, 43_200.0, 86_400.0, 259_200.0)

CUT = "[CUT]"
"""Stands where the middle of a text was left out."""

SPECIAL_TOKENS = (*KIND_TOKENS, *TIME_TOKENS, CUT)
"""To be added to a tokeniser as special tokens, so that each is one id and no text can make one."""

_SPEAKERS = {"buyer": BUYER, "seller": SELLER, "system": SYSTEM}
_MAX_OTHER_ORDERS = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """One entry of a timeline; `index` is its place in the event's list (chat, fulfilment, calls), if it has one."""

    kind: str
    text: str
    seconds_before: float
    index: int | None = None

    @property
    def time_token(self) -> str:
        """The token of the time left to the cancellation."""
        return TIME_TOKENS[bisect_right(_TIME_BOUNDS, self.seconds_before)]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The segments of one event: background first, then what happened in order, the buyer's reason last."""

    segments: tuple[Segment, ...]

    def text(self) -> str:
        """The whole timeline as text, special tokens written out."""
        return " ".join(f"{segment.kind} {segment.time_token} {segment.text}" for segment in self.segments)

    def without(self, position: int) -> Timeline:
        """The timeline with one segment erased."""
        return Timeline(self.segments[:position] + self.segments[position + 1 :])


def timeline(event: Event) -> Timeline:
    """Write an event as a timeline."""
    age = event.cancelled_at - event.order.placed_at
    segments = [Segment(ORDER, _order_sentence(event), age)]
    history = " ".join(filter(None, (_history_sentence(event.seller_history), _activity_sentence(event))))
    if history:
        segments.append(Segment(HISTORY, history, age))
    segments += _other_orders(event)
    happened = [*_fulfilment(event), *_chat(event), *_calls(event)]
    happened.sort(key=lambda segment: -segment.seconds_before)
    segments += happened
    reason = clean_text(event.buyer_reason or "")
    if reason:
        segments.append(Segment(REASON, reason, 0.0))
    return Timeline(tuple(segments))


def _chat(event: Event) -> Iterator[Segment]:
    for message in event.chat:
        text = clean_text(message.text)
        if text:
            yield Segment(_SPEAKERS[message.sender], text, event.cancelled_at - message.at, message.index)


def _calls(event: Event) -> Iterator[Segment]:
    for call in event.calls:
        before = event.cancelled_at - call.at
        if not call.answered:
            text = f"{call.caller} called, no answer"
        elif call.duration_seconds is None:
            text = f"{call.caller} called, answered"
        else:
            text = f"{call.caller} called, spoke for {span_words(min(call.duration_seconds, before))}"
        yield Segment(CALL, text, before, call.index)


def _fulfilment(event: Event) -> Iterator[Segment]:
    for entry in event.fulfilment:
        text = _fulfilment_sentence(entry, event.cancelled_at)
        note = clean_text(entry.note or "")
        yield Segment(FULFILMENT, f"{text}: {note}" if note else text, event.cancelled_at - entry.at, entry.index)


_SENTENCES = {
    "packed": "parcel packed",
    "label_created": "shipping label made",
    "handed_to_carrier": "parcel handed to the carrier",
    "deadline_extended": "seller put off the shipping deadline",
    "deadline_missed": "shipping deadline missed",
    "stock_out_flagged": "seller flagged the item as out of stock",
    "pickup_failed": "carrier's pickup failed",
    "shipping_update": "shipping update",
}


def _fulfilment_sentence(entry: FulfilmentEntry, cancelled_at: float) -> str:
    sentence = _SENTENCES[entry.kind]
    if entry.new_deadline_at is None:
        return sentence
    return f"{sentence} to {_relative(entry.new_deadline_at - cancelled_at)}"


def _order_sentence(event: Event) -> str:
    order = event.order
    goods = [f"{order.item_count} item(s)"] if order.item_count else []
    if order.value is not None:
        goods.append(f"{order.value:g} {order.currency or ''}".strip())
    state = "not shipped"
    if order.shipped_at is not None:
        state = f"shipped {_relative(order.shipped_at - event.cancelled_at)}"
    due = _relative(order.promised_ship_at - event.cancelled_at)
    placed = _relative(order.placed_at - event.cancelled_at)
    return f"{event.market} {', '.join([*goods, f'placed {placed}', f'shipping due {due}', state])}"


def _history_sentence(history: SellerHistory) -> str:
    """The seller's last 30 days in one sentence; empty if nothing is known."""
    orders = history.orders
    parts = [f"{orders} orders"] if orders is not None else []
    shares = (
        (history.completed, "completed"),
        (history.cancelled_by_buyer, "cancelled by buyers"),
        (history.cancelled_by_seller, "cancelled by the seller"),
        (history.late_shipments, "shipped late"),
    )
    parts += [f"{100 * count / orders:.0f}% {name}" for count, name in shares if orders and count is not None]
    if history.mean_processing_hours is not None:
        parts.append(f"ships in {span_words(3600 * history.mean_processing_hours)}")
    if history.mean_reply_seconds is not None:
        parts.append(f"replies in {span_words(history.mean_reply_seconds)}")
    return f"seller in 30 days: {', '.join(parts)}." if parts else ""


def _activity_sentence(event: Event) -> str:
    seconds: Counter[str] = Counter()
    for span in event.seller_activity:
        seconds[span.state] += span.end - span.start
    covered = sum(seconds.values())
    if not covered:
        return ""
    shares = ", ".join(f"{state} {100 * seconds[state] / covered:.0f}%" for state in sorted(seconds))
    last = max(event.seller_activity, key=_end)
    return f"seller since the order: {shares}, {last.state} at last."


def _end(span: ActivitySpan) -> float:
    return span.end


def _other_orders(event: Event) -> Iterator[Segment]:
    """One sentence on the seller's other orders, and what was said in the latest few of them."""
    others = event.concurrent_orders
    if not others:
        return
    age = event.cancelled_at - others[0].placed_at
    states = Counter(other.status.replace("_", " ") for other in others)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    same = sum(other.same_buyer is True for other in others)
    suffix = f", {same} of this buyer" if same else ""
    yield Segment(OTHER_ORDER, f"{len(others)} other order(s): {summary}{suffix}", age)
    spoken = [other for other in others if other.chat_excerpt]
    for other in spoken[-_MAX_OTHER_ORDERS:]:
        text = f"{other.status.replace('_', ' ')}: {clean_text(other.chat_excerpt or '')}"
        yield Segment(OTHER_ORDER, text, event.cancelled_at - other.placed_at)


def _relative(seconds: float) -> str:
    """A time as seen from the cancellation."""
    return f"{span_words(-seconds)} before" if seconds < 0 else f"{span_words(seconds)} after"


def span_words(seconds: float) -> str:
    """Write a duration in the largest unit of which it has at least two."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} d"
