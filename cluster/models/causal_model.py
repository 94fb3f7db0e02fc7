"""Causal language models from a folder: all of their weights, or none.

transformers fills what a checkpoint lacks with random numbers and says so in a warning alone; what such a model answers
looks like answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from cluster.models.listing import list_folder
from cluster.models.weight_files import check_model_files

_BUFFERS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")
"""Ends of the names of what old checkpoints hold beside weights and a model computes itself."""


def load_causal_model(
    folder: Path, *, dtype: torch.dtype, config: PretrainedConfig | None = None, device: torch.device | None = None
) -> PreTrainedModel:
    """Load a model from safetensors, in evaluation mode; code that comes with it is not run.

    Raises:
        ValueError: If the folder is refused by `check_model_files`, or its safetensors lack a weight or hold one that
            the model would leave out.
    """
    check_model_files(list_folder(folder))
    try:
        model, outcome = AutoModelForCausalLM.from_pretrained(
            folder,
            **({"config": config} if config else {}),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            device_map=None if device is None or device.type == "cpu" else {"": device},
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise ValueError(f"model {folder.name}: its safetensors cannot be read ({error}): copy it again") from None
    for found, what in (
        (outcome["missing_keys"], "its safetensors lack"),
        ([name for name, *_ in outcome["mismatched_keys"]], "config.json and safetensors disagree on the shape of"),
        (_left_out(model, outcome["unexpected_keys"]), "its architecture has no place for"),
    ):
        if names := sorted(found):
            also = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
            raise ValueError(
                f"model {folder.name}: {what} {names[0]}{also}, so it would answer with other weights than were "
                "trained: merge adapters, unwrap the model (FSDP, torch.compile), keep the quantization_config, and "
                "save it again with save_pretrained as a causal language model"
            )
    return model


def _left_out(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Choose what a layer of the model would compute with; a head or a tower of another model's does no harm.

    A quantised checkpoint's own format says what belongs to it.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return []
    names = [name for name in unexpected if not name.endswith(_BUFFERS)]
    return [name for name in names if _layer_of(model, name) or _layer_of(model, f"{model.base_model_prefix}.{name}")]


def _layer_of(model: nn.Module, name: str) -> str | None:
    """Name the deepest module that a tensor's name leads to; None if that is but the model or a list of its layers."""
    path, module = [], model
    for part in name.split(".")[:-1]:
        child = dict(module.named_children()).get(part)
        if child is None:
            break
        path, module = [*path, part], child
    lists = (nn.ModuleList, nn.ModuleDict)
    is_layer = path and not isinstance(module, lists) and not any(isinstance(one, lists) for one in module.children())
    return ".".join(path) if is_layer else None
