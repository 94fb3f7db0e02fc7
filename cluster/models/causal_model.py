"""Causal language models from a folder: all of their weights, and adapters merged as they were trained, or none.

peft leaves out what names no layer and says so in a warning alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from cluster.models.listing import list_folder
from cluster.models.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, STORED, read_shapes
from cluster.models.whole_weights import layer_of, load_whole, read_config

_OF_ALL_LAYERS = "base_model.vera_"
"""Begins what VeRA keeps once for all layers."""


def load_causal_model(
    folder: Path, *, dtype: torch.dtype, config: PretrainedConfig | None = None, device: torch.device | None = None
) -> PreTrainedModel:
    """Load a model from safetensors, in evaluation mode; code that comes with it is not run.

    Raises:
        ValueError: If the folder is refused by `check_model_files`, or its safetensors lack a weight or hold one that
            the model would leave out, or it is no causal language model.
    """
    if config is None:
        config = read_causal_config(folder)
    return load_whole(
        AutoModelForCausalLM,
        folder,
        config=config,
        remedy="merge adapters, unwrap the model (FSDP, torch.compile), keep the quantization_config, and save it "
        "again with save_pretrained as a causal language model",
        dtype=dtype,
        device_map=None if device is None or device.type == "cpu" else {"": device},
    )


def read_causal_config(folder: Path) -> PretrainedConfig:
    """Read a configuration; refuse what does not predict each next token from those before it alone.

    transformers loads many an encoder as a causal model, and lets it look at what follows.

    Raises:
        ValueError: If `read_config` refuses the folder, or it is an encoder, or an encoder with a decoder.
    """
    config = read_config(folder)
    kind = config.model_type
    reads_both_ways = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or reads_both_ways or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"model {folder.name}: expected a causal language model, found architecture {kind!r}, which is none: "
            "choose one such as Llama, Qwen or Gemma"
        )
    return config


def max_positions(config: PretrainedConfig) -> float:
    """Tokens that a model has positions for; infinite where positions are not numbered."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf


def merge_adapter(model: PreTrainedModel, adapter_dir: Path, base: str) -> PreTrainedModel:
    """Fold an adapter into the weights that it was trained on.

    Raises:
        ValueError: If one of its factors names no layer of the model or does not fit it, or it cannot be merged.
    """
    from peft import PeftModel

    names = read_shapes(list_folder(adapter_dir), ADAPTER_WEIGHTS)
    layers = _check_factors(model, names, adapter_dir.name, base)
    _untie(model, layers, json.loads((adapter_dir / ADAPTER_CONFIG).read_text("utf-8")), adapter_dir.name)
    adapted = PeftModel.from_pretrained(model, adapter_dir, is_trainable=False)
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"adapter {adapter_dir.name} cannot be merged into {base} ({error}): train it again without what hinders it"
        ) from None


def _check_factors(model: nn.Module, factors: dict[str, list[int]], adapter: str, base: str) -> set[str]:
    """Compare an adapter's factors with the layers that they are for; give the layers of low-rank ones."""
    found = set()
    for name, shape in factors.items():
        if name.startswith(_OF_ALL_LAYERS):
            continue
        layer_name, _, factor = name.removeprefix(STORED).partition(".lora_")
        layer = layer_of(model, name.removeprefix(STORED)) if name.startswith(STORED) else None
        axis = {"A.weight": 1, "B.weight": 0}.get(factor)
        if layer and factor:
            found.add(layer)
        if layer and (axis is None or getattr(model.get_submodule(layer), "weight", None) is None):
            continue  # no matrix of two dimensions, such as experts that share one tensor: peft knows what it is
        expected = _outputs_and_inputs(model.get_submodule(layer))[axis] if layer and axis is not None else None
        if expected is None or shape[axis or 0] != expected:
            wanted = f"{shape[axis]} {'inputs' if axis else 'outputs'}" if axis is not None else "a layer"
            raise ValueError(
                f"adapter {adapter} belongs to another base than {base}: for {layer_name} it expects {wanted}, found "
                f"{expected or 'no such layer'}: give the base it was trained on"
            )
    return found


def _outputs_and_inputs(layer: nn.Module) -> list[int]:
    """Shape of a layer's weight; GPT-2 keeps it the other way round."""
    shape = list(layer.weight.shape)
    return shape[::-1] if isinstance(layer, Conv1D) else shape


def _untie(model: PreTrainedModel, layers: set[str], config: dict[str, Any], adapter: str) -> None:
    """Give the output a matrix of its own where the adapter changes it or the embeddings.

    peft adds what it learnt to one of the two; merged into the matrix that both share it would change both. Of
    matrices that were trained whole peft makes two itself.
    """
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or output.weight is not embeddings.weight:
        return
    if any(model.get_submodule(layer) in (output, embeddings) for layer in layers):
        if odd := [name for name in ("ensure_weight_tying", "trainable_token_indices") if config.get(name)]:
            raise ValueError(
                f"adapter {adapter}: changes embeddings and output layer, which are one matrix here, with {odd[0]}, "
                "which cannot be merged: merge it where it was trained, and give the merged model"
            )
        output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=output.weight.requires_grad)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
