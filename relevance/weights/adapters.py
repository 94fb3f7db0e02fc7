"""LoRA adapters: put on a model, written as peft reads them, read back as plain tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from cluster.models.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cluster.settings import Settings

_STORED, _NAMED = "base_model.model.", ".default.weight"
_OTHER_KINDS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices")
"""What peft can make of an adapter besides; some of it moves the scale alone, which no shape betrays."""


class LoraSettings(Settings):
    """A low-rank update of every linear layer but the output's (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the update; divided by the rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of every layer's input. Drawing it is a third of a training step on a CPU."""


def add_adapter(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """Put an untrained adapter on a model, whose own weights are frozen; the adapter's are float32."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        exclude_modules=_outside_of_texts(model),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    for layer in adapted.modules():
        if hasattr(layer, "cast_input_dtype_enabled"):
            # peft would keep every layer's input once more, in float32; autocast brings both sides to one type.
            layer.cast_input_dtype_enabled = False
    return adapted


def _outside_of_texts(model: PreTrainedModel) -> str | None:
    """Name, as a pattern, the layers that only images or sounds go through; None where there are none.

    Nothing would be learnt there, and workers would wait for gradients that never come.
    """
    decoder, output = model.get_decoder(), model.get_output_embeddings()
    inside = next((name for name, module in model.named_modules() if module is decoder), "")
    linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not output]
    outside = inside and isinstance(decoder, PreTrainedModel) and not all(n.startswith(f"{inside}.") for n in linears)
    return rf"(?!{re.escape(inside)}\.).*" if outside else None


def check_adapter_shape(folder: Path, settings: LoraSettings) -> None:
    """Refuse to go on with an adapter of another shape.

    Raises:
        ValueError: If rank or scale differ, or it is of a kind that training here makes none of.
    """
    found = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    if odd := [name for name in _OTHER_KINDS if found.get(name)]:
        raise ValueError(
            f"adapter {folder.name} has {odd[0]}, with which training cannot go on here: merge it into its base "
            "(jobs.relevance_publish publishing.quantization=none), and give the merged model as base"
        )
    for setting, key in (("rank", "r"), ("alpha", "lora_alpha")):
        if found[key] != getattr(settings, setting):
            raise ValueError(
                f"adapter {folder.name} has {setting} {found[key]:g}, the settings say "
                f"{getattr(settings, setting):g}: set finetuning.lora.{setting}={found[key]:g}"
            )


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Put a trained adapter's weights into an untrained one of the same shape."""
    weights = adapter_weights(folder)
    outcome = model.base_model.model.load_state_dict(weights, strict=False)
    own = {name for name, _ in model.base_model.model.named_parameters() if name.endswith(_NAMED)}
    if outcome.unexpected_keys or own - set(weights):
        raise ValueError(f"adapter {folder.name} does not fit the base: give the base that it was trained on")


def save_adapter(model: PeftModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write adapter_config.json and the weights, named as in the base model with `lora_A.default.weight` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config["default"]
    was = config.inference_mode, config.base_model_name_or_path
    # An adapter travels; where its base lay on this machine is nobody's business.
    config.inference_mode, config.base_model_name_or_path = True, Path(config.base_model_name_or_path or "").name
    config.save_pretrained(folder)
    config.inference_mode, config.base_model_name_or_path = was
    # With tied embeddings the frozen output matrix counts among what was trained; an adapter is its own weights.
    own = {name: tensor for name, tensor in weights.items() if name.endswith(_NAMED)}
    stored = {_STORED + name.replace(_NAMED, ".weight"): tensor.contiguous() for name, tensor in own.items()}
    save_file(stored, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def halve_adapter(folder: Path) -> None:
    """Keep an adapter's weights in half precision; what they move differs by less than a base in bfloat16 rounds."""
    weights = {name: tensor.half() for name, tensor in load_file(folder / ADAPTER_WEIGHTS).items()}
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read what `save_adapter` wrote, under the names it was given."""
    stored = load_file(folder / ADAPTER_WEIGHTS)
    return {name.removeprefix(_STORED).removesuffix(".weight") + _NAMED: tensor for name, tensor in stored.items()}
