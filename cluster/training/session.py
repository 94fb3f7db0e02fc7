"""What a training loop needs of whoever runs it: its place among the workers, its device, reports, its checkpoint.

Under Ray Train that is Ray Train's context. With `trainer.num_workers=0` the loop runs in the process that asks for it,
without Ray: on a borrowed machine that has a GPU and nothing else, in a notebook, in a debugger. A run that was broken
off goes on from its last checkpoint there too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

_LAST, _BEST, _SCORE = "last", "best", "score.txt"


class TrainingSession(Protocol):
    """A worker's view of its run."""

    rank: int
    world_size: int

    @property
    def device(self) -> torch.device:
        """Where this worker's tensors go."""

    def report(self, metrics: dict[str, Any], *, checkpoint: Path | None = None) -> None:
        """Hand in numbers, and a folder to keep: all workers call it at the same step, the first one has the folder."""

    def stepped(self, step: int, steps: int, examples: int) -> None:
        """Say that a step of `steps` is done, on so many examples of all workers: all call it at the same step."""

    def resume(self, read: Callable[[Path], None]) -> None:
        """Call `read` with the folder of the last checkpoint, if there is one."""

    def dataset(self, name: str) -> Any:
        """Return this worker's share of a Ray Data dataset."""


class RaySession:
    """A worker of Ray Train."""

    def __init__(self) -> None:
        from ray.train import get_context

        context = get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()

    @property
    def device(self) -> torch.device:
        from ray.train.torch import get_device

        return get_device()

    def report(self, metrics: dict[str, Any], *, checkpoint: Path | None = None) -> None:
        from ray import train

        kept = train.Checkpoint.from_directory(str(checkpoint)) if checkpoint is not None else None
        train.report(metrics, checkpoint=kept)

    def stepped(self, step: int, steps: int, examples: int) -> None:
        """Go on."""

    def resume(self, read: Callable[[Path], None]) -> None:
        from ray.train import get_checkpoint

        if checkpoint := get_checkpoint():
            with checkpoint.as_directory() as folder:
                read(Path(folder))

    def dataset(self, name: str) -> Any:
        from ray.train import get_dataset_shard

        return get_dataset_shard(name)


class ProcessSession:
    """The one worker of a run in this process; its folder keeps the last checkpoint, and the best by the score."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        folder: Path,
        score: str | None,
        on_report: Callable[[dict[str, Any]], None],
        datasets: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._score, self._on_report = folder, score, on_report
        self._datasets = datasets or {}

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def report(self, metrics: dict[str, Any], *, checkpoint: Path | None = None) -> None:
        self._on_report(metrics)
        if checkpoint is None:
            return
        if self._score is not None:
            value = float(metrics[self._score])
            best = self._kept(_BEST)
            if best is None or value > float((best / _SCORE).read_text()):
                (checkpoint / _SCORE).write_text(repr(value))
                self._keep(checkpoint, _BEST)
                (checkpoint / _SCORE).unlink()
        self._keep(checkpoint, _LAST)

    def stepped(self, step: int, steps: int, examples: int) -> None:
        """Go on."""

    def resume(self, read: Callable[[Path], None]) -> None:
        if folder := self._kept(_LAST):
            read(folder)

    def dataset(self, name: str) -> Any:
        return self._datasets[name]

    def checkpoint(self) -> Path | None:
        """Find the checkpoint that counts: the best by the score, else the last."""
        return self._kept(_BEST if self._score is not None else _LAST)

    def _keep(self, checkpoint: Path, name: str) -> None:
        """Put a copy in the place of the one before; a process that dies meanwhile leaves one of them whole."""
        place, new, before = (self._folder / f"{name}{end}" for end in ("", ".new", ".before"))
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(checkpoint, new)
        if place.is_dir():
            shutil.rmtree(before, ignore_errors=True)
            place.rename(before)
        new.rename(place)
        shutil.rmtree(before, ignore_errors=True)

    def _kept(self, name: str) -> Path | None:
        return next((one for one in (self._folder / name, self._folder / f"{name}.before") if one.is_dir()), None)


_CURRENT: ContextVar[TrainingSession | None] = ContextVar("training_session", default=None)


def training_session() -> TrainingSession:
    """Return the session that this loop runs in."""
    return _CURRENT.get() or RaySession()


@contextmanager
def used_session(session: TrainingSession) -> Iterator[None]:
    """Let a loop that runs inside find this session."""
    token = _CURRENT.set(session)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def process_session(session: ProcessSession) -> Iterator[None]:
    """Run what is inside as the one worker of a run, in a process group of its own."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with used_session(session):
            yield
    finally:
        dist.destroy_process_group()
