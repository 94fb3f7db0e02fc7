"""What is different today: moves that days of this kind do not make by themselves, in words, the gravest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import Literal

from pydantic import Field

from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.monitoring.counts import DayCounts, MarketCounts, merge, quantile_ms
from cancellation.monitoring.feedback import FeedbackDay
from cluster.pages.formats import format_share
from cluster.settings import Settings
from cluster.statistics.drift import MIN_DAYS, holm, share_shift, size_shift

Severity = Literal["alarm", "notice"]

UNKNOWABLE = (
    ("shed and refused requests", "they get no decision and so no record; the endpoint's metrics count them"),
    (
        "the time until the caller had the answer",
        "the log has the endpoint's own stages, up to the writing of the record",
    ),
    (
        "cancellation rates of all orders",
        "the log has cancellations, and beside each what its seller had in hand: sellers without any are not in it",
    ),
    (
        "how many copies a shadow dropped",
        "only those that it judged are on record; the endpoint's metrics count the rest",
    ),
)
"""What cannot be learned from the log, and why or where else."""


class FindingSettings(Settings):
    """From where on a move is worth a line."""

    level: float = Field(default=0.01, gt=0, lt=1)
    """Chance, a day, that days which differ as they always did give even one of these alarms."""

    min_points: float = Field(default=0.02, ge=0, le=1)
    """Smallest move of a share, as a fraction, that is told."""

    min_ratio: float = Field(default=1.3, gt=1)
    """Smallest factor by which traffic or latency moved that is told."""

    min_events: int = Field(default=30, ge=1)
    """Events of a market below which its shares are not compared."""


@dataclass(frozen=True)
class Finding:
    """A sentence for people."""

    severity: Severity
    subject: str
    """traffic, verdicts, answers, latency, factors, drift, precision, shadow or log."""
    text: str
    size: float = 0.0
    """For the order among those of one severity."""


@dataclass(frozen=True)
class _Test:
    subject: str
    where: str
    """A market, or all of them."""
    what: str
    text: str
    p_value: float
    size: float
    large: bool


_ALL = "all markets"
_FALLBACK = "answered by the rules, as the model did not,"


def compare_day(today: DayCounts, before: Sequence[DayCounts], settings: FindingSettings) -> list[Finding]:
    """Compare a day with earlier ones: traffic, latency, who answered, verdicts by market, factors.

    What moved over all markets together is told once and not of each of them again.
    """
    whole, past = _whole(today), [_whole(day) for day in before]
    tests = _traffic(today, before, settings) + _latency(today, before, settings)
    tests += _answers(_ALL, whole, past, settings)
    for code in sorted(today.markets):
        tests += _answers(code, today.markets[code], _of(before, code), settings)
    for factor in FACTORS:
        known = [(one.factors, one.events) for one in past]
        now = (whole.factors, whole.events)
        tests += _share_test("factors", (_ALL, f"factor {factor}"), now, known, factor, settings)
    passed = holm([test.p_value for test in tests], level=settings.level) if tests else []
    moved = [test for test, alarm in zip(tests, passed, strict=True) if alarm and test.large]
    everywhere = {test.what for test in moved if test.where == _ALL}
    told = [test for test in moved if test.where == _ALL or test.what not in everywhere]
    return [Finding("alarm", one.subject, one.text, one.size) for one in sorted(told, key=lambda one: -one.size)]


def missing_hours(today: DayCounts, before: Sequence[DayCounts], settings: FindingSettings) -> dict[str, list[int]]:
    """Name the hours (UTC) of each market in which there is nothing, though there usually is.

    Hours without an event are missing where as many in a row with as much traffic (Poisson, at each hour's mean of the
    days before) would be empty by chance on a share `level` of days, whatever the number of markets: one hour of a
    large market, several of a small one. Without earlier days: the hours in which no market has anything, named
    `all markets`.
    """
    if len(before) < MIN_DAYS:
        whole = _whole(today).hours
        usual = {_ALL: ([sum(whole) / 24] * 24, whole)}
    else:
        codes = sorted({code for day in before for code in day.markets})
        earlier = {code: [one.hours for one in _of(before, code)] for code in codes}
        usual = {
            code: (
                [sum(hours[hour] for hours in earlier[code]) / len(before) for hour in range(24)],
                today.markets.get(code, MarketCounts()).hours,
            )
            for code in codes
        }
    # Each hour of each market is a test of its own, and any of them raises the alarm.
    enough = -math.log(settings.level / (24 * max(len(usual), 1)))
    found = {code: _empty_spans(*hours, enough) for code, hours in usual.items()}
    return {code: hours for code, hours in found.items() if hours}


def _empty_spans(usual: Sequence[float], hours: Sequence[int], enough: float) -> list[int]:
    """Give the hours of all spans without an event in which at least so many were to be expected."""
    found: list[int] = []
    for empty, span in groupby(range(24), key=lambda hour: not hours[hour]):
        those = list(span)
        if empty and sum(usual[hour] for hour in those) >= enough:
            found += those
    return found


def _traffic(today: DayCounts, before: Sequence[DayCounts], settings: FindingSettings) -> list[_Test]:
    codes = sorted({code for day in [today, *before] for code in day.markets})
    rows = [(_ALL, today.events, [day.events for day in before])]
    rows += [
        (code, today.markets.get(code, MarketCounts()).events, [m.events for m in _of(before, code)]) for code in codes
    ]
    found = []
    for name, events, past in rows:
        usual, p_value = size_shift(events, past, least_variance=1 / max(1, events))
        if usual == usual and usual >= settings.min_events:
            ratio = max(events, 0.5) / usual
            large = not 1 / settings.min_ratio < ratio < settings.min_ratio
            text = f"{name}: {events:,} decisions, usually {usual:,.0f}"
            found.append(_Test("traffic", name, "traffic", text, p_value, abs(ratio - 1), large))
    return found


def _latency(today: DayCounts, before: Sequence[DayCounts], settings: FindingSettings) -> list[_Test]:
    total = today.stages.get("total", [])
    slow = quantile_ms(total, 0.99) if total and sum(total) >= settings.min_events else None
    past = [quantile_ms(day.stages["total"], 0.99) for day in before if sum(day.stages.get("total", ()))]
    if slow is None:
        return []
    usual, p_value = size_shift(slow, [one for one in past if one is not None])
    if usual != usual:
        return []
    text = f"slowest hundredth of the answers: {slow:,.0f} ms and more, usually {usual:,.0f} ms"
    return [_Test("latency", _ALL, "latency", text, p_value, slow / usual - 1, slow / usual >= settings.min_ratio)]


def _answers(where: str, today: MarketCounts, before: Sequence[MarketCounts], settings: FindingSettings) -> list[_Test]:
    if today.events < settings.min_events:
        return []
    rows = [("verdicts", verdict, verdict, "verdicts") for verdict in VERDICTS]
    rows += [("verdicts", "penalties", "penalty", "actions"), ("answers", _FALLBACK, "fallback", "sources")]
    found = []
    for subject, what, name, counts in rows:
        past = [(getattr(one, counts), one.events) for one in before]
        now = (getattr(today, counts), today.events)
        found += _share_test(subject, (where, what), now, past, name, settings)
    return found


def _share_test(
    subject: str,
    place: tuple[str, str],
    now: tuple[Mapping[str, int], int],
    before: Sequence[tuple[Mapping[str, int], int]],
    name: str,
    settings: FindingSettings,
) -> list[_Test]:
    count, total = now[0].get(name, 0), now[1]
    usual, p_value = share_shift(count, total, [(found.get(name, 0), size) for found, size in before])
    if usual != usual or not total:
        return []
    share = count / total
    where, what = place
    text = f"{where}: {what} {format_share(share)}, usually {format_share(usual)}"
    return [_Test(subject, where, what, text, p_value, abs(share - usual), abs(share - usual) >= settings.min_points)]


def _of(days: Sequence[DayCounts], code: str) -> list[MarketCounts]:
    return [day.markets[code] for day in days if code in day.markets]


def _whole(day: DayCounts) -> MarketCounts:
    return merge(list(day.markets.values()))


def log_findings(
    today: DayCounts, feedback: FeedbackDay, hours: Mapping[str, Sequence[int]], *, hours_left: float
) -> list[Finding]:
    """Say what of a day is not in its figures; `hours_left` until all of it is in the archive, negative after that."""
    found = []
    if hours_left > 0:
        found.append(
            Finding(
                "alarm",
                "log",
                f"the day is still being shipped: all of it is there in {hours_left:.1f} h; nothing "
                "is compared with other days before",
            )
        )
    if not today.events:
        found.append(Finding("alarm", "log", "no decision of that day is in the log"))
    elif hours_left <= 0:
        by_hours: dict[str, list[str]] = {}
        for code, silent in hours.items():
            by_hours.setdefault(_hours(silent), []).append(code)
        for span, codes in by_hours.items():
            found.append(Finding("alarm", "log", f"{', '.join(codes)}: nothing from {span} UTC"))
    return found + _damage(today, feedback)


def missing_days(today: DayCounts, before: Sequence[DayCounts]) -> list[Finding]:
    """Name the days right before this one of which no decision is in the log: nobody may have looked at them."""
    known = [date.fromisoformat(one.day) for one in before if one.events]
    if not known:
        return []
    first, last = max(known) + timedelta(days=1), date.fromisoformat(today.day) - timedelta(days=1)
    if first > last:
        return []
    span = str(last) if first == last else f"{first} to {last}"
    return [Finding("alarm", "log", f"no decision of {span} is in the log, nor compared with this day")]


def _damage(today: DayCounts, feedback: FeedbackDay) -> list[Finding]:
    found = []
    for what, damage in (("decisions", today.damage), ("feedback", feedback.damage)):
        if damage.files:
            names = ", ".join(damage.files[:3]) + (
                f" and {len(damage.files) - 3} more" if len(damage.files) > 3 else ""
            )
            found.append(
                Finding(
                    "alarm",
                    "log",
                    f"{what}: {_many(len(damage.files), 'file')} cannot be read and not counted: {names}",
                )
            )
        texts = (
            (damage.unread, "did not fit the log's columns"),
            (damage.misplaced, "have an instant outside of the folder's day: clocks that disagree"),
            (damage.repeated, "repeat one that was counted"),
        )
        found += [
            Finding("notice", "log", f"{what}: {_many(n, 'record')} {text}, not counted") for n, text in texts if n
        ]
    texts = (
        (feedback.unknown, "about an event that is in none of the days' logs, not counted"),
        (feedback.early, "older than the decision that it is about: clocks that disagree; counted"),
        (feedback.contradicting, "against what was said of the event before"),
    )
    found += [Finding("notice", "log", f"feedback: {_many(n, 'message')} {text}") for n, text in texts if n]
    if today.other_features:
        text = f"{_many(today.other_features, 'decision')} with features of another version: no part of the drift"
        found.append(Finding("notice", "drift", text))
    return found


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _hours(hours: Sequence[int]) -> str:
    """Write hours as spans: 03–05, 11."""
    spans: list[list[int]] = []
    for hour in hours:
        if spans and spans[-1][1] == hour:
            spans[-1][1] = hour + 1
        else:
            spans.append([hour, hour + 1])
    return ", ".join(f"{start:02d}:00 to {end:02d}:00" for start, end in spans)
