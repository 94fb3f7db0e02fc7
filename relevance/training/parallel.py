"""One model on several workers, copied (DDP) or in shares (FSDP); its trained weights in and out as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

Parallel = Literal["ddp", "fsdp"]

_TRAINED = {"full_state_dict": True, "ignore_frozen_params": True}


def parallelize(module: nn.Module, layers: list[nn.Module], kind: Parallel) -> nn.Module:
    """Prepare a module for as many workers as there are; on one it stays as it is.

    Args:
        module: All of what is trained, on its device.
        layers: The blocks that FSDP gathers one at a time.
        kind: A copy of the model on each worker, or a share.
    """
    if dist.get_world_size() == 1:
        return module
    if kind == "ddp":
        return DistributedDataParallel(module)
    from torch.distributed.fsdp import fully_shard

    for layer in layers:
        fully_shard(layer)
    fully_shard(module)
    return module


@contextmanager
def gradient_sync(module: nn.Module, *, now: bool) -> Iterator[None]:
    """Exchange gradients in the backward pass inside the block, or leave it to a later one."""
    if isinstance(module, DistributedDataParallel):
        if now:
            yield
        else:
            with module.no_sync():
                yield
        return
    if hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(now)
    yield


def trained_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], Any]:
    """Collect trained weights and the optimizer's state on the first worker, on its CPU; all workers must call."""
    options = StateDictOptions(**_TRAINED, cpu_offload=True)
    return get_state_dict(module, optimizer, options=options)


def restore_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, torch.Tensor], optimizer_state: Any
) -> None:
    """Put back what `trained_state` collected; each worker gives all of it and keeps its share."""
    options = StateDictOptions(**_TRAINED, strict=False)
    set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=optimizer_state, options=options)
