"""The schedule file of one product: flows, each of them steps that follow each other, at a time of the day or week.

    product = "cancellation"
    record = "{root}/schedule"                  # where it is kept which step of which day is done

    [values]                                    # what differs from place to place; later ones may use earlier ones
    root = "var"

    [[flows]]
    name = "daily"
    at = "30 1 * * *"                           # cron, UTC
    keep_workers = ["cpu"]                      # pools of Ray workers that it needs on Kubernetes

    [[flows.steps]]
    name = "monitor"
    job = "cancellation_monitor"
    arguments = ["archive={root}/archive", "day={day}"]
    after = ["compact"]
    why = "what changed, and whether to train anew"

`{day}` is the day that is looked at, in UTC: the one before the run. `{next_day}` is the one after it,
`{two_days_before}` what comes late is looked for from.
"""

from __future__ import annotations

import re
import shlex
import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from cluster.settings import Settings

_NAME = r"^[a-z][a-z0-9-]{0,29}$"
_CRON_FIELD = re.compile(r"(\*|\d+(-\d+)?)(/[1-9]\d*)?(,(\d+(-\d+)?))*")
_CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


class Step(Settings):
    """One job of a flow."""

    name: str = Field(pattern=_NAME)
    job: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Module in `jobs/`."""
    arguments: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Steps of the same flow and day that have to be done before."""
    again: tuple[str, ...] = ()
    """Further arguments where `--again` runs the step though it is done, such as replace=true."""
    why: str
    """What it is for, in a few words."""


class Flow(Settings):
    """Steps that run at one time."""

    name: str = Field(pattern=_NAME)
    at: str
    """Minute, hour, day of the month, month, day of the week, as cron has them; in UTC."""
    keep_workers: tuple[str, ...] = ()
    """Worker pools of the RayJob in cluster/kuberay that the flow may use; they grow from nothing and shrink again."""
    steps: tuple[Step, ...] = Field(min_length=1)

    @field_validator("at")
    @classmethod
    def _cron(cls, text: str) -> str:
        fields = text.split()
        if len(fields) != len(_CRON_RANGES) or not all(map(_CRON_FIELD.fullmatch, fields)):
            raise ValueError(f"expected five fields of cron such as '30 1 * * *', found {text!r}")
        for one, (low, high) in zip(fields, _CRON_RANGES, strict=True):
            numbers = [int(number) for number in re.findall(r"(?<!/)\b\d+", one)]
            if not all(low <= number <= high for number in numbers):
                raise ValueError(f"expected numbers from {low} to {high} in {one!r} of {text!r}")
            if any(int(first) > int(last) for first, last in re.findall(r"(\d+)-(\d+)", one)):
                raise ValueError(f"expected a range from the smaller to the greater number in {one!r} of {text!r}")
        return text

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Put each step behind those that it comes after."""
        by_name = {step.name: step for step in steps}
        if len(by_name) < len(steps):
            raise ValueError(f"expected each name once, found {', '.join(step.name for step in steps)}")
        for step in steps:
            if unknown := set(step.after) - set(by_name):
                raise ValueError(f"{step.name}.after: no step {', '.join(sorted(unknown))} in this flow")
        try:
            order = TopologicalSorter({step.name: step.after for step in steps}).static_order()
            return tuple(by_name[name] for name in order)
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {' -> '.join(error.args[1])}") from None


class Schedule(Settings):
    """A product's schedule."""

    product: str = Field(pattern=_NAME)
    record: str
    """Folder in which the runner notes what is done; local or s3://."""
    values: Mapping[str, str] = Field(default_factory=dict)
    flows: tuple[Flow, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Command:
    """One step of one day, ready to be run."""

    product: str
    flow: str
    step: str
    day: date
    words: tuple[str, ...]
    """Without the interpreter: -m, jobs.<name>, arguments."""
    after: tuple[str, ...]
    again: tuple[str, ...] = ()
    """Further words where it is run again though it is done."""

    @property
    def submission_id(self) -> str:
        """Its name as a Ray job: the same for whoever submits it, so that it is never there twice at once."""
        return f"{self.product}-{self.flow}-{self.step}-{self.day}"

    @property
    def entrypoint(self) -> str:
        """The whole command line for a shell."""
        return shlex.join(["python", *self.words])


def load_schedule(path: Path, overrides: Mapping[str, str] | None = None) -> Schedule:
    """Read a schedule and fill its values in, all but the day.

    Args:
        path: The file.
        overrides: Values that take the place of those in the file.

    Raises:
        ValueError: If it cannot be read, a name is wrong, or a placeholder has no value; the text says which.
    """
    try:
        schedule = Schedule.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"schedule {path}: {error}") from None
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"schedule {path}: {said}") from None
    if unknown := set(overrides or {}) - set(schedule.values):
        known = ", ".join(schedule.values)
        raise ValueError(f"schedule {path}: no value {', '.join(sorted(unknown))}; there are {known}")
    values: dict[str, str] = {}
    for name, text in {**schedule.values, **(overrides or {})}.items():
        values[name] = _fill(text, values, f"{path} values.{name}")
    later = {name: f"{{{name}}}" for name in day_values(date.min)}
    flows = tuple(_with_values(flow, {**values, **later}, path) for flow in schedule.flows)
    record = _fill(schedule.record, values, f"{path} record")
    return schedule.model_copy(update={"values": values, "flows": flows, "record": record})


def _with_values(flow: Flow, values: Mapping[str, str], path: Path) -> Flow:
    steps = []
    for step in flow.steps:
        arguments = tuple(_fill(one, values, f"{path} {flow.name}.{step.name}") for one in step.arguments)
        steps.append(step.model_copy(update={"arguments": arguments}))
    return flow.model_copy(update={"steps": tuple(steps)})


def find_flow(schedule: Schedule, name: str) -> Flow:
    """Give a flow by its name.

    Raises:
        ValueError: If there is none; the text lists those that are there.
    """
    for flow in schedule.flows:
        if flow.name == name:
            return flow
    raise ValueError(f"{schedule.product} has no flow {name}: {', '.join(flow.name for flow in schedule.flows)}")


def day_values(day: date) -> dict[str, str]:
    """Give what is filled in for a day."""
    moved = {"day": 0, "next_day": 1, "two_days_before": -2}
    first, last = date.min.toordinal(), date.max.toordinal()
    return {name: str(date.fromordinal(min(max(day.toordinal() + days, first), last))) for name, days in moved.items()}


def yesterday(now: datetime | None = None) -> date:
    """Give the day, in UTC, that a run looks at by itself."""
    return (now or datetime.now(UTC)).date() - timedelta(days=1)


def commands(schedule: Schedule, flow: Flow, day: date) -> list[Command]:
    """Give the steps of a day, each behind those that it comes after."""
    return [
        Command(schedule.product, flow.name, step.name, day, step_words(step, day_values(day)), step.after, step.again)
        for step in flow.steps
    ]


def step_words(step: Step, values: Mapping[str, str]) -> tuple[str, ...]:
    """Give a step's command, without the interpreter."""
    return ("-m", f"jobs.{step.job}", *(_fill(one, values, step.name) for one in step.arguments))


def _fill(text: str, values: Mapping[str, str], place: str) -> str:
    names = _placeholders(text, place)
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"schedule {place}: {{{missing[0]}}} has no value; there are {', '.join(values)}")
    return text.format_map(values)


def _placeholders(text: str, place: str) -> Sequence[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"schedule {place}: {text!r}: {error}") from None
