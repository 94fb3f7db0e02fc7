"""Answers put on record and found there, with no more patience for the database than whoever asked has.

A database may be locked, hang or be gone. The first wait for it ends with the deadline or after a second; from then on
nobody waits, until an attempt beside the answers succeeds. What cannot be remembered is written to the log alone, and
kept here until it can be.

The log is written before the database has taken an answer for good, so it may hold one that was refused after all and
judged anew. Of a penalty that machines share that must not be: it is written down only once it is on record.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from cancellation.serving.answering.only_logged import OnlyLogged
from cancellation.serving.answering.request import NotRecorded
from cancellation.serving.observability.metrics import DATABASE_FAILS, LOG_FAILURES, Metrics
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.recent import RecentDecisions, Recorded
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

_STALL_SECONDS = 1.0
_LEAST_SECONDS = 0.25
"""Waited even beyond a deadline: a call with a short one must not go unrecorded for a busy moment."""
_UNRECORDED_SECONDS = 10.0
"""So long after a refusal of the log nothing counts as recordable; then calls have to show whether it is again."""
_READERS = 4
_REMEMBERED = 100_000
"""Events of which a replica knows that they are on record: some 15 MB."""

_ResultT = TypeVar("_ResultT")


class _Task(Generic[_ResultT]):
    """Work in a thread, and who waits for it."""

    running: Future[None]
    timer: asyncio.TimerHandle

    def __init__(self, work: Callable[[], _ResultT], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.loop, self.since = work, loop, time.monotonic()
        self.answer: asyncio.Future[_ResultT] = loop.create_future()


class Lane:
    """Threads for one kind of work at a database, and whether that fails. Belongs to one event loop.

    It says itself what fails, of what was tried: callers who are not asked to wait any more would each say so again.
    """

    def __init__(
        self, work: str, num_threads: int, database: str, metrics: Metrics, probe: Callable[[], object]
    ) -> None:
        """Make a lane for work of that name; `database` is its name for messages, `probe` shows whether it works."""
        self._work, self._database, self._metrics, self._probe = work, database, metrics, probe
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=f"database-{work}")
        self._fault = LastingFault(logger, f"{database} ({work})")
        self.failing = False
        self._say(False)

    async def do(self, work: Callable[[], _ResultT], until: float = float("inf"), *, again: bool = False) -> _ResultT:
        """Do something in a thread; it may go on there when this raises.

        Args:
            work: Whatever fails in it is an OSError.
            until: Instant of `time.monotonic` after which nobody waits for it.
            again: Try also while it fails, to see whether it still does.

        Raises:
            OSError: If it failed, did not end in time, or is not tried, since what came before failed.
        """
        if self.failing and not again:
            raise OSError(f"{self._database}: failed a moment ago, so it is not asked; look at the database")
        loop = asyncio.get_running_loop()
        task: _Task[_ResultT] = _Task(work, loop)
        task.running = self._threads.submit(self._run, task)
        seconds = min(_STALL_SECONDS, max(_LEAST_SECONDS, until - task.since))
        task.timer = loop.call_later(seconds, self._late, task)
        return await task.answer

    async def try_again(self) -> None:
        """If it fails, see whether it still does; to be called every second or so."""
        if self.failing:
            with suppress(OSError):
                await self.do(self._probe, again=True)

    def close(self) -> None:
        """Finish what is under way, unless it hangs."""
        self._threads.shutdown(wait=not self.failing, cancel_futures=self.failing)

    def _run(self, task: _Task[Any]) -> None:
        """Work in a thread and hand its end to the loop: one turn of that, where a future of its own takes three."""
        result, error = None, None
        try:
            result = task.work()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended, and who waited with it
            task.loop.call_soon_threadsafe(self._ended, task, result, error)

    def _ended(self, task: _Task[Any], result: Any, error: BaseException | None) -> None:
        task.timer.cancel()
        self._say(isinstance(error, OSError))
        if isinstance(error, OSError):
            self._fault.failed(str(error))
        else:
            self._fault.works()
        if task.answer.done():  # nobody waits any more
            return
        if error is None:
            task.answer.set_result(result)
        else:
            task.answer.set_exception(error)

    def _late(self, task: _Task[Any]) -> None:
        """Let the caller go; what takes longer than anything should says that the lane fails, though nobody waits."""
        never_begun = task.running.cancel()
        if not task.answer.done():
            late = TimeoutError(f"{self._database}: no answer in time; look at the database")
            self._fault.failed(str(late))
            task.answer.set_exception(late)
        left = task.since + _STALL_SECONDS - time.monotonic()
        if left > 0 and not never_begun:
            task.timer = task.loop.call_later(left, self._late, task)
        elif not never_begun:
            self._say(True)

    def _say(self, failing: bool) -> None:
        self.failing = failing
        self._metrics.set(DATABASE_FAILS, float(failing), self._work)


class Recorder:
    """Writes decisions ahead of their answers. Belongs to one event loop; its parts are closed by others."""

    def __init__(self, recent: RecentDecisions, log: DecisionLog, metrics: Metrics, *, only_logged: Path) -> None:
        """Take the parts, and the file by which replicas of one machine tell each other of what is only logged."""
        self._recent, self._log, self._metrics = recent, log, metrics
        # The database may be elsewhere, and recording waits for other writers: the event loop must not.
        database = recent.database
        self._write = Lane("write", database.num_writers, database.name, metrics, recent.can_write)
        self._read = Lane("read", _READERS, database.name, metrics, recent.can_read)
        self._without_database = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._refused_at = -_UNRECORDED_SECONDS
        self._log_fault = LastingFault(logger, f"decision log {log.folder}")
        self._recorded: dict[str, None] = {}
        self._only_logged = OnlyLogged(only_logged)

    @property
    def database_fails(self) -> bool:
        """Whether decisions cannot be found or remembered."""
        return self._write.failing or self._read.failing

    @property
    def refuses(self) -> bool:
        """Whether nothing can be put on record, so that every verdict is refused."""
        return time.monotonic() - self._refused_at < _UNRECORDED_SECONDS

    async def find(self, event_id: str, until: float = float("inf")) -> Recorded | None:
        """Find a recorded decision; wait for it until an instant of `time.monotonic`, and a second at most.

        Raises:
            NotRecorded: If the records cannot be read, or decisions are being logged that are not among them yet: that
                is no answer to whether there is one.
        """
        waiting = self._only_logged.get(event_id)
        if waiting is not None:
            return waiting
        # Before it is looked for: what is put on record meanwhile is then found.
        elsewhere = self._only_logged.anywhere()
        try:
            found = await self._read.do(partial(self._recent.get, event_id), until)
        except OSError:
            raise NotRecorded("the decisions on record cannot be read; try again") from None
        if found is not None:
            await self._have_logged(event_id, found, until)
        if found is None and (elsewhere or self._write.failing or self._only_logged):
            raise NotRecorded("decisions are logged that are not on record yet, this one may be among them; try again")
        return found

    def may_know(self, event_id: str) -> bool:
        """Whether this replica has put a decision of an event on record of late.

        What another has, or this one long ago, `put` finds in its transaction anyway. To look before as well would cost
        each event a turn of a thread; this way the few that are sent to another replica again cost a call of the
        model.
        """
        return event_id in self._recorded

    async def put(self, event_id: str, fingerprint: str, record: Mapping[str, Any], until: float) -> Recorded:
        """Put a decision on record; give the one that stands for the event, which may be another's.

        Raises:
            NotRecorded: If it is not on record, or is a penalty that other machines might not know of.
        """
        line = _Line(self._log)
        # Another machine may have judged the event, or will: of penalties there must not be two opinions.
        shared = self._recent.database.shared and record["verdict"]["action"] == "penalty"
        before = None if shared else line.write
        put = partial(self._recent.put, event_id, fingerprint, record, before=before, logged=not shared)
        try:
            standing = await self._write.do(put, until)
        except OSError:  # of the recent ones, or of the log itself
            pass
        else:
            await self._have_logged(event_id, standing, until)
            self._log_fault.works()
            self._remember(event_id)
            return standing
        if shared:
            raise NotRecorded("the decision could not be shared with other machines, so it is not given; try again")
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._without_database, line.take_over):
            await loop.run_in_executor(self._without_database, self._append_or_refuse, record)
        self._only_logged.add(event_id, fingerprint, record)
        self._remember(event_id)
        return Recorded(fingerprint, dict(record), None)

    async def once(self, subject: str, content: str, write: Callable[[], object]) -> bool:
        """Write a message down unless the last one on its subject said the same; False if it did.

        Raises:
            OSError: If it cannot be written.
        """
        return await self._write.do(partial(self._recent.put_once, subject, content, write))

    async def add_explanation(self, event_id: str, decision_factors: Sequence[Mapping[str, Any]]) -> None:
        """Keep an explanation; one that cannot be kept is made again when somebody asks."""
        with suppress(OSError):
            await self._write.do(partial(self._recent.add_explanation, event_id, decision_factors))

    async def try_again(self) -> None:
        """See whether what failed works again; to be called every second or so."""
        for lane in (self._read, self._write):
            await lane.try_again()
        await self.put_what_was_only_logged()

    async def put_what_was_only_logged(self) -> None:
        """Put on record what could not be when it was answered, unless that still fails."""
        if not self._write.failing:
            with suppress(OSError):
                await self._only_logged.put(self._recent, self._write.do)

    def close(self) -> None:
        """Finish what is under way."""
        self._write.close()
        self._read.close()
        self._without_database.shutdown()
        self._only_logged.close()

    async def _have_logged(self, event_id: str, standing: Recorded, until: float) -> None:
        """Write down what is on record and not in the log: whoever judged it got no further."""
        if standing.logged:
            return
        write = partial(self._log.append, standing.decision)
        try:
            await self._write.do(partial(self._recent.log_once, event_id, write), until)
        except OSError:
            raise NotRecorded("the decision could not be written down, so it is not given; try again") from None

    def _remember(self, event_id: str) -> None:
        self._recorded.pop(event_id, None)
        self._recorded[event_id] = None
        if len(self._recorded) > _REMEMBERED:
            del self._recorded[next(iter(self._recorded))]

    def _append_or_refuse(self, record: Mapping[str, Any]) -> None:
        """Write down a decision that cannot be put on record."""
        try:
            self._log.append(record)
        except OSError as error:
            self._log_fault.failed(f"a decision could not be written down: {error}")
            self._refused_at = time.monotonic()
            self._metrics.count(LOG_FAILURES)
            raise NotRecorded("the decision could not be written down, so it is not given; try again") from None
        self._log_fault.works()
        self._refused_at = -_UNRECORDED_SECONDS


class _Line:
    """A decision's line in the log: written once, by the database's thread or by who no longer waits for that."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._written = self._taken_over = False

    def write(self, encoded: bytes) -> None:
        """Write it as part of a transaction, which is undone if it is another's by now."""
        with self._lock:
            if self._taken_over:
                raise RuntimeError("expected a caller who waits, found none; the decision is not remembered")
            self._log.append_encoded(encoded)
            self._written = True

    def take_over(self) -> bool:
        """Keep the database's thread from writing it; True if it has."""
        with self._lock:
            self._taken_over = True
            return self._written
