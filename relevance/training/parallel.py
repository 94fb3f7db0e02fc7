"""One model on several workers, copied (DDP) or in shares (FSDP); its trained weights in and out as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

Parallel = Literal["ddp", "fsdp"]

_TRAINED = {"full_state_dict": True, "ignore_frozen_params": True}


def copy_to_all(module: nn.Module) -> nn.Module:
    """Prepare a module that lies on each worker's device for as many workers as there are; one leaves it as it is."""
    return module if dist.get_world_size() == 1 else DistributedDataParallel(module)


def share_out(module: nn.Module, layers: list[nn.Module]) -> None:
    """Cut the weights into a share for each worker, those of `layers` to be gathered one layer at a time."""
    from torch.distributed.fsdp import fully_shard

    for layer in layers:
        fully_shard(layer)
    fully_shard(module)


def fill_from_first(module: nn.Module, weights: dict[str, torch.Tensor] | None, device: torch.device) -> None:
    """Give a sharded module without weights those of the first worker, one after the other; each keeps its share.

    Args:
        module: On the meta device, but for buffers that no checkpoint holds.
        weights: All of them, on the first worker's CPU; None on the others.
        device: Where the shares go.
    """
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, weights or {}, options=options)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))


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
