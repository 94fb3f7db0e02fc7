"""What a training would take, measured: a job's own first steps, on its own data, by its own workers.

A job is run as it is, its outputs in a folder that goes when it is done, its run untracked. Where it would train
(`train.py`), the loop takes some steps under a `TimedSession`; what they took ends the job as an `Estimated`.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster import storage
from cluster.places import places_of
from cluster.progress import format_seconds
from cluster.settings import Settings
from cluster.training.session import TrainingSession, training_session, used_session

if TYPE_CHECKING:
    import torch

    from cluster.training.train import TrainerSettings

S = TypeVar("S", bound=Settings)

_WARM_UP, _TIMED = 3, 16
"""Steps that are not counted, since compiling and the first reads are in them, and those that are. By number and not by
the clock: all workers have to stop at the same step."""

_BEGAN: ContextVar[float | None] = ContextVar("estimate_began", default=None)


class _EnoughError(Exception):
    """The loop has taken all the steps that are looked at."""


@dataclass(frozen=True)
class Training:
    """One training as its first steps were: `start_seconds` is all that came before them."""

    steps: int
    """That it would take at most; one that may stop early can take fewer."""
    examples_per_step: float
    """Of all workers together."""
    step_seconds: float
    timed_steps: int
    start_seconds: float

    @property
    def seconds(self) -> float:
        """Wall-clock time of the whole training."""
        return self.start_seconds + self.steps * self.step_seconds


class Estimated(Exception):  # noqa: N818  no error: it is how a job that is estimated ends
    """What a job's trainings would take."""

    def __init__(self, trainings: Sequence[Training], trainer: TrainerSettings) -> None:
        super().__init__("a training was estimated")
        self.trainings, self._trainer = list(trainings), trainer

    def times(self, count: int) -> Estimated:
        """The same for so many trainings of which one was timed."""
        return Estimated(self.trainings * count, self._trainer)

    @staticmethod
    def of(parts: Sequence[Estimated]) -> Estimated:
        """All of them, one after the other."""
        return Estimated([one for part in parts for one in part.trainings], parts[0]._trainer)

    @property
    def seconds(self) -> float:
        """Wall-clock time of all trainings."""
        return sum(one.seconds for one in self.trainings)

    def lines(self) -> list[str]:
        """For people."""
        steps = sum(one.steps for one in self.trainings)
        examples = sum(one.steps * one.examples_per_step for one in self.trainings)
        timed = sum(one.timed_steps for one in self.trainings)
        stepping = sum(one.steps * one.step_seconds for one in self.trainings)
        count, workers = len(self.trainings), max(1, self._trainer.num_workers)
        each = f" in {count} trainings" if count > 1 else ""
        by = f"{workers} worker{'s' if workers > 1 else ''}"
        lines = [
            f"at most {steps:,} steps{each}, {examples:,.0f} examples in all",
            f"{format_seconds(self.seconds - stepping)} of reading, preparing and starting, then "
            f"{stepping / steps:.3g} s a step: measured on {timed} of them, {by}",
            f"about {format_seconds(self.seconds)}; validation, checkpoints, judging and export come on top",
        ]
        if price := self._trainer.worker_hour_price:
            cost = self.seconds / 3600 * workers * price
            lines.append(f"about ${cost:,.2f}: {by} at ${price:,.2f} an hour")
        else:
            lines.append("no price is set (trainer.worker_hour_price)")
        return [*lines, "nothing was written"]


def estimate_training(main: Callable[[S], None], job: S) -> None:
    """Run a job up to its trainings' first steps, and print what they would take; nothing of it stays.

    Args:
        main: The job's.
        job: Its settings, with sections `trainer` and `tracking`.

    Raises:
        ValueError: As the job does.
        RuntimeError: As the job does.
    """
    began = _BEGAN.set(time.monotonic())
    try:
        with _in_scratch(job) as rehearsed:
            main(rehearsed)
    except Estimated as found:
        print("\n".join(found.lines()), flush=True)
    else:
        raise AssertionError("the job has trained nothing")
    finally:
        _BEGAN.reset(began)


def is_asked() -> bool:
    """Whether this job is run for an estimate."""
    return _BEGAN.get() is not None


def estimated(measured: Sequence[tuple[float, int]], steps: int, trainer: TrainerSettings) -> Estimated:
    """Make an estimate of what `rehearsed` has measured, just now; what follows is counted from now on."""
    began, now = _BEGAN.get(), time.monotonic()
    assert began is not None, "nobody asked for an estimate"
    _BEGAN.set(now)
    took, examples = zip(*measured, strict=True)
    warm_up = min(_WARM_UP, len(took) - 1)
    timed = took[warm_up:]
    training = Training(
        steps=steps,
        examples_per_step=sum(examples) / len(examples),
        step_seconds=sum(timed) / len(timed),
        timed_steps=len(timed),
        start_seconds=max(0.0, now - began - sum(timed)),
    )
    return Estimated([training], trainer)


def rehearsed(loop: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], tuple[list[tuple[float, int]], int]]:
    """Make a loop stop after some steps, and give what each took (seconds, examples) and how many there would be."""

    def run(config: dict[str, Any]) -> tuple[list[tuple[float, int]], int]:
        session = TimedSession(training_session())
        with used_session(session), suppress(_EnoughError):
            loop(config)
        return session.took, session.steps

    return run


class TimedSession:
    """A worker's session that keeps nothing, resumes nothing, and ends the loop when it has seen enough steps."""

    def __init__(self, session: TrainingSession) -> None:
        self._session = session
        self.rank, self.world_size = session.rank, session.world_size
        self.took: list[tuple[float, int]] = []
        self.steps = 0
        self._since = time.perf_counter()

    @property
    def device(self) -> torch.device:
        return self._session.device

    def stepped(self, step: int, steps: int, examples: int) -> None:
        """Note a step.

        Raises:
            _EnoughError: If it was the last that is looked at.
        """
        now = time.perf_counter()
        self.took.append((now - self._since, examples))
        self.steps, self._since = steps, now
        if len(self.took) >= _WARM_UP + _TIMED:
            raise _EnoughError

    def report(self, metrics: dict[str, Any], *, checkpoint: Path | None = None) -> None:
        """Keep nothing; what it took is no step's."""
        self._since = time.perf_counter()

    def resume(self, read: Callable[[Path], None]) -> None:
        """Begin anew."""

    def dataset(self, name: str) -> Any:
        return self._session.dataset(name)


@contextmanager
def _in_scratch(job: S) -> Iterator[S]:
    """Give a job that writes below a folder of its own, which all its machines reach as they do its checkpoints."""
    checkpoints = storage.absolute_url(job.trainer.checkpoints)  # type: ignore[attr-defined]
    name = f"estimate-{uuid.uuid4().hex[:12]}"
    if "://" in checkpoints:
        folder = storage.join_url(checkpoints, name)
    else:
        above = next(place for place in (Path(checkpoints), *Path(checkpoints).parents) if place.is_dir())
        folder = tempfile.mkdtemp(prefix=f".{name}-", dir=above)
    try:
        changed = _with(job, "tracking.off", True)
        for number, found in enumerate(one for one in places_of(job) if one.place.verb == "writes"):
            changed = _with(changed, found.setting, storage.join_url(folder, str(number)))
        yield changed
    finally:
        storage.remove(folder)


def _with(settings: S, name: str, value: Any) -> S:
    section, _, rest = name.partition(".")
    return settings.model_copy(update={section: _with(getattr(settings, section), rest, value) if rest else value})
