"""Appeals as the endpoint takes them: a case opened, moved and decided, and written where others read of it.

With each entry goes what it means elsewhere: an appeal is feedback that says so, a decided one is feedback that
confirms or rejects the verdict, and one that is granted reverses the action. All of that is on the local disk before
the entry can be seen; if the entry then fails, as when the database goes away, it is written again with the next try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from cancellation.serving.answering.past_decisions import PastDecisions
from cancellation.serving.answering.recording import Lane
from cancellation.serving.answering.request import NotRecorded
from cancellation.serving.appeals.case import OPEN, OVERTURNED, SELLER, UPHELD, WAITING, WITH_REVIEWER, Case, Entry
from cancellation.serving.appeals.messages import Appeal, Step
from cancellation.serving.appeals.settings import AppealSettings
from cancellation.serving.appeals.statement import is_owed, statement_of_reasons
from cancellation.serving.appeals.store import AppealStore
from cancellation.serving.observability.metrics import APPEALS, APPEALS_OVERDUE, APPEALS_WAITING, FEEDBACK, Metrics
from cancellation.serving.records.archive import Archive
from cancellation.serving.records.feedback import Feedback, feedback_record
from cancellation.serving.records.people import PersonKey

_DAY_SECONDS = 86_400.0
_OUTCOMES = {OPEN: "appealed", UPHELD: "confirmed", OVERTURNED: "rejected"}
"""What an entry says as feedback; a reviewer who takes a case says nothing."""

_ResultT = TypeVar("_ResultT")


class NotAppealable(ValueError):  # noqa: N818
    """A decision that cannot be appealed; `code` says why in a word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Appeals:
    """Belongs to one event loop. Its store's database is another's to close."""

    def __init__(
        self,
        store: AppealStore,
        decisions: PastDecisions,
        archive: Archive,
        *,
        person_key: PersonKey,
        settings: AppealSettings,
        metrics: Metrics,
        known_market: Callable[[str], bool],
    ) -> None:
        self.store = store
        self.settings = settings
        self._decisions = decisions
        self._archive = archive
        self._person_key = person_key
        self._metrics = metrics
        self._known_market = known_market
        database = store.database
        self._writes = Lane("appeals-write", database.num_writers, database.name, metrics, store.can_write)
        self._reads = Lane("appeals-read", database.num_writers, database.name, metrics, store.can_read)
        self._shown: set[tuple[str, str]] = set()

    @property
    def fails(self) -> bool:
        """Whether cases cannot be read or kept."""
        return self._writes.failing or self._reads.failing

    async def open(self, appeal: Appeal, *, caller: str, now: float) -> tuple[Case, bool] | None:
        """Open a case at an instant (`now`); give it, and whether it is new. None: there is no such decision.

        Raises:
            NotAppealable: If it is another seller's, nothing followed from it, or it is too long ago.
            AppealConflict: If another appeal against it is under way, or was granted.
            NotRecorded: If it could not be written down, or the decisions not be read.
        """
        decision = await self.decision(appeal.event_id, market=appeal.market, day=appeal.day)
        if decision is None:
            return None
        self._check(appeal, decision, now)
        entry = Entry(now, OPEN, SELLER, caller, appeal.reason)
        case, new = await self._written(
            lambda: self.store.open(
                appeal.identity(self._person_key),
                decision,
                entry,
                deadline=now + self.settings.decide_days * _DAY_SECONDS,
                before=self._log,
            )
        )
        if new:
            self._count(case)
        return case, new

    async def step(self, appeal_id: str, step: Step, *, caller: str, now: float) -> tuple[Case, bool] | None:
        """Do what a reviewer wants with a case, at an instant; give it, and whether it changed. None: there is none.

        Raises:
            AppealConflict: If the case is not where that is possible, or somebody else was first.
            NotAppealable: If the decision's own verdict is named as the right one.
            NotRecorded: If it could not be written down.
        """
        taking = step.state == WITH_REVIEWER
        reason = f"from {step.takes_over_from}" if taking and step.takes_over_from else step.reason
        entry = Entry(now, step.state, step.reviewer, caller, reason, step.label)

        def wanted(case: Case) -> bool:
            if taking:
                return case.takes(step.reviewer, step.takes_over_from)
            # What was to be investigated alone may be overturned though its verdict accused nobody.
            if step.label == "induced" and step.label == case.decision["verdict"]["verdict"]:
                raise NotAppealable("label", "expected another verdict than the one that is overturned, found the same")
            return case.decides(entry)

        found = await self._written(lambda: self.store.append(appeal_id, entry, wanted=wanted, before=self._log))
        if found is not None and found[1]:
            self._count(found[0])
        return found

    async def now(self) -> float:
        """Tell the time by the clock that all gateways share.

        Raises:
            NotRecorded: If the database cannot be asked.
        """
        return await self._read(self.store.now)

    async def find(self, appeal_id: str) -> Case | None:
        """Find a case.

        Raises:
            NotRecorded: If the database cannot be asked.
        """
        return await self._read(lambda: self.store.get(appeal_id))

    async def queue(self, market: str | None) -> list[Case]:
        """Give the cases that wait, what is overdue first.

        Raises:
            NotRecorded: As `find`.
        """
        return await self._read(lambda: self.store.queue(market))

    async def statement(self, event_id: str, *, market: str | None, day: date | None) -> dict[str, Any] | None:
        """Render the reasons of a decision and what has become of an appeal against it; None: there is none.

        Raises:
            NotAppealable: If nothing followed from it.
            NotRecorded: As `open`.
        """
        cases = await self._read(lambda: self.store.cases_of(event_id))
        # A case keeps its decision: the archive is read for a day of which there is none.
        of_day = [case for case in cases if day in (None, _day_of(case.decision))]
        decision = await self.decision(event_id, market=market, day=None if of_day else day)
        if decision is None and not of_day:
            return None
        decision = decision or of_day[-1].decision
        case = next((case for case in reversed(cases) if case.is_about(decision)), None)
        decision = case.decision if case else decision
        if not is_owed(decision):
            raise NotAppealable(
                "nothing_followed", "nothing followed from this decision, so no reasons are owed for it"
            )
        return statement_of_reasons(decision, self.settings, case)

    async def decision(self, event_id: str, *, market: str | None, day: date | None) -> Mapping[str, Any] | None:
        """Find the decision on an event, of that market if one is named.

        Raises:
            NotRecorded: If the recent decisions or the archive cannot be read.
        """
        try:
            found = await self._decisions.find(event_id, market=market, day=day)
        except OSError:
            raise NotRecorded("the archive of decisions cannot be read; try again") from None
        return found if found is None or market in (None, found["market"]) else None

    async def measure(self) -> None:
        """Show how many cases wait, and how many too long; to be called every few seconds."""
        counted = {(one.market, one.state): one for one in await self._read(self.store.waiting)}
        await asyncio.get_running_loop().run_in_executor(None, self.store.database.tend)
        self._shown |= {(market, state) for market, _ in counted for state in WAITING}
        overdue: dict[str, int] = {}
        sums: dict[tuple[str, str], int] = {}
        for market, state in self._shown:
            found, tag = counted.get((market, state)), self._tag(market)
            sums[tag, state] = sums.get((tag, state), 0) + (found.cases if found else 0)
            overdue[tag] = overdue.get(tag, 0) + (found.overdue if found else 0)
        for (tag, state), cases in sums.items():
            self._metrics.set(APPEALS_WAITING, float(cases), tag, state)
        for tag, cases in overdue.items():
            self._metrics.set(APPEALS_OVERDUE, float(cases), tag)

    async def try_again(self) -> None:
        """See whether what failed works again; to be called every second or so."""
        for lane in (self._reads, self._writes):
            await lane.try_again()

    def close(self) -> None:
        """Finish what is under way."""
        for lane in (self._reads, self._writes):
            lane.close()
        self._decisions.close()

    def _check(self, appeal: Appeal, decision: Mapping[str, Any], now: float) -> None:
        seller = (decision.get("people") or {}).get("seller")
        if seller != self._person_key.digest("seller", appeal.seller_id):
            raise NotAppealable("seller_id", "expected the seller whom the decision is about, found another")
        if not is_owed(decision):
            raise NotAppealable(
                "nothing_followed", "nothing followed from this decision, so there is nothing to appeal"
            )
        if now > decision["received_at"] + self.settings.window_days * _DAY_SECONDS:
            days = f"{self.settings.window_days:g}"
            raise NotAppealable("too_late", f"expected an appeal within {days} days of the decision, found a later one")

    def _log(self, case: Case) -> None:
        """Write down the case's last entry, what it says as feedback, and what is to be reversed."""
        last, decision = case.entries[-1], case.decision
        verdict = decision["verdict"]
        about = {
            "appeal_id": case.appeal_id,
            "event_id": case.event_id,
            "market": case.market,
            "received_at": last.at,
            "decided_at": decision["received_at"],
            **{name: verdict[name] for name in ("verdict", "action", "model_version", "policy_version")},
            "people": decision["people"],
            "caller": last.caller,
        }
        said = {"round": case.round, "state": last.state, "author": last.author, "reason": last.reason}
        event = decision["event"] if last.state == OVERTURNED else None
        entry = {**about, **said, "label": last.label, "deadline": case.deadline, "event": event}
        self._archive.appeals.append(entry)
        if last.state in _OUTCOMES:
            reviewer = None if last.author == SELLER else last.author
            feedback = Feedback(case.event_id, _outcome(case), last.label, reviewer)
            record = feedback_record(
                feedback, decision, caller=last.caller, received_at=last.at, appeal_id=case.appeal_id
            )
            self._archive.feedback.append(record)
        if last.state == OVERTURNED:
            self._archive.reversals.append({**about, "reviewer": last.author})

    def _count(self, case: Case) -> None:
        market, state = self._tag(case.market), case.state
        self._metrics.count(APPEALS, market, state)
        if state in _OUTCOMES:
            self._metrics.count(FEEDBACK, market, _outcome(case))

    def _tag(self, market: str) -> str:
        return market if self._known_market(market) else "other"

    async def _written(self, work: Callable[[], _ResultT]) -> _ResultT:
        try:
            return await self._writes.do(work)
        except OSError:
            raise NotRecorded("the appeal could not be written down; try again") from None

    async def _read(self, work: Callable[[], _ResultT]) -> _ResultT:
        try:
            return await self._reads.do(work)
        except OSError:
            raise NotRecorded("the appeals cannot be read; try again") from None


def _outcome(case: Case) -> str:
    """Say what an entry is of the verdict: one that accused nobody was right, though what followed is taken back."""
    right = case.entries[-1].label == case.decision["verdict"]["verdict"]
    return "confirmed" if right else _OUTCOMES[case.state]


def _day_of(decision: Mapping[str, Any]) -> date:
    return datetime.fromtimestamp(decision["received_at"], UTC).date()
