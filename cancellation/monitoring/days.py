"""The counts of each day, kept below `days/` so that a month is compared without reading a month of logs.

    days/2026-11-22/decisions.json      counts
    days/2026-11-22/decisions.parquet   each decision in a few columns: which events are behind a figure
    days/2026-11-22/feedback.json       what people said on that day

Each file says what it was made from. It is made again if that has changed, as when hours came late, and only then: a
day may be run as often as one likes and is never counted twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.features.profile import FeatureProfile
from cancellation.monitoring.counts import DayCounts, read_counts
from cancellation.monitoring.feedback import FeedbackDay, join_feedback, read_feedback, usable_messages
from cancellation.monitoring.log_files import Damage, day_files
from cancellation.monitoring.parts import DayTotal, Share, Through, Unit, count_unit, one_by_one, units_of
from cancellation.serving.records.shipped_log import with_fresh_listing
from cluster import storage
from cluster.storage import StoredFile, listing_digest

_FORM = 4
"""Raise it when other things are counted, or counted otherwise: kept days are then made again."""


@dataclass
class _Plan:
    """What there is of a day, and what is kept of it already."""

    day: date
    logs: dict[str, Sequence[StoredFile]]
    """Files by log."""
    stamp: str | None
    """Of its decisions; None: the archive has none."""
    known: Sequence[date]
    """Days, up to it, in which the decision that a feedback is about is looked for: as many before each day, whichever
    day is monitored, or what people said would be forgotten as the window moves on."""
    said_stamp: str | None = None
    """Of its feedback; None: there is none."""
    counts: DayCounts | None = None
    said: FeedbackDay | None = None

    def units(self) -> list[Unit]:
        """Cut what is to be read into units, decisions first."""
        logs = ["decisions", "shadow"] if self.stamp and self.counts is None else []
        logs += ["feedback"] if self.said_stamp and self.said is None else []
        return [unit for log in logs for unit in units_of(log, self.day, self.logs[log])]


class Days:
    """The kept days of one archive, below a folder of its own."""

    def __init__(
        self, archive_url: str, output_url: str, profile: FeatureProfile | None, *, through: Through = one_by_one
    ) -> None:
        self._archive, self._output, self._profile = archive_url.rstrip("/"), output_url.rstrip("/"), profile
        self._through = through

    def complete(self, day: date, num_before: int) -> tuple[list[DayCounts], list[FeedbackDay]]:
        """Bring a day and those before it up to date; give the counts of those that the archive knows, oldest first.

        The day itself is always among them, and always last. What is new of all days is read at once.
        """
        plans, messages = with_fresh_listing(lambda: self._counted(day, num_before))
        feedback = self._said([plan for plan in plans if plan.said_stamp], messages, timedelta(days=num_before))
        return [plan.counts for plan in plans if plan.counts is not None], feedback

    def _counted(self, day: date, num_before: int) -> tuple[list[_Plan], dict[date, list[Share]]]:
        plans = self._plans(day, num_before)
        return plans, self._count(plans)

    def _plans(self, day: date, num_before: int) -> list[_Plan]:
        """List the files of the days, oldest first, and read what is kept of those that have not changed."""
        plans: list[_Plan] = []
        earlier = [day - timedelta(days=back) for back in range(2 * num_before, num_before, -1)]
        stamps = {one: stamp for one in earlier if (stamp := self._kept_stamp(one)) is not None}
        for one in (day - timedelta(days=back) for back in range(num_before, -1, -1)):
            logs = {name: day_files(self._log(name), one) for name in ("decisions", "shadow", "feedback")}
            listings = {name: listing_digest(files) for name, files in logs.items()}
            stamp = None
            if logs["decisions"] or logs["shadow"] or one == day:
                stamp = stamps[one] = _digest(listings["decisions"], listings["shadow"], self._reference())
            through = {that: its for that, its in stamps.items() if (one - that).days <= num_before}
            plan = _Plan(one, logs, stamp, sorted(through))
            if stamp is not None:
                kept = self._kept(one, "decisions.json", stamp)
                plan.counts = None if kept is None else read_counts(kept)
            if logs["feedback"] or one == day:
                plan.said_stamp = _digest(
                    listings["feedback"], sorted((str(that), its) for that, its in through.items())
                )
                kept = self._kept(one, "feedback.json", plan.said_stamp)
                plan.said = None if kept is None else read_feedback(kept)
            plans.append(plan)
        return plans

    def _count(self, plans: Sequence[_Plan]) -> dict[date, list[Share]]:
        """Read what is new; count decisions and shadows and keep them, day by day; give the feedback as it is."""
        units = [unit for plan in plans for unit in plan.units()]
        due = {plan.day: plan for plan in plans if plan.stamp and plan.counts is None}
        totals = {
            one: DayTotal([unit for unit in units if unit.day == one and unit.log != "feedback"], one) for one in due
        }
        messages: dict[date, list[Share]] = {}
        try:
            while units or totals:
                for share in self._through(units, count_unit, self._profile):
                    if share.unit.log == "feedback":
                        messages.setdefault(share.unit.day, []).append(share)
                        continue
                    totals[share.unit.day].add(share)
                    self._keep_complete(totals, due)
                self._keep_complete(totals, due)  # also a day without a file
                units = [unit for total in totals.values() for unit in total.again]
        finally:
            for total in totals.values():  # of days that were not finished
                total.close()
        return messages

    def _keep_complete(self, totals: dict[date, DayTotal], due: Mapping[date, _Plan]) -> None:
        for one in [one for one, total in totals.items() if total.complete]:
            plan, total = due[one], totals.pop(one)
            storage.write_bytes(self.events_url(one), total.take_decisions())
            assert plan.stamp
            self._keep(one, "decisions.json", plan.stamp, total.counts.to_json())
            plan.counts = total.counts

    def events_url(self, day: date) -> str:
        """Where the day's decisions are kept in a few columns."""
        return self._url(day, "decisions.parquet")

    def flagged_sellers(self, day: date) -> set[str] | None:
        """Give the digests of the sellers of whom an action was asked on a kept day; None: the day is not kept."""
        try:
            content = pa.BufferReader(storage.read_bytes(self.events_url(day)))
        except FileNotFoundError:
            return None
        table = pq.read_table(content, columns=["seller_digest", "action"])
        flagged = pc.is_in(table["action"], pa.array(["investigate", "penalty"]))
        return set(pc.unique(pc.drop_null(table["seller_digest"].filter(flagged))).to_pylist())

    def all_feedback(self, until: date, *, since: date = date.min) -> Iterator[FeedbackDay]:
        """Give the feedback of every kept day up to one, oldest first, however long ago."""
        for file in storage.list_files(storage.join_url(self._output, "days"), suffix="/feedback.json"):
            if str(since) <= file.url.rsplit("/", 2)[-2] <= str(until):
                yield read_feedback(_content(storage.read_bytes(file.url)))

    def _said(
        self, plans: Sequence[_Plan], messages: Mapping[date, Sequence[Share]], back: timedelta
    ) -> list[FeedbackDay]:
        """Give the feedback of the days, each made with that of as many days before it where it is not kept."""
        due = [plan.day for plan in plans if plan.said is None]
        kept = self.all_feedback(due[-1] - timedelta(days=1), since=due[0] - back) if due else ()
        said = {date.fromisoformat(one.day): one for one in kept}
        for plan in plans:
            before = [said[one] for one in sorted(said) if plan.day - back <= one < plan.day]
            said[plan.day] = plan.said or self._feedback(plan, messages.get(plan.day, []), before)
        return [said[plan.day] for plan in plans]

    def _feedback(self, plan: _Plan, shares: Sequence[Share], before: Sequence[FeedbackDay]) -> FeedbackDay:
        damage = Damage()
        for share in shares:
            damage.add(share.counts.damage)
        messages = usable_messages((share.rows for share in shares), plan.day, damage)
        decisions = self._find({message["event_id"] for message in messages}, plan.known)
        result = join_feedback(plan.day, messages, decisions, before=before, damage=damage)
        assert plan.said_stamp
        self._keep(plan.day, "feedback.json", plan.said_stamp, result.to_json())
        return result

    def _find(self, event_ids: set[str], days: Iterable[date]) -> dict[str, dict[str, Any]]:
        """Find the first decision on each event in the kept days."""
        found: dict[str, dict[str, Any]] = {}
        wanted = pa.array(sorted(event_ids), pa.string())
        for day in days if event_ids else ():
            content = pa.BufferReader(storage.read_bytes(self.events_url(day)))
            for batch in pq.ParquetFile(content).iter_batches():
                for row in batch.filter(pc.is_in(batch["event_id"], wanted)).to_pylist():
                    found.setdefault(row["event_id"], row)
        return found

    def _kept(self, day: date, name: str, stamp: str) -> bytes | None:
        kept = self._read(day, name)
        return json.dumps(kept["content"]).encode() if kept and kept["made_from"] == stamp else None

    def _kept_stamp(self, day: date) -> str | None:
        """Say what the decisions of a day were counted from that is not counted again; None: nothing is kept of it."""
        kept = self._read(day, "decisions.json")
        return kept and str(kept["made_from"])

    def _read(self, day: date, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(storage.read_bytes(self._url(day, name)))
            return {part: value[part] for part in ("made_from", "content")}
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError):  # cut off, or another program's: made again
            return None

    def _keep(self, day: date, name: str, stamp: str, content: bytes) -> None:
        whole = b'{"made_from":%s,"content":%s}' % (json.dumps(stamp).encode(), content)
        storage.write_bytes(self._url(day, name), whole)

    def _url(self, day: date, name: str) -> str:
        return storage.join_url(self._output, "days", str(day), name)

    def _log(self, name: str) -> str:
        return storage.join_url(self._archive, name)

    def _reference(self) -> str:
        return "none" if self._profile is None else sha256(self._profile.to_json()).hexdigest()


def _content(whole: bytes) -> bytes:
    return json.dumps(json.loads(whole)["content"]).encode()


def _digest(*parts: Any) -> str:
    return sha256(repr([*parts, _FORM]).encode()).hexdigest()[:24]
