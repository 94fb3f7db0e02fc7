"""A training run's checkpoint: an adapter or a model that can be used as it is, and what a resumed run needs besides.

adapter/ or model/   safetensors and config, as peft and transformers read them
optimizer.pt         moments of the trained weights
state.json           steps taken, place in the data, curves
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from relevance.training.parallel import restore_state, trained_state
from relevance.weights.adapters import adapter_weights, save_adapter

ADAPTER, MODEL = "adapter", "model"
_OPTIMIZER, _STATE = "optimizer.pt", "state.json"


@dataclass
class TrainingState:
    """How far a run is."""

    step: int = 0
    """Steps taken."""
    epoch: int = 0
    group: int = 0
    """Of the epoch, the next to be learnt from."""
    losses: list[float] = field(default_factory=list)
    """Of every step."""
    alphas: list[float] = field(default_factory=list)
    """Of every validation."""
    num_worse: int = 0
    """Validations since the best alpha."""
    done: bool = False

    def take_step(self, epoch: int, group: int, loss: float) -> None:
        """Count a step on a group of an epoch."""
        self.step, self.epoch, self.group = self.step + 1, epoch, group + 1
        self.losses.append(loss)

    def take_alpha(self, alpha: float) -> None:
        """Count a validation."""
        self.num_worse = 0 if alpha > max(self.alphas, default=-math.inf) else self.num_worse + 1
        self.alphas.append(alpha)


def save_state(
    folder: Path,
    state: TrainingState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    model: PeftModel | PreTrainedModel,
) -> None:
    """Write a checkpoint from the first worker; all workers must call.

    `model` is the peft or transformers model inside `module`.
    """
    weights, optimizer_state = trained_state(module, optimizer)
    if dist.get_rank() != 0:
        return
    weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    if isinstance(model, PeftModel):
        save_adapter(model, weights, folder / ADAPTER)
    else:
        model.save_pretrained(folder / MODEL, state_dict=weights)
    torch.save(optimizer_state, folder / _OPTIMIZER)
    (folder / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")


def load_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Put a checkpoint's weights and moments back; returns how far the run was."""
    adapter = folder / ADAPTER
    weights = adapter_weights(adapter) if adapter.exists() else load_file(folder / MODEL / "model.safetensors")
    weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    optimizer_state = torch.load(folder / _OPTIMIZER, weights_only=True, map_location="cpu")
    restore_state(module, optimizer, weights, optimizer_state)
    return TrainingState(**json.loads((folder / _STATE).read_text("utf-8")))
