"""Training on the label token: the loop that every Ray Train worker runs, for adapters and for whole models.

A step's pairs are the same however many workers share them, and its randomness follows from its number: two
workers take the same steps as one, and a resumed run takes those that the dead one would have taken.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from cluster.models.files import ModelFiles, fetch_model
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.training.schedule import warmup_cosine
from cluster.training.session import TrainingSession, training_session
from cluster.training.train import STEP, STEPS, autocast, has_bf16
from relevance.agreement import nominal_alpha
from relevance.engines.label_model import load_tokenizer
from relevance.labels import LABELS
from relevance.prompting.prompts import PromptEncoder, PromptSettings
from relevance.training.drawn_ahead import DrawnAhead
from relevance.training.examples import ExampleSource, ProductExample
from relevance.training.layout import needs_whole_prompts
from relevance.training.packing import PackedBatch, groups_by_length, label_loss, next_token_logits, pack_batch
from relevance.training.parallel import Parallel, copy_to_all, fill_from_first, gradient_sync, share_out
from relevance.training.state import TrainingState, load_state, save_state
from relevance.weights.adapters import LoraSettings, add_adapter, load_adapter
from relevance.weights.loading import base_fingerprint, empty_trainable, load_trainable, require_base

ALPHA = "validation_alpha"
"""Reported with each checkpoint where there are pairs to validate on."""

_VALIDATION_PAIRS = 64


class TrainingSettings(Settings):
    """How weights are moved."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """At its peak, after the first twentieth of the steps; falls to a twentieth as a cosine."""

    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    pairs_per_step: int = Field(default=96, ge=1)
    """Of all workers together: two workers take half of them each, and the same steps."""

    pairs_per_forward: int = Field(default=1024, ge=1)
    """Most pairs that a worker sends through the model at a time; gradients of a larger share are added up."""

    guidelines_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of steps that are taken without the guidelines, so that a model does not lean on their wording."""

    bf16: bool = True
    """Matrix products in bfloat16 where the device has them, trained weights in float32, a frozen base in bfloat16."""

    mass_weight: float = Field(default=1.0, ge=0)
    """How much it counts that a label is said at all, beside which one. A language model begins with a loss of nine
    nats, nearly all of it this; clipped with the rest, it leaves little of a first step for what tells labels apart."""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: large models fit."""

    parallel: Parallel = "ddp"
    """`ddp`: each worker holds the model; `fsdp`: each holds a share, for a base that does not fit one GPU. The first
    worker reads all of it into its CPU's memory and hands the shares out."""

    checkpoint_steps: int = Field(default=100, ge=1)
    """Steps between checkpoints, and so the most that a dead worker costs; validation comes with each."""

    report_steps: int = Field(default=10, ge=1)
    """Steps between points of the loss curve."""

    patience: int = Field(default=0, ge=0)
    """Validations without a better alpha after which training stops; 0: it never stops early."""

    seed: int = 0


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs that say when to stop: product segments, queries and label numbers, aligned."""

    examples: Sequence[ProductExample]
    """One query each; targets are not looked at."""
    labels: np.ndarray


@dataclass(frozen=True)
class TrainingTask:
    """All that a worker needs."""

    model: ModelFiles
    cache_dir: str
    prompt: PromptSettings
    source: ExampleSource
    steps: int
    settings: TrainingSettings
    lora: LoraSettings | None
    """None: all weights are trained."""
    adapter: ModelFiles | None = None
    """Whose weights the adapter begins with; None: an untrained one's."""
    validation: ValidationPairs | None = None
    drawing_processes: int = 0
    """Processes of a worker that draw epochs ahead; 0: it draws them itself, between steps."""


class LabelTokenModel(nn.Module):
    """A causal model as training sees it: packed pairs in, logits of the next token out."""

    def __init__(self, model: PreTrainedModel, *, cached_prefix: bool) -> None:
        super().__init__()
        self.model = model
        self._cached_prefix = cached_prefix
        self.written_out = False
        """Whether each prompt goes through the model whole; see `needs_whole_prompts`."""

    def forward(self, prefix_ids: Sequence[int], batch: PackedBatch) -> torch.Tensor:
        how = {"cached": self._cached_prefix, "written_out": self.written_out}
        return next_token_logits(self.model, prefix_ids, batch, **how)


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Train `config["task"]` on this worker; returns the loss of every step and alpha of every validation."""
    session = training_session()
    training = LabelTraining(config["task"], session)
    session.resume(training.restore)
    return training.run()


class LabelTraining:
    """One worker's part of a training run."""

    def __init__(self, task: TrainingTask, session: TrainingSession) -> None:
        transformers_logging.disable_progress_bar()  # one per worker in the driver's log
        self._task, self._settings = task, task.settings
        self._session = session
        self._rank, self._world = session.rank, session.world_size
        self._device = session.device
        folder = fetch_model(task.model, cache_dir=task.cache_dir)
        self._encoder = PromptEncoder(load_tokenizer(folder), task.prompt)
        self._drawn = None
        if count := task.drawing_processes:
            self._drawn = DrawnAhead(task.source, task.model, task.cache_dir, task.prompt, num_processes=count)
        torch.manual_seed(self._settings.seed)
        self._fingerprint: str | None = None
        """Of the base; known to the first worker alone where the base is in shares."""
        # Keys and values that are kept go together neither with recomputed activations nor with gathered weights.
        sharded = self._settings.parallel == "fsdp" and self._world > 1
        self._cached_prefix = not (self._settings.gradient_checkpointing or sharded)
        self._module = (self._share(folder) if sharded else self._copy(folder)).train()
        self._trained = [weight for weight in self._module.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained,
            lr=self._settings.learning_rate,
            weight_decay=self._settings.weight_decay,
            betas=(0.9, self._settings.adam_beta2),
        )
        self._state = TrainingState()

    def _base_dtype(self) -> torch.dtype:
        # Frozen weights in float32 would be cast anew in every forward pass.
        frozen = self._task.lora is not None and self._settings.bf16
        return torch.bfloat16 if frozen and has_bf16(self._device) else torch.float32

    def _copy(self, folder: Path) -> nn.Module:
        """All of the model, on each worker."""
        return copy_to_all(self._load(folder, self._device))

    def _share(self, folder: Path) -> nn.Module:
        """A share of the model on each worker, handed out by the first, who alone reads all of it."""
        first = self._load(folder, torch.device("cpu")) if self._rank == 0 else None
        whole, written_out = (first.state_dict(), [first.written_out]) if first else (None, [False])
        dist.broadcast_object_list(written_out)
        module = self._wrap(empty_trainable(folder, dtype=self._base_dtype()))
        module.written_out = written_out[0]
        blocks = next(part for part in module.model.get_decoder().children() if isinstance(part, nn.ModuleList))
        share_out(module, list(blocks))
        fill_from_first(module, whole, self._device)
        module.model.tie_weights()  # the shares came under both names
        return module

    def _load(self, folder: Path, device: torch.device) -> LabelTokenModel:
        """Read the base, and the adapter that training goes on from."""
        model = load_trainable(folder, device=device, dtype=self._base_dtype())
        self._fingerprint = base_fingerprint(model)
        longest, cached = self._encoder.max_prompt_tokens, self._cached_prefix
        whole = needs_whole_prompts(model, folder.name, longest_prompt=longest, cached=cached)
        module = self._wrap(model)
        module.written_out = whole
        if self._task.adapter:
            adapter = fetch_model(self._task.adapter, cache_dir=self._task.cache_dir)
            require_base(adapter, self._fingerprint, self._task.model.version)
            load_adapter(self._model, adapter)
        return module

    def _wrap(self, model: PreTrainedModel) -> LabelTokenModel:
        if self._settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._model = add_adapter(model, self._task.lora) if self._task.lora else model.requires_grad_(True)
        inner = self._model.base_model.model if self._task.lora else self._model
        return LabelTokenModel(inner, cached_prefix=self._cached_prefix)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self._state = load_state(folder, self._module, self._optimizer)

    def run(self) -> dict[str, Any]:
        """Take the steps that are left."""
        state = self._state
        size = self._settings.pairs_per_step
        self._progress = Progress(self._task.steps * size, "pairs", done=state.step * size)
        if not state.done:
            for epoch, number, group in self._groups(state.epoch, state.group):
                loss = self._step(group)
                state.take_step(epoch, number, loss)
                pairs = sum(len(example.queries) for example in group)
                self._session.stepped(state.step, self._task.steps, pairs)
                last = state.step >= self._task.steps
                if last or state.step % self._settings.checkpoint_steps == 0:
                    state.done = self._check(last=last)
                elif state.step % self._settings.report_steps == 0:
                    self._report({})
                if state.done:
                    break
        return {"losses": state.losses, "alphas": state.alphas, "base_fingerprint": self._fingerprint}

    def _groups(self, epoch: int, number: int) -> Iterator[tuple[int, int, list[ProductExample]]]:
        """Go through the epochs' groups from a place on; all workers see the same."""
        while True:
            examples = self._drawn.epoch(epoch) if self._drawn else self._task.source.epoch(self._encoder, epoch)
            if not examples:
                raise ValueError("no pair to train on: every query is over the prompt's token budget")
            shuffler = np.random.default_rng([self._settings.seed, epoch])
            groups = groups_by_length(examples, pairs_per_group=self._settings.pairs_per_step, shuffler=shuffler)
            for place in range(number, len(groups)):
                yield epoch, place, groups[place]
            epoch, number = epoch + 1, 0

    def _step(self, group: list[ProductExample]) -> float:
        """Take one step on this worker's share of a group; the loss is the whole group's."""
        step, settings = self._state.step, self._settings
        torch.manual_seed(settings.seed + self._world * step + self._rank)
        self._set_learning_rate(step)
        total = float(sum(example.targets.sum() for example in group)) or 1.0
        parts = self._parts(group)
        self._optimizer.zero_grad(set_to_none=True)
        mine = torch.zeros((), device=self._device)
        for number, part in enumerate(parts):
            batch = pack_batch(part).to(self._device)
            with gradient_sync(self._module, now=number == len(parts) - 1):
                logits = self._forward(batch, self._prefix(step))
                # Workers' gradients are averaged, hence each divides by its share of the total.
                share, ids = total / self._world, self._encoder.label_ids
                loss = label_loss(logits, batch.targets_n4, ids, total=share, mass_weight=settings.mass_weight)
                loss.backward()
            mine += loss.detach() / self._world
            if self._rank == 0:  # a step of a large model takes minutes on a CPU
                self._progress.add(sum(len(example.queries) for example in part) * self._world)
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        dist.all_reduce(mine)
        return mine.item()

    def _set_learning_rate(self, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * _rate_factor(step, self._task.steps)

    def _forward(self, batch: PackedBatch, prefix_ids: Sequence[int]) -> torch.Tensor:
        with autocast(self._device, bf16=self._settings.bf16):
            return self._module(prefix_ids, batch)

    def _prefix(self, step: int) -> Sequence[int]:
        guidelines = self._encoder.guidelines_ids
        if random.Random(f"{self._settings.seed} {step}").random() >= self._settings.guidelines_dropout:
            return guidelines
        return guidelines[:1] if guidelines[0] == self._encoder.tokenizer.bos_token_id else []

    def _parts(self, group: list[ProductExample]) -> list[list[ProductExample]]:
        """Cut this worker's share into as many parts as any worker needs: all must meet in each exchange."""
        shares = [group[rank :: self._world] for rank in range(self._world)]
        most = max(sum(len(example.queries) for example in share) for share in shares)
        count = math.ceil(most / self._settings.pairs_per_forward)
        nothing = ProductExample(group[0].product, group[0].queries[:1], np.zeros((1, len(LABELS)), np.float32))
        return [shares[self._rank][number::count] or [nothing] for number in range(count)]

    def _check(self, *, last: bool) -> bool:
        """Validate, write a checkpoint, and tell whether this was the end."""
        state, metrics = self._state, {}
        if self._task.validation is not None:
            alpha = self._validate(self._task.validation)
            state.take_alpha(alpha)
            metrics[ALPHA] = alpha
        patience = self._settings.patience
        done = last or bool(patience and state.num_worse >= patience)
        state.done = done
        self._report(metrics, with_checkpoint=True)
        return done

    def _report(self, metrics: dict[str, float], *, with_checkpoint: bool = False) -> None:
        state = self._state
        recent = state.losses[-self._settings.report_steps :]
        factor = _rate_factor(state.step - 1, self._task.steps)
        rate = self._settings.learning_rate * factor
        metrics = {
            STEP: state.step,
            STEPS: self._task.steps,
            "loss": float(np.mean(recent)),
            "learning_rate": rate,
            **metrics,
        }
        if not with_checkpoint:
            self._session.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_state(Path(folder), state, self._module, self._optimizer, self._model)
            self._session.report(metrics, checkpoint=Path(folder) if self._rank == 0 else None)

    @torch.no_grad()
    def _validate(self, pairs: ValidationPairs) -> float:
        """Alpha between people and the model as it is now, the same on every worker."""
        order = sorted(range(len(pairs.labels)), key=lambda i: len(pairs.examples[i].product))
        chunks = [order[start : start + _VALIDATION_PAIRS] for start in range(0, len(order), _VALIDATION_PAIRS)]
        mine = chunks[self._rank :: self._world]
        mine += chunks[:1] * (math.ceil(len(chunks) / self._world) - len(mine))
        said: dict[int, int] = {}
        self._module.eval()
        for chunk in mine:
            batch = pack_batch([pairs.examples[i] for i in chunk]).to(self._device)
            logits = self._forward(batch, self._encoder.guidelines_ids)[:, list(self._encoder.label_ids)]
            said |= dict(zip(chunk, logits.argmax(-1).tolist(), strict=True))
        self._module.train()
        gathered: list[dict[int, int]] = [{}] * self._world
        dist.all_gather_object(gathered, said)
        merged = {pair: label for part in gathered for pair, label in part.items()}
        alpha = nominal_alpha(np.stack([pairs.labels, [merged[i] for i in range(len(pairs.labels))]]))
        return 0.0 if math.isnan(alpha) else alpha


def _rate_factor(step: int, total: int) -> float:
    return warmup_cosine(step, total, warmup_fraction=0.05, floor=0.05)
