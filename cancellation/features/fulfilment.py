"""The 18 fulfilment features: what was promised, what was done, what was put off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from cancellation.events.event import Event
from cancellation.features.measures import Groups, Measure, column, feature, flat, number, ratio

_PACKED = frozenset({"packed", "label_created"})
_DELAYS = frozenset({"deadline_extended", "deadline_missed", "pickup_failed"})


@dataclass(slots=True)
class FulfilmentSignals:
    """What the features are made of: instants in epoch seconds, counts; NaN where unknown."""

    cancelled_at: Measure
    placed_at: Measure
    promised_ship_at: Measure
    shipped_at: Measure
    packed_at: Measure
    handed_over_at: Measure
    updated_at: Measure
    latest_deadline_at: Measure
    num_updates: Measure
    num_extensions: Measure
    num_misses: Measure
    num_delays: Measure
    num_stock_outs: Measure
    seller_orders: Measure
    seller_extensions: Measure
    seller_late_shipments: Measure
    mean_processing_hours: Measure
    processing_hours_std: Measure


def fulfilment_signals(event: Event) -> FulfilmentSignals:
    """Collect the signals of one event."""
    order, history, entries = event.order, event.seller_history, event.fulfilment
    unknown = "fulfilment" in event.absent

    def first(*kinds: str) -> float:
        return next((entry.at for entry in entries if entry.kind in kinds), nan)

    def count(*kinds: str) -> float:
        return nan if unknown else float(sum([entry.kind in kinds for entry in entries]))

    extensions = count("deadline_extended")
    deadlines = [entry.new_deadline_at for entry in entries if entry.new_deadline_at is not None]
    unmoved = order.promised_ship_at if extensions == 0.0 else nan
    return FulfilmentSignals(
        event.cancelled_at,
        order.placed_at,
        order.promised_ship_at,
        number(order.shipped_at),
        first(*_PACKED),
        first("handed_to_carrier"),
        entries[-1].at if entries else nan,
        deadlines[-1] if deadlines else unmoved,
        nan if unknown else float(len(entries)),
        extensions,
        count("deadline_missed"),
        count(*_DELAYS),
        count("stock_out_flagged"),
        number(history.orders),
        number(history.deadline_extensions),
        number(history.late_shipments),
        number(history.mean_processing_hours),
        number(history.processing_hours_std),
    )


def fulfilment_signal_table(events: Sequence[Event]) -> FulfilmentSignals:
    """Collect the signals of many events as arrays."""
    groups = Groups.of_lengths([len(event.fulfilment) for event in events])
    at = flat(entry.at for event in events for entry in event.fulfilment)
    kind = np.array([entry.kind for event in events for entry in event.fulfilment], dtype="U20")
    deadline = column(entry.new_deadline_at for event in events for entry in event.fulfilment)
    unknown = np.array(["fulfilment" in event.absent for event in events], dtype=bool)

    def first(*kinds: str) -> Measure:
        mask = np.isin(kind, kinds)
        return groups.where(mask).first(at[mask])

    def count(*kinds: str) -> Measure:
        return np.where(unknown, nan, groups.where(np.isin(kind, kinds)).count())

    promised = column(event.order.promised_ship_at for event in events)
    extensions = count("deadline_extended")
    known = ~np.isnan(deadline)
    latest = groups.where(known).last(deadline[known])
    histories = [event.seller_history for event in events]
    return FulfilmentSignals(
        column(event.cancelled_at for event in events),
        column(event.order.placed_at for event in events),
        promised,
        column(event.order.shipped_at for event in events),
        first(*_PACKED),
        first("handed_to_carrier"),
        groups.last(at),
        np.where((extensions == 0.0) & np.isnan(latest), promised, latest),
        np.where(unknown, nan, groups.count()),
        extensions,
        count("deadline_missed"),
        count(*_DELAYS),
        count("stock_out_flagged"),
        column(history.orders for history in histories),
        column(history.deadline_extensions for history in histories),
        column(history.late_shipments for history in histories),
        column(history.mean_processing_hours for history in histories),
        column(history.processing_hours_std for history in histories),
    )


@feature("hours")
def promised_ship_hours(s: FulfilmentSignals) -> Measure:
    """From placing to the shipping deadline promised then."""
    return (s.promised_ship_at - s.placed_at) / 3600.0


@feature("hours")
def actual_ship_hours(s: FulfilmentSignals) -> Measure:
    """From placing to shipping; missing if it was not shipped."""
    return (s.shipped_at - s.placed_at) / 3600.0


@feature("hours")
def order_age_hours(s: FulfilmentSignals) -> Measure:
    """From placing to cancellation."""
    return (s.cancelled_at - s.placed_at) / 3600.0


@feature("ratio")
def promise_elapsed_ratio(s: FulfilmentSignals) -> Measure:
    """Share of the promised time that had passed at cancellation; above 1 the promise was broken."""
    return ratio(s.cancelled_at - s.placed_at, s.promised_ship_at - s.placed_at)


@feature("hours")
def promised_slack_hours(s: FulfilmentSignals) -> Measure:
    """From cancellation to the first promised deadline; negative when it had passed."""
    return (s.promised_ship_at - s.cancelled_at) / 3600.0


@feature("hours")
def extended_slack_hours(s: FulfilmentSignals) -> Measure:
    """From cancellation to the latest known deadline; negative when it had passed."""
    return (s.latest_deadline_at - s.cancelled_at) / 3600.0


@feature("hours")
def packing_hours(s: FulfilmentSignals) -> Measure:
    """From placing to the first parcel or label; missing if there was none."""
    return (s.packed_at - s.placed_at) / 3600.0


@feature("hours")
def handover_hours(s: FulfilmentSignals) -> Measure:
    """From placing to the carrier; missing if it never got there."""
    return (s.handed_over_at - s.placed_at) / 3600.0


@feature("count")
def fulfilment_update_count(s: FulfilmentSignals) -> Measure:
    """Fulfilment entries of any kind."""
    return s.num_updates


@feature("hours")
def last_update_age_hours(s: FulfilmentSignals) -> Measure:
    """From the last fulfilment entry to cancellation; missing if there was none."""
    return (s.cancelled_at - s.updated_at) / 3600.0


@feature("count")
def extension_count(s: FulfilmentSignals) -> Measure:
    """Times the seller put the deadline off."""
    return s.num_extensions


@feature("hours")
def extension_hours(s: FulfilmentSignals) -> Measure:
    """How far the deadline was put off in all; 0 without an extension, missing if no new deadline is known."""
    return (s.latest_deadline_at - s.promised_ship_at) / 3600.0


@feature("count")
def deadline_miss_count(s: FulfilmentSignals) -> Measure:
    """Deadlines missed."""
    return s.num_misses


@feature("count")
def delay_count(s: FulfilmentSignals) -> Measure:
    """Extensions, misses and failed pickups together."""
    return s.num_delays


@feature("count")
def stock_out_count(s: FulfilmentSignals) -> Measure:
    """Times the item was flagged as out of stock."""
    return s.num_stock_outs


@feature("ratio")
def delay_volatility_index(s: FulfilmentSignals) -> Measure:
    """Spread of the seller's processing time over its mean, last 30 days: how little a promise is worth."""
    return ratio(s.processing_hours_std, s.mean_processing_hours)


@feature("share")
def seller_extension_share(s: FulfilmentSignals) -> Measure:
    """Deadline extensions per order of the seller, last 30 days; may pass 1."""
    return ratio(s.seller_extensions, s.seller_orders)


@feature("share")
def seller_late_share(s: FulfilmentSignals) -> Measure:
    """Share of the seller's orders shipped late, last 30 days."""
    return ratio(s.seller_late_shipments, s.seller_orders)


FULFILMENT_FEATURES = (
    promised_ship_hours,
    actual_ship_hours,
    order_age_hours,
    promise_elapsed_ratio,
    promised_slack_hours,
    extended_slack_hours,
    packing_hours,
    handover_hours,
    fulfilment_update_count,
    last_update_age_hours,
    extension_count,
    extension_hours,
    deadline_miss_count,
    delay_count,
    stock_out_count,
    delay_volatility_index,
    seller_extension_share,
    seller_late_share,
)
