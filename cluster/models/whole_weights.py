"""A model from a folder with all of its weights, or none, and never with code of its own.

transformers fills what a checkpoint lacks with random numbers, and leaves out what has no place; it says so in a
warning alone, and what such a model answers looks like answers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel

from cluster.models.listing import list_folder
from cluster.models.weight_files import ADAPTER_CONFIG, check_model_files

_BUFFERS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias", "position_ids", "embeddings.token_type_ids")
"""Ends of the names of what old checkpoints hold beside weights and a model computes itself."""


def read_config(folder: Path) -> PretrainedConfig:
    """Read the configuration of a model folder after checking that it may be loaded.

    Raises:
        ValueError: If there is none that can be read, its architecture needs code of its own, or `check_model_files`
            refuses the folder.
    """
    path = folder / "config.json"
    if not path.is_file() and (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"model {folder.name}: holds an adapter and not the model that it changes: give that one, or the two "
            "merged and saved with save_pretrained"
        )
    if not path.is_file():
        raise ValueError(f"expected a model folder with config.json, found none in {folder}: give another model")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"model {folder.name}: its config.json is no JSON object: copy it again") from None
    if kind is None:
        raise ValueError(f"model {folder.name}: its config.json names no model_type: write its architecture there")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"model {folder.name}: architecture {kind!r} is not part of transformers, and code that comes with a model "
            "is never run: choose a model of a known architecture"
        )
    check_model_files(list_folder(folder))
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_whole(
    kind: Any, folder: Path, *, config: PretrainedConfig, remedy: str, spared: tuple[str, ...] = (), **how: Any
) -> PreTrainedModel:
    """Load a model from safetensors, in evaluation mode.

    Args:
        kind: A class of transformers that has `from_pretrained`.
        folder: A folder that `check_model_files` let pass.
        config: Its configuration.
        remedy: What to do where its weights are others than the model's.
        spared: How names begin of weights that nobody asks for, which may be missing.
        how: Further arguments of `from_pretrained`.

    Raises:
        ValueError: If its safetensors lack a weight, or hold one that the model would leave out.
    """
    try:
        with _without_report():
            model, outcome = kind.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
                **how,
            )
    except SafetensorError as error:
        raise ValueError(f"model {folder.name}: its safetensors cannot be read ({error}): copy it again") from None
    for found, what in (
        ([name for name in outcome["missing_keys"] if not name.startswith(spared)], "its safetensors lack"),
        ([name for name, *_ in outcome["mismatched_keys"]], "config.json and safetensors disagree on the shape of"),
        (_left_out(model, outcome["unexpected_keys"]), "its architecture has no place for"),
    ):
        if names := sorted(found):
            also = f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""
            raise ValueError(
                f"model {folder.name}: {what} {names[0]}{also}, so it would answer with other weights than were "
                f"trained: {remedy}"
            )
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep back what transformers says of weights that differ: what matters is refused, the rest alarms people."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _left_out(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Choose what a layer of the model would compute with; a head or a tower of another model's does no harm.

    A quantised checkpoint's own format says what belongs to it.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return []
    prefix = f"{model.base_model_prefix}."  # with a head the layers lie below it, without one they do not
    return [
        name
        for name in unexpected
        if not name.endswith(_BUFFERS)
        and any(_is_part(model, one) for one in (name, f"{prefix}{name}", name.removeprefix(prefix)))
    ]


def _is_part(model: nn.Module, name: str) -> bool:
    path, module = _follow(model, name)
    behind = name.split(".")[len(path)]
    return layer_of(model, name) is not None or (isinstance(module, nn.ModuleList) and behind.isdigit())


def layer_of(model: nn.Module, name: str) -> str | None:
    """Name the deepest module that a tensor's name leads to; None if that is but the model or a list of its layers."""
    path, module = _follow(model, name)
    lists = (nn.ModuleList, nn.ModuleDict)
    is_layer = path and not isinstance(module, lists) and not any(isinstance(one, lists) for one in module.children())
    return ".".join(path) if is_layer else None


def _follow(model: nn.Module, name: str) -> tuple[list[str], nn.Module]:
    path, module = [], model
    for part in name.split(".")[:-1]:
        child = dict(module.named_children()).get(part)
        if child is None:
            break
        path, module = [*path, part], child
    return path, module
