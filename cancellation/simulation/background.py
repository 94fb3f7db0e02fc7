"""What surrounds a story: the seller's last 30 days, hours at the app, and other orders.

The background leans towards the cause, as in life, and does not give it away: honest sellers have bad months
and dishonest ones good figures.
"""

from __future__ import annotations

import random
from math import log

from cancellation.events.event import ActivitySpan, ConcurrentOrder, SellerHistory
from cancellation.simulation.story import DAY, HOUR, Story

_GUILTY_EXCERPTS = ("no_stock", "ask_cancel", "ask_indirect", "soft_request", "only_other", "closed", "no_stock")
_PLAIN_EXCERPTS = (
    "ready",
    "packed",
    "ok_cancel",
    "thanks",
    "greet",
    "howto_cancel",
    "late_honest",
    "advise_reorder",
    "agree_cancel",
    "variant_out",
    "stall",
)
_STATUS_BOUNDS = (
    ("open", 0.55),
    ("shipped", 0.80),
    ("completed", 0.94),
    ("cancelled_by_buyer", 0.99),
    ("cancelled_by_seller", 1.0),
)
_OPTIONAL = ("late_shipments", "deadline_extensions", "cancelled_by_seller", "processing_hours_std")


def seller_history(rng: random.Random, *, trouble: float, mean_reply_seconds: float) -> SellerHistory:
    """Draw the aggregates of the last 30 days; a field may be unknown. `trouble` is the shop's, in [0, 1]."""
    orders = int(rng.lognormvariate(5.0, 1.1)) + 3
    trouble = 0.5 * trouble * rng.random() + 0.5 * rng.betavariate(2.0, 10.0)
    by_buyer = _share_of(orders, rng.uniform(0.01, 0.09) + 0.35 * trouble * rng.random(), rng)
    by_seller = _share_of(orders - by_buyer, rng.uniform(0.0, 0.02), rng)
    open_orders = _share_of(orders - by_buyer - by_seller, rng.uniform(0.0, 0.05), rng)
    mean = rng.lognormvariate(log(26.0), 0.45) * (1.0 + trouble)
    history = {
        "orders": orders,
        "completed": orders - by_buyer - by_seller - open_orders,
        "cancelled_by_buyer": by_buyer,
        "cancelled_by_seller": by_seller,
        "late_shipments": _share_of(orders, trouble, rng),
        "deadline_extensions": _share_of(orders, 0.7 * trouble, rng),
        "mean_processing_hours": round(mean, 1),
        "processing_hours_std": round(mean * rng.uniform(0.25, 0.6 + trouble), 1),
        "mean_reply_seconds": float(int(mean_reply_seconds * rng.lognormvariate(0.0, 0.5)) + 20),
    }
    for name in _OPTIONAL:
        if rng.random() < 0.05:
            del history[name]
    return SellerHistory(**history)


def _share_of(total: int, share: float, rng: random.Random) -> int:
    """A count that a share predicts, with the noise that counts have."""
    expected = total * min(share, 1.0)
    return max(0, min(total, round(rng.gauss(expected, expected**0.5))))


def seller_activity(story: Story, cancelled_at: float) -> list[ActivitySpan]:
    """Draw the seller's app states from placing to cancellation; whoever writes is active."""
    rng, spans = story.rng, []
    wrote_at = sorted([m.at for m in story.chat if m.sender == "seller" and m.at >= story.placed_at])
    longest = max((cancelled_at - story.placed_at) / 14.0, 1.5 * HOUR)
    start = story.placed_at
    while start < cancelled_at and len(spans) < 60:
        end = min(cancelled_at, float(int(start + longest * (0.1 + rng.random()) + 60)))
        local_hour = (start / HOUR + story.market.utc_offset_hours) % 24
        there = story.seller_presence * (0.12 if local_hour < 6.5 or local_hour > 23 else 1.0)
        draw = rng.random()
        state = "active" if draw < there else "idle" if draw < there + 0.5 * (1.0 - there) * there else "offline"
        if any(start <= at <= end for at in wrote_at):
            state = "active"
        if spans and spans[-1].state == state:
            spans[-1] = ActivitySpan(spans[-1].start, end, state)
        else:
            spans.append(ActivitySpan(start, end, state))
        start = end
    return spans


def concurrent_orders(story: Story, cancelled_at: float) -> list[ConcurrentOrder]:
    """Draw the seller's other open orders; `contagion` is the chance that one was lost in the same way."""
    rng = story.rng
    others = []
    for _ in range(min(story.num_other_orders, 60)):
        placed_at = float(int(rng.uniform(story.placed_at - 5 * DAY, cancelled_at)))
        lost = rng.random() < story.contagion
        draw = rng.random()
        status = "cancelled_by_buyer" if lost else next(name for name, bound in _STATUS_BOUNDS if draw < bound)
        excerpt = _excerpt(story, lost=lost) if rng.random() < story.excerpt_chance else None
        others.append(
            ConcurrentOrder(order_id(rng), placed_at, status, False if rng.random() < 0.85 else None, excerpt)
        )
    if story.wish == "buyer.duplicate_order" and others and rng.random() < 0.8:
        at = float(int(max(story.placed_at - rng.uniform(-900, 1800), 0.0)))
        twin = ConcurrentOrder(others[0].order_id, min(at, cancelled_at), "open", True, None)
        others[0] = twin
    others.sort(key=lambda other: other.placed_at)
    return others


def _excerpt(story: Story, *, lost: bool) -> str:
    act = story.one_of(*(_GUILTY_EXCERPTS if lost else _PLAIN_EXCERPTS))
    return story.seller_voice.grammar.say(f"seller.{act}", story.rng, held_out=story.held_out_wording)


def order_id(rng: random.Random) -> str:
    """Draw an order's id."""
    return f"{rng.getrandbits(16) + 200_000}{rng.getrandbits(36):09X}"
