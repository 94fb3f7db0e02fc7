"""The 7 seller activity features: was the seller there, and how fast is this seller usually?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from cancellation.events.event import Event
from cancellation.features.measures import Groups, Measure, column, feature, flat, number, ratio


@dataclass(slots=True)
class ActivitySignals:
    """Seconds the seller's app was in each state, and the seller's usual speed."""

    cancelled_at: Measure
    placed_at: Measure
    active_seconds: Measure
    idle_seconds: Measure
    offline_seconds: Measure
    last_active_at: Measure
    mean_processing_hours: Measure
    mean_reply_seconds: Measure


def activity_signals(event: Event) -> ActivitySignals:
    """Collect the signals of one event."""
    active = idle = offline = 0.0
    last_active_at = nan
    for span in event.seller_activity:
        if span.state == "active":
            active += span.end - span.start
            if not last_active_at > span.end:
                last_active_at = span.end
        elif span.state == "idle":
            idle += span.end - span.start
        else:
            offline += span.end - span.start
    history = event.seller_history
    return ActivitySignals(
        event.cancelled_at,
        event.order.placed_at,
        active,
        idle,
        offline,
        last_active_at,
        number(history.mean_processing_hours),
        number(history.mean_reply_seconds),
    )


def activity_signal_table(events: Sequence[Event]) -> ActivitySignals:
    """Collect the signals of many events as arrays."""
    groups = Groups.of_lengths([len(event.seller_activity) for event in events])
    spans = [span for event in events for span in event.seller_activity]
    end = flat(span.end for span in spans)
    seconds = end - flat(span.start for span in spans)
    state = np.array([span.state for span in spans], dtype="U8")

    def total(name: str) -> Measure:
        mask = state == name
        return groups.where(mask).total(seconds[mask])

    active = state == "active"
    return ActivitySignals(
        column(event.cancelled_at for event in events),
        column(event.order.placed_at for event in events),
        total("active"),
        total("idle"),
        total("offline"),
        groups.where(active).largest(end[active]),
        column(event.seller_history.mean_processing_hours for event in events),
        column(event.seller_history.mean_reply_seconds for event in events),
    )


def _covered_seconds(s: ActivitySignals) -> Measure:
    return s.active_seconds + s.idle_seconds + s.offline_seconds


@feature("share")
def active_share(s: ActivitySignals) -> Measure:
    """Share of the recorded time in which the seller was active."""
    return ratio(s.active_seconds, _covered_seconds(s))


@feature("share")
def idle_share(s: ActivitySignals) -> Measure:
    """Share of the recorded time in which the seller's app was open, but idle."""
    return ratio(s.idle_seconds, _covered_seconds(s))


@feature("share")
def offline_share(s: ActivitySignals) -> Measure:
    """Share of the recorded time in which the seller was offline."""
    return ratio(s.offline_seconds, _covered_seconds(s))


@feature("hours")
def last_active_to_cancel_hours(s: ActivitySignals) -> Measure:
    """From the seller's last activity to cancellation; missing if none was recorded."""
    return (s.cancelled_at - s.last_active_at) / 3600.0


@feature("hours")
def mean_processing_hours(s: ActivitySignals) -> Measure:
    """The seller's mean time from order to carrier, last 30 days."""
    return s.mean_processing_hours


@feature("ratio")
def processing_elapsed_ratio(s: ActivitySignals) -> Measure:
    """Age of the order at cancellation over the time that this seller usually needs."""
    return ratio((s.cancelled_at - s.placed_at) / 3600.0, s.mean_processing_hours)


@feature("minutes")
def mean_reply_minutes(s: ActivitySignals) -> Measure:
    """The seller's mean reply time in all chats, last 30 days."""
    return s.mean_reply_seconds / 60.0


ACTIVITY_FEATURES = (
    active_share,
    idle_share,
    offline_share,
    last_active_to_cancel_hours,
    mean_processing_hours,
    processing_elapsed_ratio,
    mean_reply_minutes,
)
