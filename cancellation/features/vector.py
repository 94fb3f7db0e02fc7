"""The 68 numbers of an event, in the order in which a model was trained on them.

18 of fulfilment, 7 of the seller's activity, 38 of communication, 5 of orders. A missing value is NaN, never
zero; no value is infinite. `features` takes one event and `feature_table` many: both evaluate the same
formulas, on floats or on arrays, and agree in every bit. A team's own features (`events/added.py`) come after the 68.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isfinite, nan

import numpy as np

from cancellation.events.added import added_modules
from cancellation.events.event import Event
from cancellation.features.activity import ACTIVITY_FEATURES, activity_signal_table, activity_signals
from cancellation.features.communication import COMMUNICATION_FEATURES
from cancellation.features.communication_signals import communication_signal_table, communication_signals
from cancellation.features.fulfilment import FULFILMENT_FEATURES, fulfilment_signal_table, fulfilment_signals
from cancellation.features.measures import Array, Feature
from cancellation.features.orders import ORDER_FEATURES, order_signal_table, order_signals

ADDED_FEATURES: tuple[Feature, ...] = sum((getattr(module, "FEATURES", ()) for module in added_modules()), ())
"""A team's own: their `compute` takes an `Event` and gives a float, NaN where it is missing."""

FEATURES: tuple[Feature, ...] = (
    FULFILMENT_FEATURES + ACTIVITY_FEATURES + COMMUNICATION_FEATURES + ORDER_FEATURES + ADDED_FEATURES
)
"""All features. The order is part of every trained model: see `feature_digest`."""

GROUPS = {
    "fulfilment": FULFILMENT_FEATURES,
    "seller_activity": ACTIVITY_FEATURES,
    "communication": COMMUNICATION_FEATURES,
    "order": ORDER_FEATURES,
    **({"added": ADDED_FEATURES} if ADDED_FEATURES else {}),
}

_ONE = tuple(
    (collect, tuple(feature.compute for feature in group))
    for collect, group in zip(
        (fulfilment_signals, activity_signals, communication_signals, order_signals),
        (FULFILMENT_FEATURES, ACTIVITY_FEATURES, COMMUNICATION_FEATURES, ORDER_FEATURES),
        strict=True,
    )
)
_MANY = tuple(
    (collect, computes)
    for collect, (_, computes) in zip(
        (fulfilment_signal_table, activity_signal_table, communication_signal_table, order_signal_table),
        _ONE,
        strict=True,
    )
)


def features(event: Event) -> Array:
    """Compute the features of one event, shape (68,) and a team's own."""
    values: list[float] = []
    for collect, computes in _ONE:
        signals = collect(event)
        values += [compute(signals) for compute in computes]
    values += [_added(feature, event) for feature in ADDED_FEATURES]
    return np.array(values)


def feature_table(events: Sequence[Event]) -> Array:
    """Compute the features of many events, shape (events, 68) and a team's own.

    Row i equals `features(events[i])` bit by bit.
    """
    columns: list[Array] = []
    for collect, computes in _MANY:
        signals = collect(events)
        columns += [compute(signals) for compute in computes]
    columns += [np.array([_added(feature, event) for event in events]) for feature in ADDED_FEATURES]
    return np.stack(columns, axis=1)


def _added(feature: Feature, event: Event) -> float:
    value = float(feature.compute(event))
    return value if isfinite(value) else nan


def feature_names() -> tuple[str, ...]:
    """Name the features in order."""
    return tuple(feature.name for feature in FEATURES)


def feature_digest() -> str:
    """Digest names, units and their order; saved with the weights and compared when they are loaded."""
    lines = (f"{feature.name} {feature.unit}" for feature in FEATURES)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


if len(set(feature_names())) < len(FEATURES):
    raise ValueError("features: expected names that occur once; rename the added one that another feature has too")
