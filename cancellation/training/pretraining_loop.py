"""Masked-language-model training of a text encoder, as it runs on every worker of Ray Train.

Sequences come as a stream of Ray Data; the loss is computed at masked tokens only, with the embeddings as the
output layer. A checkpoint says how many sequences a worker has seen: taken up again, it skips as many of the
stream, which is exact for one worker and close for several.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from cancellation.model.text_encoder import read_encoder
from cancellation.training.loop import prepare
from cluster.settings import Settings
from cluster.storage import fetch_folder
from cluster.training.schedule import warmup_cosine
from cluster.training.session import training_session
from cluster.training.train import STEP, STEPS, autocast

ENCODER, TEXTS = "encoder", "texts"
_REST = "rest.pt"
_KEEP_FRACTION, _RANDOM_FRACTION = 0.1, 0.1  # of the masked tokens, as BERT does


class MaskingSettings(Settings):
    """Steps and masks."""

    num_steps: int = Field(default=500, ge=1)
    """Steps in all; the stream of sequences is repeated as often as it takes."""

    batch_size: int = Field(default=64, ge=1)
    """Sequences per step and worker."""

    mask_fraction: float = Field(default=0.25, gt=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    """At its peak; for a pre-trained encoder of full size about 5e-5."""

    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    steps_per_checkpoint: int = Field(default=200, ge=1)
    batches_per_pool: int = Field(default=16, ge=1)
    """Batches cut together from the stream, so that those of a batch are about as long."""

    bf16: bool = True
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class PretrainingTask:
    """What a worker needs."""

    start: str
    """Folder of the encoder to start from."""
    settings: MaskingSettings
    pad_id: int
    mask_id: int
    structure: tuple[int, ...]
    """Tokens that are no words: never masked, never put in at random."""
    vocab_size: int
    cache_dir: str


class MaskedLanguageModel(nn.Module):
    """An encoder with a head that gives masked tokens back."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        table = encoder.get_input_embeddings().weight
        self.transform = nn.Sequential(
            nn.Linear(encoder.config.hidden_size, table.shape[1]), nn.GELU(), nn.LayerNorm(table.shape[1])
        )
        self.bias = nn.Parameter(torch.zeros(table.shape[0]))

    def forward(self, token_ids_nt: torch.Tensor, mask_nt: torch.Tensor, targets_m: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy at the places of `mask_nt`, whose tokens were `targets_m`."""
        attention = (token_ids_nt != self.encoder.config.pad_token_id).long()
        states = self.encoder(input_ids=token_ids_nt, attention_mask=attention).last_hidden_state
        hidden = self.transform(states[mask_nt])
        logits = functional.linear(hidden, self.encoder.get_input_embeddings().weight, self.bias)
        return functional.cross_entropy(logits.float(), targets_m)


def mask_tokens(
    token_ids_nt: np.ndarray, task: PretrainingTask, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens: most become the mask, some another token, some stay. Returns inputs and where (n, t)."""
    words = np.setdiff1d(np.arange(task.vocab_size), task.structure)
    hidden = np.isin(token_ids_nt, words) & (rng.random(token_ids_nt.shape) < task.settings.mask_fraction)
    if not hidden.any():  # a batch of texts without a word: ask for the last token of each
        hidden[:, -1] = True
    draw = rng.random(token_ids_nt.shape)
    inputs = np.where(hidden & (draw >= _KEEP_FRACTION + _RANDOM_FRACTION), task.mask_id, token_ids_nt)
    other = words[rng.integers(0, len(words), token_ids_nt.shape)]
    return np.where(hidden & (draw < _RANDOM_FRACTION), other, inputs), hidden


def stream_batches(
    shard: Any, settings: MaskingSettings, pad_id: int, *, skip: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut padded batches from the stream without end, after `skip` sequences; gives how many are behind each."""
    seen, rng = 0, np.random.default_rng(settings.seed)
    while True:
        before = seen
        for pool in shard.iter_batches(
            batch_size=settings.batch_size * settings.batches_per_pool, batch_format="numpy"
        ):
            sequences = sorted((np.asarray(ids) for ids in pool["token_ids"]), key=len)
            starts = range(0, len(sequences), settings.batch_size)
            for place in rng.permutation(len(starts)):
                rows = sequences[starts[place] : starts[place] + settings.batch_size]
                seen += len(rows)
                if seen <= skip:
                    continue
                batch = np.full((len(rows), len(rows[-1])), pad_id, np.int64)
                for row, ids in zip(batch, rows, strict=True):
                    row[: len(ids)] = ids
                yield seen, batch
        if seen == before:
            raise ValueError("chats: expected texts to learn from, found none; check the locations")


def pretrain_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Train for the set number of steps; report checkpoints with the encoder inside."""
    session = training_session()
    task: PretrainingTask = config["task"]
    settings = task.settings
    folder = Path(fetch_folder(task.start, task.cache_dir))
    torch.manual_seed(settings.seed)
    model = MaskedLanguageModel(read_encoder(folder))
    rest: dict[str, Any] = {}

    def take_up(kept: Path) -> None:
        rest.update(torch.load(kept / _REST, weights_only=True, map_location="cpu"))
        model.encoder = read_encoder(kept / ENCODER)
        model.load_state_dict(rest["head"], strict=False)

    session.resume(take_up)
    step, seen = rest.get("step", 0), rest.get("seen", 0)
    if step >= settings.num_steps:  # a finished run that was submitted again: its encoder stays what it is
        return {"steps": step, "masked_loss": rest["masked_loss"]}
    device = session.device
    module = prepare(model, session)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    if rest:
        optimizer.load_state_dict(rest["optimizer"])
    rank = session.rank
    losses: list[float] = []
    module.train()
    for behind, batch in stream_batches(session.dataset(TEXTS), settings, task.pad_id, skip=seen):
        losses.append(_learn(module, optimizer, batch, task, step=step, rank=rank, device=device))
        step, seen = step + 1, behind
        session.stepped(step, settings.num_steps, len(batch) * session.world_size)
        if step % settings.steps_per_checkpoint and step < settings.num_steps:
            continue
        last, losses = float(np.mean(losses)), []
        with tempfile.TemporaryDirectory() as temporary:
            if rank == 0:
                _save(Path(temporary), model, optimizer, {"step": step, "seen": seen, "masked_loss": last})
            kept = Path(temporary) if rank == 0 else None
            session.report({STEP: step, STEPS: settings.num_steps, "masked_loss": last}, checkpoint=kept)
        if step >= settings.num_steps:
            return {"steps": step, "masked_loss": last}
    raise AssertionError("the stream has no end")


def _learn(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: np.ndarray,
    task: PretrainingTask,
    *,
    step: int,
    rank: int,
    device: torch.device,
) -> float:
    """Take one step on a batch (n, t); gives its loss. What is masked depends on seed, step and worker alone."""
    settings = task.settings
    inputs, hidden = mask_tokens(batch, task, np.random.default_rng([settings.seed, step, rank]))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * warmup_cosine(
            step, settings.num_steps, warmup_fraction=settings.warmup_fraction, floor=0.02
        )
    with autocast(device, bf16=settings.bf16):
        loss = module(*(torch.from_numpy(part).to(device) for part in (inputs, hidden, batch[hidden])))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _save(
    folder: Path, model: MaskedLanguageModel, optimizer: torch.optim.Optimizer, progress: dict[str, float]
) -> None:
    model.encoder.save_pretrained(folder / ENCODER)
    head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    torch.save({"head": head, "optimizer": optimizer.state_dict(), **progress}, folder / _REST)
