"""The training loop of the fusion model, as it runs on every worker of Ray Train.

All workers see the same order of batches, drawn from the seed, and each takes its share; a checkpoint holds
how many are behind it, so that a run taken up again goes on with the next one.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.nn import functional

from cancellation.model.fusion import FusionModel, Outputs, load_fusion_model, save_fusion_model
from cancellation.simulation.message_acts import act_names
from cancellation.training.data import Batch, DropSettings, EncodedSet, batches_by_length, read_encoded
from cancellation.training.sampling import SamplingSettings, draw_epoch
from cluster.settings import Settings
from cluster.storage import fetch_folder
from cluster.training.schedule import warmup_cosine
from cluster.training.session import TrainingSession, training_session
from cluster.training.train import STEP, STEPS, autocast

SCORE = "negative_validation_loss"
BEST = "best"
_STATE, _OPTIMIZER, _WEIGHTS = "state.json", "optimizer.pt", "weights.pt"


class LoopSettings(Settings):
    """Steps, loss and when to stop."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over as many events as the training set has; the learning rate's fall is spread over them."""

    batch_size: int = Field(default=64, ge=1)
    """Events per step, of all workers together."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """At its peak, of all weights, or of the heads alone where the encoder has a rate of its own."""

    encoder_learning_rate: float | None = Field(default=None, gt=0)
    """Of a pre-trained text encoder, 2e-5 to 1e-4 for one of full size; null: that of the heads."""

    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    factor_weight: float = Field(default=0.5, ge=0)
    """Of the factors' loss beside the verdict's."""

    events_per_forward: int = Field(default=4096, ge=1)
    """Most events that a worker sends through the network at a time; a step's gradients are added up."""

    teacher_share: float = Field(default=0.7, ge=0, le=1)
    """Share of the teacher's opinion in the verdicts' targets, where there is a teacher; the rest is the label's."""

    teacher_factor_share: float = Field(default=0.7, ge=0, le=1)
    """The same of the factors' targets: less where the teacher is better at verdicts than at their reasons."""

    act_weight: float = Field(default=1.0, ge=0)
    """Of the loss of naming each message's act, where acts are known; 0 leaves it out."""

    average_decay: float = Field(default=0.998, ge=0, lt=1)
    """Weights are averaged over steps with this decay, and the average is what is kept; 0: the last ones."""

    steps_per_validation: int = Field(default=500, ge=1)
    patience: int = Field(default=4, ge=1)
    """Validations without a better loss after which training stops."""

    sampling: SamplingSettings = SamplingSettings()
    drop: DropSettings = DropSettings()
    bf16: bool = True
    """Matrix products in bfloat16 where the device has them, weights in float32."""

    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class TrainingTask:
    """What a worker needs; locations that all of them reach."""

    start: str
    """Folder of the model to start from (`save_fusion_model`)."""
    training: tuple[str, ...]
    """Files of encoded events."""
    validation: tuple[str, ...]
    settings: LoopSettings
    cache_dir: str
    teacher: str | None = None
    """Folder of a trained model of the same tokeniser, whose scores are taught beside the labels."""


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    best_loss: float = math.inf
    num_worse: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    done: bool = False


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Train until the last step or until validation stops it; report checkpoints with the best model inside."""
    session = training_session()
    task: TrainingTask = config["task"]
    settings = task.settings
    model, tokenizer = load_fusion_model(Path(fetch_folder(task.start, task.cache_dir)))
    model.add_act_head(len(act_names()) if settings.act_weight else 0, seed=settings.seed)
    teacher = load_fusion_model(Path(fetch_folder(task.teacher, task.cache_dir)))[0] if task.teacher else None
    trainer = Trainer(prepare(model, session), settings, teacher.to(session.device) if teacher else None)
    training, validation = (read_encoded(urls, model.spec, tokenizer) for urls in (task.training, task.validation))
    best = Path(tempfile.mkdtemp(prefix="best-"))
    session.resume(lambda folder: trainer.load(folder, best))
    rank, world, device = session.rank, session.world_size, session.device
    total = num_steps(len(training), settings)
    for step, batch in epoch_batches(training, settings, start=trainer.progress.step, total=total):
        if trainer.progress.done:
            break
        loss = trainer.step(_share(batch, rank, world), device, total)
        session.stepped(step + 1, total, len(batch.labels))
        if (step + 1) % settings.steps_per_validation and step + 1 < total:
            continue
        better, report = trainer.validate(validation, device, rank, world, loss)
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                if better:
                    save_fusion_model(trainer.averaged_model(), tokenizer, best)
                trainer.save(Path(folder), best)
            session.report({**report, STEPS: total}, checkpoint=Path(folder) if rank == 0 else None)
    return {"steps": trainer.progress.step, "history": trainer.progress.history}


def num_steps(num_events: int, settings: LoopSettings) -> int:
    """Count the steps of a whole run."""
    return max(1, math.ceil(num_events * settings.epochs / settings.batch_size))


def epoch_batches(data: EncodedSet, settings: LoopSettings, *, start: int, total: int) -> Iterator[tuple[int, Batch]]:
    """Give (step, batch) from step `start` on, the same whoever asks; batches before it are not cut."""
    step, epoch = 0, 0
    while step < total:
        rng = np.random.default_rng([settings.seed, epoch])
        rows, weights = draw_epoch(data.labels, settings.sampling, rng)
        for places in batches_by_length(rows, data.lengths, settings.batch_size, rng):
            if step >= total:
                return
            if step >= start:
                drop_rng = np.random.default_rng([settings.seed, epoch, step])
                yield step, data.batch(rows[places], weights[places], drop=settings.drop, rng=drop_rng)
            step += 1
        epoch += 1


def prepare(model: nn.Module, session: TrainingSession) -> nn.Module:
    """Put a model on the worker's device, and in step with those of the others."""
    if session.world_size == 1:
        return model.to(session.device)
    from ray.train.torch import prepare_model

    return prepare_model(model, parallel_strategy_kwargs={"find_unused_parameters": True})


class Trainer:
    """One model, its optimiser, the average of its weights, and how far it is."""

    def __init__(self, module: nn.Module, settings: LoopSettings, teacher: FusionModel | None = None) -> None:
        self.module = module
        self.settings = settings
        self.progress = Progress()
        self._teacher = teacher
        self.optimizer = torch.optim.AdamW(_parameter_groups(self._model, settings), betas=(0.9, 0.98))
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.average = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    @property
    def _model(self) -> FusionModel:
        return getattr(self.module, "module", self.module)

    def step(self, batch: Batch, device: torch.device, total: int) -> float:
        """Learn from one batch; gives its loss."""
        settings = self.settings
        factor = warmup_cosine(self.progress.step, total, warmup_fraction=settings.warmup_fraction, floor=0.02)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        torch.manual_seed(settings.seed * 1_000_003 + self.progress.step)
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = _parts(batch, settings.events_per_forward)
        loss = torch.zeros((), device=device)
        for part in parts:
            share = len(part.labels) / len(batch.labels)
            part_loss = share * batch_loss(self.module, part, device, settings, self._teacher)
            part_loss.backward()
            loss += part_loss.detach()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.progress.step += 1
        # Early on a long average would still hold the random start.
        decay = min(settings.average_decay, self.progress.step / (self.progress.step + 10))
        with torch.no_grad():
            state = {k: v for k, v in self._model.state_dict().items() if v.dtype.is_floating_point}
            # In one kernel where there is a GPU: launches are what a small network's step consists of.
            torch._foreach_lerp_([self.average[name] for name in state], list(state.values()), 1.0 - decay)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"step {self.progress.step}: the loss is {value}; try loop.bf16=false")
        return value

    def averaged_model(self) -> FusionModel:
        """The model with averaged weights, in the place of the trained ones until `trained_weights`."""
        model = self._model
        copied = FusionModel(model.settings, model.spec, _copy_encoder(model))
        copied.load_state_dict({name: t for name, t in self.average.items() if not name.startswith("acts.")})
        return copied.eval()

    def validate(
        self, data: EncodedSet, device: torch.device, rank: int, world: int, loss: float
    ) -> tuple[bool, dict[str, float]]:
        """Measure the averaged model on the validation set, all workers a share each; events count by their weights."""
        model = self.averaged_model().to(device)
        sums = torch.zeros(3, dtype=torch.float64)
        order = np.argsort(data.lengths, kind="stable")[rank::world]
        for start in range(0, len(order), 128):
            batch = data.batch(order[start : start + 128])
            with torch.inference_mode():
                outputs = forward(model, batch, device, bf16=self.settings.bf16)
            labels = torch.from_numpy(batch.labels)
            logits = outputs.verdict_nc.float().cpu()
            weights = torch.from_numpy(batch.weights).double()
            sums[0] += (weights * functional.cross_entropy(logits, labels, reduction="none")).sum()
            sums[1] += (weights * (logits.argmax(1) == labels)).sum()
            sums[2] += weights.sum()
        if world > 1:
            sums = sums.to(device)
            dist.all_reduce(sums)
        validation_loss, accuracy = float(sums[0] / sums[2]), float(sums[1] / sums[2])
        better = validation_loss < self.progress.best_loss
        self.progress.num_worse = 0 if better else self.progress.num_worse + 1
        self.progress.best_loss = min(validation_loss, self.progress.best_loss)
        self.progress.done = self.progress.num_worse >= self.settings.patience
        report = {
            STEP: self.progress.step,
            "loss": loss,
            "validation_loss": validation_loss,
            "validation_accuracy": accuracy,
            SCORE: -validation_loss,
        }
        self.progress.history.append(report)
        return better, report

    def save(self, folder: Path, best: Path) -> None:
        """Write what a run needs to go on, with the best model so far in `best/`."""
        for path in best.iterdir():
            (folder / BEST).mkdir(exist_ok=True)
            (folder / BEST / path.name).write_bytes(path.read_bytes())
        torch.save({"model": self._model.state_dict(), "average": self.average}, folder / _WEIGHTS)
        torch.save(self.optimizer.state_dict(), folder / _OPTIMIZER)
        (folder / _STATE).write_text(json.dumps(asdict(self.progress)), encoding="utf-8")

    def load(self, folder: Path, best: Path) -> None:
        """Go on from what `save` wrote."""
        weights = torch.load(folder / _WEIGHTS, weights_only=True, map_location="cpu")
        self._model.load_state_dict(weights["model"])
        for name, tensor in weights["average"].items():
            self.average[name].copy_(tensor)
        self.optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, weights_only=True, map_location="cpu"))
        self.progress = Progress(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
        for path in (folder / BEST).iterdir():
            (best / path.name).write_bytes(path.read_bytes())


def forward(module: nn.Module, batch: Batch, device: torch.device, *, bf16: bool, acts: bool = False) -> Outputs:
    """Run the network on a batch."""
    with autocast(device, bf16=bf16):
        return module(
            torch.from_numpy(batch.token_ids).to(device),
            torch.from_numpy(batch.features).to(device),
            torch.from_numpy(batch.markets).to(device),
            acts=acts,
        )


def batch_loss(
    module: nn.Module,
    batch: Batch,
    device: torch.device,
    settings: LoopSettings,
    teacher: FusionModel | None = None,
) -> torch.Tensor:
    """Verdict, factors and acts in one number; an event's weight counts for the first two.

    Factors that nobody looked for teach nothing.

    A teacher reads the same batch, with what is left out of it, and its probabilities are mixed into the targets
    (Hinton et al., arXiv 1503.02531, at temperature 1).
    """
    named = settings.act_weight > 0 and len(batch.acts) > 0
    outputs = forward(module, batch, device, bf16=settings.bf16, acts=named)
    weights = torch.from_numpy(batch.weights).to(device)
    classes = outputs.verdict_nc.shape[1]
    wanted = functional.one_hot(torch.from_numpy(batch.labels).to(device), classes).float()
    wanted = wanted * (1.0 - settings.label_smoothing) + settings.label_smoothing / classes
    wanted_factors = torch.from_numpy(batch.factors).to(device)
    known = ~wanted_factors.isnan()
    wanted_factors = wanted_factors.nan_to_num()
    if teacher is not None:
        with torch.inference_mode():
            said = forward(teacher, batch, device, bf16=settings.bf16)
        wanted = wanted.lerp(said.verdict_nc.float().softmax(-1).clone(), settings.teacher_share)
        wanted_factors = wanted_factors.lerp(said.factors_nf.float().sigmoid().clone(), settings.teacher_factor_share)
    verdicts = functional.cross_entropy(outputs.verdict_nc.float(), wanted, reduction="none")
    factors = functional.binary_cross_entropy_with_logits(
        outputs.factors_nf.float(), wanted_factors, weight=known.float(), reduction="none"
    ).mean(1)
    loss = (weights * (verdicts + 4.0 * settings.factor_weight * factors)).mean()
    if named and outputs.acts_nta is not None:
        loss = loss + settings.act_weight * act_loss(outputs.acts_nta, torch.from_numpy(batch.acts).to(device))
    return loss


def act_loss(logits_nta: torch.Tensor, triples: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each message's acts, at its speaker token; several acts of one message count apiece."""
    picked = logits_nta[triples[:, 0], triples[:, 1]].float()
    return functional.cross_entropy(picked, triples[:, 2])


def _parameter_groups(model: FusionModel, settings: LoopSettings) -> list[dict[str, Any]]:
    """Encoder and heads at their rates; embeddings, biases and norms without decay, as rare rows would fade away."""
    rates = {True: settings.encoder_learning_rate or settings.learning_rate, False: settings.learning_rate}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        decays = weight.ndim > 1 and "embeddings" not in name
        groups.setdefault((name.startswith("text_encoder."), decays), []).append(weight)
    return [
        {"params": weights, "lr": rates[inside], "weight_decay": settings.weight_decay if decays else 0.0}
        for (inside, decays), weights in groups.items()
    ]


def _parts(batch: Batch, size: int) -> list[Batch]:
    count = math.ceil(len(batch.labels) / size)
    return [_share(batch, rank, count) for rank in range(count)]


def _share(batch: Batch, rank: int, world: int) -> Batch:
    if world == 1:
        return batch
    acts = batch.acts[batch.acts[:, 0] % world == rank]
    acts = np.stack([acts[:, 0] // world, acts[:, 1], acts[:, 2]], axis=1)
    parts = (batch.token_ids, batch.features, batch.markets, batch.labels, batch.factors, batch.weights)
    return Batch(*(part[rank::world] for part in parts), acts)


def _copy_encoder(model: FusionModel) -> Any:
    from copy import deepcopy

    return deepcopy(model.text_encoder)
