"""Ray Train behind a small surface: workers, retries, checkpoints, and curves that reach MLflow while it trains.

A training loop is a function of one argument that runs on every worker; it reports numbers and checkpoints to its
session (`session.py`) and finds its last checkpoint there. A worker that dies takes the others down with it; Ray Train
starts them again from the last checkpoint. A run of the same name in the same place goes on where an earlier one
stopped, whoever stopped it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from cluster.gpus import GpuMeter
from cluster.places import OutputUrl
from cluster.progress import format_seconds
from cluster.session import require_cores, require_gpus
from cluster.settings import Settings
from cluster.storage import absolute_url
from cluster.tracking import RunAddress
from cluster.training.estimate import estimated, is_asked, rehearsed
from cluster.training.session import ProcessSession, process_session, training_session

if TYPE_CHECKING:
    import torch
    from ray.train import Checkpoint, RunConfig, ScalingConfig

STEP, STEPS = "step", "steps"
"""The keys under which a loop reports the number of steps behind it, and of all."""


class TrainerSettings(Settings):
    """Who trains."""

    num_workers: int = Field(default=1, ge=0)
    """Processes; each takes its share of every batch. 0: the loop runs in this process, without Ray Train, on a GPU if
    there is one."""

    use_gpu: bool = False
    """One GPU for each worker."""

    cpus_per_worker: int = Field(default=1, ge=1)
    """Cores, and threads of torch, of a worker."""

    max_failures: int = Field(default=3, ge=0)
    """How often training is taken up again after a worker died."""

    checkpoints: OutputUrl = "var/checkpoints"
    """Folder of checkpoints, local or s3://; with workers on several machines all must reach it, with `num_workers=0`
    it is local."""

    max_checkpoints: int = Field(default=2, ge=1)
    """How many are kept; the best one is among them."""

    worker_hour_price: float = Field(default=0.0, ge=0)
    """Of a worker with its GPU, for `--estimate`, in dollars; 0: no cost is printed."""

    poll_seconds: float = Field(default=0.5, gt=0)
    """How often reports are collected. A loop waits with its next report until the last one was: at Ray's own 2 s,
    steps shorter than that would take 2 s each. Looking costs the controller about 15 ms of a core."""

    @model_validator(mode="after")
    def _checkpoints_of_this_process(self) -> TrainerSettings:
        if not self.num_workers and "://" in self.checkpoints:
            raise ValueError("checkpoints: expected a local folder with num_workers=0, found an address")
        return self


@dataclass(frozen=True)
class TrainingOutcome:
    """A finished training run."""

    returned: Any
    """What the first worker's loop returned."""

    checkpoint: Checkpoint | Path
    """The best by the score that was asked for, else the last."""

    def fetch_checkpoint(self, folder: Path) -> Path:
        """Copy the checkpoint's files to a local folder."""
        if isinstance(self.checkpoint, Path):
            return Path(shutil.copytree(self.checkpoint, folder, dirs_exist_ok=True))
        return Path(self.checkpoint.to_directory(str(folder)))


def train(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    settings: TrainerSettings,
    *,
    name: str,
    score: str | None = None,
    curves: RunAddress | None = None,
    datasets: Mapping[str, Any] | None = None,
) -> TrainingOutcome:
    """Run a loop on Ray Train's workers until it is done.

    Args:
        loop: Runs on every worker with `config`.
        config: What the loop gets; sent to all workers.
        settings: How many workers, where checkpoints go.
        name: Of the run: same name and place, and it goes on from its last checkpoint.
        score: Reported number by which a checkpoint is best, higher being better; None: the last one counts.
        curves: The tracked run that gets every reported number, as it comes.
        datasets: Ray Data datasets that the workers share, streamed (`ray.train.get_dataset_shard`).

    Raises:
        RuntimeError: If workers died more often than `max_failures`, or the loop itself failed.
        Estimated: Instead of training, where the job is run for an estimate.
    """
    loop = _with_training_kernels(loop, name)
    run = _on_ray if settings.num_workers else _in_process
    if is_asked():
        (measured, steps), _ = run(rehearsed(loop), config, settings, name=name, datasets=datasets)
        raise estimated(measured, steps, settings)
    returned, checkpoint = run(loop, config, settings, name=name, score=score, curves=curves, datasets=datasets)
    if checkpoint is None:
        raise RuntimeError(f"training {name} left no checkpoint in {settings.checkpoints}: report one in the loop")
    return TrainingOutcome(returned, checkpoint)


def _on_ray(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    settings: TrainerSettings,
    *,
    name: str,
    score: str | None = None,
    curves: RunAddress | None = None,
    datasets: Mapping[str, Any] | None = None,
) -> tuple[Any, Checkpoint | None]:
    """Give what the loop returned and the checkpoint that counts, from Ray Train's workers."""
    from ray.exceptions import RayError
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    if settings.use_gpu:
        workers = settings.num_workers
        require_gpus(workers, asked_by=f"trainer.use_gpu=true, trainer.num_workers={workers}")
    cores = settings.cpus_per_worker
    require_cores(cores, gpus=float(settings.use_gpu), asked_by=f"trainer.cpus_per_worker={cores:g}")
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = f"{settings.poll_seconds:g}"  # handed on to the controller
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        datasets=dict(datasets or {}),
        scaling_config=_workers(settings),
        run_config=_run_config(settings, name=name, score=score, curves=curves),
    )
    try:
        result = trainer.fit()
    except (TrainingFailedError, RayError) as error:
        why = _first_cause(error)
        raise RuntimeError(f"training {name} failed ({why}): run it again, it goes on from its checkpoint") from error
    return result.return_value, result.get_best_checkpoint(score, "max") if score else result.checkpoint


def _workers(settings: TrainerSettings) -> ScalingConfig:
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=settings.num_workers,
        use_gpu=settings.use_gpu,
        resources_per_worker={"CPU": settings.cpus_per_worker, **({"GPU": 1} if settings.use_gpu else {})},
    )


def _run_config(settings: TrainerSettings, *, name: str, score: str | None, curves: RunAddress | None) -> RunConfig:
    """Say where checkpoints go, which are kept, and how often training is taken up again."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig

    place = absolute_url(settings.checkpoints)
    if "://" not in place:
        Path(place).mkdir(parents=True, exist_ok=True)
    return RunConfig(
        name=name,
        storage_path=place,
        failure_config=FailureConfig(max_failures=settings.max_failures),
        checkpoint_config=CheckpointConfig(
            num_to_keep=settings.max_checkpoints, checkpoint_score_attribute=score, checkpoint_score_order="max"
        ),
        callbacks=[_curve_callback(curves)] if curves else [],
    )


def _in_process(
    loop: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    settings: TrainerSettings,
    *,
    name: str,
    score: str | None = None,
    curves: RunAddress | None = None,
    datasets: Mapping[str, Any] | None = None,
) -> tuple[Any, Path | None]:
    """Give what the loop returned and the checkpoint that counts, from this process."""
    shown = ShownReports(curves.open() if curves else None)
    session = ProcessSession(
        Path(absolute_url(settings.checkpoints)) / name, score, lambda metrics: shown.add(dict(metrics)), datasets
    )
    with process_session(session):
        returned = loop(config)
    return returned, session.checkpoint()


class ShownReports:
    """Sends the numbers among what is reported to the tracked run and the terminal, with the time that is left."""

    def __init__(self, run: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._began: tuple[int, float] | None = None
        """Step and time of the first report: what came before it, compiling and loading, says nothing of the rate."""

    def add(self, metrics: dict[str, Any]) -> None:
        values = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        step, steps = int(values.pop(STEP, 0)), int(values.pop(STEPS, 0))
        if self._run is not None:
            self._run.metrics(values, step=step)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        of_all = f" of {steps:,}" if steps else ""
        print(f"step {step}{of_all}: {numbers}{self._left(step, steps)}", flush=True)

    def _left(self, step: int, steps: int) -> str:
        now = self._clock()
        if self._began is None:
            self._began = step, now
        first, began = self._began
        if not steps or step <= first or step >= steps:
            return ""
        return f"  ETA {format_seconds((steps - step) * (now - began) / (step - first))}"


def _with_training_kernels(loop: Callable[[dict[str, Any]], Any], name: str) -> Callable[[dict[str, Any]], Any]:
    """Write attention out as matrix products on a CPU: its fused kernel's backward pass is some ten times slower."""

    def run(config: dict[str, Any]) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        GpuMeter.start(name)
        on_cpu = training_session().device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            return loop(config)

    return run


def autocast(device: torch.device, *, bf16: bool) -> torch.autocast:
    """Compute matrix products in bfloat16 where that is asked for and the device has instructions for it.

    A CPU without them (AVX-512 BF16, AMX) emulates: eight times slower than float32 on a processor with AVX2.
    """
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16 and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices by instructions of its own."""
    import torch

    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _first_cause(error: Exception) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    cause = next(iter(failures.values()), error)
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(cause).__name__


def _curve_callback(address: RunAddress) -> Any:
    """Build what Ray Train calls, in its controller beside the driver, for each report of all workers."""
    from ray.train import UserCallback

    class Curves(UserCallback):
        def __init__(self) -> None:
            self._shown: ShownReports | None = None

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            if self._shown is None:
                self._shown = ShownReports(address.open())
            self._shown.add(metrics[0])

    return Curves()
