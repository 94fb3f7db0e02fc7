"""Run days of a flow: each step after those it waits for, and none that is done already.

What is done is kept below the schedule's `record`, a file per step and day with the command that did it, written when
the step has succeeded. A week that was broken off goes on from there; another command, as after a change of the
schedule, is run again, and so is what was done while its day was not over. Two who run the same day at once do some of
it twice, which every job allows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from cluster import storage
from cluster.schedule.plan import Command, Flow, Schedule, commands, yesterday
from cluster.schedule.ray_jobs import RayJobError, RayJobs

_LATE = timedelta(minutes=30)
"""After a day's end in UTC, until all of it is taken to be there, as at the times of the schedules that ship."""

Start = Callable[[Command], int | None]
"""Runs a command to its end; gives its exit status, or None where it has none."""


@dataclass(frozen=True)
class Done:
    """What became of one step of one day."""

    command: Command
    outcome: str
    """ran, before (was done already), failed or waited (what it comes after was not done)."""
    seconds: float = 0.0
    status: int | None = 0


def run_here(command: Command) -> int:
    """Run a command as a process of this machine."""
    return subprocess.run([sys.executable, *command.words], check=False).returncode


def run_on(jobs: RayJobs) -> Start:
    """Run commands as jobs of a Ray cluster; one that refuses or does not answer has failed that step, no more."""

    def start(command: Command) -> int | None:
        try:
            jobs.run(command.submission_id, command.entrypoint)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            return error.exit_code if isinstance(error, RayJobError) else None
        return 0

    return start


def chosen_days(day: date | None, first: date | None, last: date | None) -> list[date]:
    """Give the days to run: one, or a span with both its ends; what is not said is yesterday.

    Raises:
        ValueError: If both are said, or the span ends before it begins.
    """
    if day and (first or last):
        raise ValueError("day: expected either day or first and last, found both")
    if last and not first:
        raise ValueError("first: expected beside last, found none")
    first = first or day or yesterday()
    last = last or day or yesterday()
    if last < first:
        raise ValueError(f"last: expected {first} or later, found {last}")
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def run_and_print(schedule: Schedule, flow: Flow, days: Sequence[date], *, start: Start, again: bool = False) -> None:
    """Run days and say of each step what became of it.

    Raises:
        RuntimeError: If steps are not done.
    """
    outcomes: Counter[str] = Counter()
    for done in run_days(schedule, flow, days, start=start, again=again):
        print(_line(done), flush=True)
        outcomes[done.outcome] += 1
    if missing := outcomes["failed"] + outcomes["waited"]:
        raise RuntimeError(f"{missing} of {outcomes.total()} steps are not done; run this again, it goes on there")
    print(f"{schedule.product} {flow.name}: all {outcomes.total()} steps are done, {outcomes['ran']} of them now")


def run_days(
    schedule: Schedule, flow: Flow, days: Sequence[date], *, start: Start, again: bool = False
) -> Iterator[Done]:
    """Run days in order; what fails ends neither its day nor the days after it, but what waits for it waits."""
    for day in days:
        missing: set[str] = set()
        for command in commands(schedule, flow, day):
            if missing & set(command.after):
                found = Done(command, "waited", status=None)
            elif (done := _done_at(schedule, command)) and done >= _over(day) and not again:
                found = Done(command, "before")
            else:
                found = _run(schedule, command, start, again=again or done is not None)
            if found.outcome in ("failed", "waited"):
                missing.add(command.step)
            yield found


def _run(schedule: Schedule, command: Command, start: Start, *, again: bool) -> Done:
    began = time.monotonic()
    status = start(replace(command, words=(*command.words, *command.again)) if again else command)
    seconds = round(time.monotonic() - began, 1)
    if status == 0:
        note = {"command": command.words, "seconds": seconds, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.write_bytes(_note(schedule, command), json.dumps(note, indent=2).encode())
    return Done(command, "ran" if status == 0 else "failed", seconds, status)


def _done_at(schedule: Schedule, command: Command) -> datetime | None:
    """Give the instant at which this command began that is noted as done; None: it is not."""
    try:
        found = json.loads(storage.read_bytes(_note(schedule, command)))
        began = datetime.fromisoformat(found["ended"]) - timedelta(seconds=found["seconds"])
        return began if tuple(found["command"]) == command.words else None
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):  # cut off: run again
        return None


def _over(day: date) -> datetime:
    """Give the instant from which on a day is whole: who looked before may have seen half of it."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) + _LATE


def _note(schedule: Schedule, command: Command) -> str:
    return storage.join_url(schedule.record, command.product, command.flow, str(command.day), f"{command.step}.json")


def _line(done: Done) -> str:
    early = datetime.now(UTC) - timedelta(seconds=done.seconds) < _over(done.command.day)
    what = {
        "ran": f"done in {done.seconds:,.1f} s" + "; the day is not over: the next run does it again" * early,
        "before": "was done before (--again runs it again)",
        "failed": f"FAILED {_status(done)} after {done.seconds:,.1f} s",
        "waited": f"not run: {', '.join(done.command.after)} first",
    }
    return f"{done.command.day} {done.command.step}: {what[done.outcome]}"


def _status(done: Done) -> str:
    meaning = {2: " (wrong input or settings)", 3: " (done, but it does not look fine)"}.get(done.status or 0, "")
    return "without a status" if done.status is None else f"with status {done.status}{meaning}"
