"""The 5 order features: what else the seller had in hand, and how the seller's orders usually end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from cancellation.events.event import Event
from cancellation.features.measures import Groups, Measure, column, feature, number, ratio


@dataclass(slots=True)
class OrderSignals:
    """Counts of orders; NaN where unknown."""

    num_concurrent: Measure
    num_concurrent_cancelled: Measure
    num_same_buyer: Measure
    seller_orders: Measure
    seller_completed: Measure
    seller_cancelled: Measure


def order_signals(event: Event) -> OrderSignals:
    """Collect the signals of one event."""
    cancelled = same_buyer = 0.0
    for other in event.concurrent_orders:
        cancelled += other.status == "cancelled_by_buyer"
        same_buyer += other.same_buyer is True
    concurrent = float(len(event.concurrent_orders))
    if "concurrent_orders" in event.absent:
        concurrent = cancelled = same_buyer = nan
    history = event.seller_history
    return OrderSignals(
        concurrent,
        cancelled,
        same_buyer,
        number(history.orders),
        number(history.completed),
        number(history.cancelled_by_buyer) + number(history.cancelled_by_seller),
    )


def order_signal_table(events: Sequence[Event]) -> OrderSignals:
    """Collect the signals of many events as arrays."""
    groups = Groups.of_lengths([len(event.concurrent_orders) for event in events])
    others = [other for event in events for other in event.concurrent_orders]
    cancelled = np.array([other.status == "cancelled_by_buyer" for other in others], dtype=bool)
    same_buyer = np.array([other.same_buyer is True for other in others], dtype=bool)
    unknown = np.array(["concurrent_orders" in event.absent for event in events], dtype=bool)
    histories = [event.seller_history for event in events]
    by_buyer = column(history.cancelled_by_buyer for history in histories)
    by_seller = column(history.cancelled_by_seller for history in histories)
    return OrderSignals(
        np.where(unknown, nan, groups.count()),
        np.where(unknown, nan, groups.where(cancelled).count()),
        np.where(unknown, nan, groups.where(same_buyer).count()),
        column(history.orders for history in histories),
        column(history.completed for history in histories),
        by_buyer + by_seller,
    )


@feature("count")
def concurrent_order_count(s: OrderSignals) -> Measure:
    """The seller's other orders open at some time while this one was."""
    return s.num_concurrent


@feature("share")
def concurrent_cancelled_share(s: OrderSignals) -> Measure:
    """Share of those that their buyers cancelled too; missing without other orders."""
    return ratio(s.num_concurrent_cancelled, s.num_concurrent)


@feature("count")
def same_buyer_order_count(s: OrderSignals) -> Measure:
    """How many of those are the same buyer's."""
    return s.num_same_buyer


@feature("share")
def seller_completion_share(s: OrderSignals) -> Measure:
    """Share of the seller's orders that were completed, last 30 days."""
    return ratio(s.seller_completed, s.seller_orders)


@feature("share")
def seller_cancellation_share(s: OrderSignals) -> Measure:
    """Share of the seller's orders that either side cancelled, last 30 days."""
    return ratio(s.seller_cancelled, s.seller_orders)


ORDER_FEATURES = (
    concurrent_order_count,
    concurrent_cancelled_share,
    same_buyer_order_count,
    seller_completion_share,
    seller_cancellation_share,
)
