"""Measures: one formula for one event (a float) and for a table of them (an array), with the same bits.

A feature is written once, over signals that are either floats or float64 arrays. What may differ between the
two, a division or a sum in another order, goes through this module. NaN is "missing" and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Measure = Any
"""A float (one event) or a float64 array of shape (events,)."""

Array = npt.NDArray[np.float64]

MAX_RATIO = 1e12
"""Ratios are cut here, so that a subnormal denominator cannot make one infinite."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A named number of an event; `compute` takes its group's signals."""

    name: str
    unit: str
    meaning: str
    compute: Callable[[Any], Measure]


def feature(unit: str) -> Callable[[Callable[[Any], Measure]], Feature]:
    """Make a feature of a function: its name is the function's, its meaning the docstring."""

    def decorate(compute: Callable[[Any], Measure]) -> Feature:
        return Feature(compute.__name__, unit, " ".join((compute.__doc__ or "").split()), compute)

    return decorate


def ratio(part: Measure, whole: Measure) -> Measure:
    """Divide, with NaN where the whole is missing or not positive."""
    if type(whole) is float:
        if not whole > 0.0:
            return nan
        quotient = part / whole
        return MAX_RATIO if quotient > MAX_RATIO else quotient
    quotients = np.full(whole.shape, nan)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(part, whole, out=quotients, where=whole > 0.0)
    return np.minimum(quotients, MAX_RATIO)


def later(one: float, other: float) -> float:
    """Take the later of two instants, the known one of which only one is known (as np.fmax does)."""
    if one != one:
        return other
    return one if other != other or one > other else other


def number(value: float | None) -> float:
    """Make a float of a number that may be unknown."""
    return nan if value is None else float(value)


def column(values: Iterable[float | None]) -> Array:
    """Make an array of numbers that may be unknown."""
    return np.array([nan if value is None else value for value in values], dtype=np.float64)


class Spread(NamedTuple):
    """How a few numbers lie; NaN for what they are too few to have."""

    mean: Measure
    median: Measure
    largest: Measure
    deviation: Measure


def spread_of(values: Sequence[float]) -> Spread:
    """Measure a few numbers.

    The standard deviation is the population's and needs two values. Sums run from the first to the last,
    as `Groups.total` does.
    """
    count = len(values)
    if not count:
        return Spread(nan, nan, nan, nan)
    total = 0.0
    for value in values:
        total += value
    mean = total / count
    ordered = sorted(values)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    if count < 2:
        return Spread(mean, median, ordered[-1], nan)
    squares = 0.0
    for value in values:
        squares += (value - mean) * (value - mean)
    return Spread(mean, median, ordered[-1], sqrt(squares / count))


class Groups:
    """Entries of many events in one array: `owner[i]` is the event that entry i belongs to, ascending."""

    def __init__(self, owner: npt.NDArray[np.int64], num_events: int) -> None:
        self.owner = owner
        self.num_events = num_events

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> Groups:
        """Groups of so many entries each."""
        return cls(np.repeat(np.arange(len(lengths)), lengths), len(lengths))

    def where(self, mask: npt.NDArray[np.bool_]) -> Groups:
        """The groups that remain when only some entries are kept."""
        return Groups(self.owner[mask], self.num_events)

    def count(self) -> Array:
        """Entries per event."""
        return np.bincount(self.owner, minlength=self.num_events).astype(np.float64)

    def total(self, values: Array) -> Array:
        """Sum per event, added from the first entry to the last (bincount does, reduceat does not)."""
        # Without entries bincount forgets its weights' type and counts in int64.
        return np.bincount(self.owner, weights=values, minlength=self.num_events).astype(np.float64, copy=False)

    def first(self, values: Array) -> Array:
        """First value per event, NaN without entries."""
        return self._assign(self.owner[::-1], values[::-1])

    def last(self, values: Array) -> Array:
        """Last value per event, NaN without entries."""
        return self._assign(self.owner, values)

    def largest(self, values: Array) -> Array:
        """Largest value per event, NaN without entries."""
        order = np.lexsort((values, self.owner))
        return self._assign(self.owner, values[order])

    def spread(self, values: Array) -> Spread:
        """Compute `spread_of` for every event."""
        count = self.count()
        mean = self.total(values) / np.where(count > 0.0, count, nan)
        ordered = np.append(values[np.lexsort((values, self.owner))], nan)
        lengths = count.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        low, high = starts + (lengths - 1) // 2, starts + lengths // 2
        some = lengths > 0
        median = np.where(some, (ordered[np.where(some, low, -1)] + ordered[np.where(some, high, -1)]) / 2, nan)
        largest = ordered[np.where(some, starts + lengths - 1, -1)]
        distance = values - mean[self.owner]
        deviation = np.sqrt(self.total(distance * distance) / np.where(count > 1.0, count, nan))
        return Spread(mean, median, largest, deviation)

    def _assign(self, owner: npt.NDArray[np.int64], values: Array) -> Array:
        found = np.full(self.num_events, nan)
        found[owner] = values  # of several values for one event the last stays
        return found


def flat(values: Iterable[float]) -> Array:
    """Make a float64 array of the entries of many events."""
    return np.fromiter(values, dtype=np.float64)
