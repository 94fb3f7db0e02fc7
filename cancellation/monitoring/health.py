"""What the log says of itself: what is missing in it or cannot be counted, so that no figure is taken for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cancellation.monitoring.counts import DayCounts
from cancellation.monitoring.feedback import FeedbackDay
from cancellation.monitoring.findings import Finding

UNKNOWABLE = (
    ("shed and refused requests", "they get no decision and so no record; the endpoint's metrics count them"),
    (
        "the time until the caller had the answer",
        "the log has the endpoint's own stages, up to the writing of the record",
    ),
    ("buyers' and sellers' cancellation rates", "the log has cancellations alone, not the orders that went well"),
    (
        "how many copies a shadow dropped",
        "only those that it judged are on record; the endpoint's metrics count the rest",
    ),
)
"""What cannot be learned from the log, and why or where else."""


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
