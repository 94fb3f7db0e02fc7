"""Verdicts in service that people rejected, as cases of a round: from the monitor's kept days and the archive."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date, timedelta
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc

from cancellation.contact_data.logged_event import is_by_reference
from cancellation.events.event import event_mapping, parse_event
from cancellation.events.fields import EventError
from cancellation.monitoring.days import Days
from cancellation.relabelling.cases import Case
from cancellation.serving.records.shipped_log import day_start, read_log
from cluster.places import Place
from cluster.provenance import hide_credentials
from cluster.settings import Settings
from cluster.storage import exists, join_url

logger = logging.getLogger(__name__)

_LOOKED_BACK = 92
"""Days between a decision and what people say of it, at most: as far as the monitor may look back."""


def look_at_days(monitoring: str, _job: Settings | None = None) -> str:
    """Say that days were monitored.

    Raises:
        ValueError: If none was: a round would leave out what people rejected, and not say so.
    """
    if not exists(join_url(monitoring, "days")):
        raise ValueError(
            f"monitoring {hide_credentials(monitoring)}: expected days/ of jobs.cancellation_monitor, found none; give "
            "its output, run it first, or leave out archive"
        )
    return "monitored days"


Monitored = Annotated[str, Place("reads", look_at_days, look_at_days)]
"""The output of jobs.cancellation_monitor."""


def rejected_verdicts(archive: str, monitoring: str, until: date, *, most: int) -> list[Case]:
    """Find the events of the model's rejected verdicts, the latest first.

    A verdict whose event's texts are not in the archive (logged by reference, or gone from it) cannot be looked at: it
    is passed over, and counted in the log.

    Args:
        archive: Where the endpoint ships (`serving.output`).
        monitoring: The output of jobs.cancellation_monitor, which has brought feedback and decisions together.
        until: The last day whose feedback counts.
        most: Cases at most.

    Raises:
        ValueError: If no day was monitored: a round would leave out what people rejected, and not say so.
    """
    look_at_days(monitoring)
    days = list(Days(archive, monitoring, None).all_feedback(until))
    wrong = {
        review.event_id: review
        for day in days
        for review in day.reviews
        if review.source == "model" and not review.right
    }
    if not wrong:
        return []
    start = day_start(min(date.fromisoformat(day.day) for day in days) - timedelta(days=_LOOKED_BACK))
    found: dict[str, Case] = {}
    for market in sorted({review.market for review in wrong.values()}):
        ids = pa.array([name for name, review in wrong.items() if review.market == market], pa.string())
        table = read_log(
            join_url(archive, "decisions"),
            market=market,
            start=start,
            columns=("event_id", "event"),
            where=pc.field("event_id").isin(ids),
        )
        for row in table.to_pylist():
            review = wrong[row["event_id"]]
            try:
                event = parse_event(row["event"] or b"{}")
            except EventError:  # a record of an event that was forgotten, or never was whole
                continue
            if event.event_id not in found and not is_by_reference(event_mapping(event)):
                found[event.event_id] = Case(
                    event, "rejected", 1, review.verdict, labelled_by=f"{review.source} {review.model_version}"
                )
    if without := len(wrong) - len(found):
        logger.warning(
            "%d of %d rejected verdicts are not asked: the archive lacks their events' texts (serving.log_events)",
            without,
            len(wrong),
        )
    if len(found) > most:
        logger.warning("%d of %d rejected verdicts are not asked (most_rejected)", len(found) - most, len(found))
    latest = [found[name] for name in reversed(wrong) if name in found]
    return [replace(case, rank=rank) for rank, case in enumerate(latest[:most], 1)]
