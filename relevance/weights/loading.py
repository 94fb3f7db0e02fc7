"""A causal language model from a local folder, with an adapter merged and its linear layers quantised.

Weights are read from safetensors alone and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cluster.models.causal_model import load_causal_model, merge_adapter, read_causal_config
from cluster.models.listing import list_folder
from cluster.models.weight_files import check_adapter_files, read_shapes
from cluster.progress import watched
from relevance.weights.activation_memory import ActivationMemory
from relevance.weights.fp8_linear import Fp8Linear, require_fp8
from relevance.weights.int8_linear import Int8Linear
from relevance.weights.origin import read_origin

Quantization = Literal["auto", "none", "int8", "fp8"]
_FINGERPRINT_VALUES = 256
_OTHERWISE = ("Router", "GroupedLinear")
"""Ends of the names of classes of transformers that are derived from a linear layer and compute something else."""
_FORMATS = {"int-quantized": "int8", "float-quantized": "fp8"}


def load_model(
    model_dir: Path,
    *,
    adapter_dir: Path | None = None,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "auto",
    unquantized: str | None = None,
) -> PreTrainedModel:
    """Load a model for inference: adapter merged in `dtype`, then linear layers quantised.

    The output layer and the embeddings keep `dtype`: four rows of the output are all that scoring needs.

    Args:
        model_dir: Folder with config.json and safetensors.
        adapter_dir: LoRA adapter to merge.
        device: Where the weights go.
        dtype: Type of everything that is not quantised.
        quantization: See `EngineSettings.quantization`.
        unquantized: Regular expression found in the names of linear layers to leave as they are, where
            rounding hurts (query and key of a sharp attention, for one). vLLM fuses query, key and value,
            and gate and up: name all of a group or none.

    Raises:
        ValueError: If the folder holds no model that may be loaded, the adapter belongs to another
            base, or the quantisation is not possible here.
    """
    config = read_causal_config(model_dir)
    checkpoint = checkpoint_quantization(config, model_dir)
    if quantization == "fp8" or (quantization == "auto" and checkpoint == "fp8"):
        require_fp8(device)
    if checkpoint is not None and adapter_dir is not None:
        raise ValueError(
            f"adapter {adapter_dir.name} cannot be merged into the {checkpoint} checkpoint {model_dir.name}: "
            "merge it into the unquantised base first, then quantise"
        )
    if checkpoint is None:
        model = load_causal_model(model_dir, dtype=dtype, config=config, device=device)
        if adapter_dir is not None:
            model = _merge_adapter(model, adapter_dir, model_dir)
    else:
        model = _load_quantized(model_dir, config, checkpoint, device, dtype)
    wanted = checkpoint if quantization == "auto" else quantization
    if (wanted or "none") != (checkpoint or "none"):
        convert_linears(model, wanted, dtype, unquantized)
    return model.eval().requires_grad_(False)


def load_trainable(model_dir: Path, *, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model to train, or to train an adapter on.

    Raises:
        ValueError: If the folder holds no model that may be loaded, or its weights are quantised.
    """
    return load_causal_model(model_dir, dtype=dtype, config=_trainable_config(model_dir), device=device)


def empty_trainable(model_dir: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Build the same model without its weights, on the meta device; buffers that no checkpoint holds are real.

    Raises:
        ValueError: As `load_trainable`.
    """
    config = _trainable_config(model_dir)
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def _trainable_config(model_dir: Path) -> PretrainedConfig:
    config = read_causal_config(model_dir)
    quantized = checkpoint_quantization(config, model_dir)
    if quantized is not None:
        raise ValueError(
            f"model {model_dir.name} is an {quantized} checkpoint, whose weights cannot be trained: give the base "
            "before it was quantised"
        )
    return config


def base_fingerprint(model: PreTrainedModel) -> str:
    """Name the weights under an adapter, wherever they were read from and in whichever precision; hex, 16 digits.

    A sample of each linear layer is enough: what differs between two bases differs everywhere.
    """
    digest = hashlib.sha256()
    for name, layer in _linears(model):
        sample = linear_weight(layer).detach().flatten()[:_FINGERPRINT_VALUES].to("cpu", torch.bfloat16)
        digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def folder_fingerprint(model_dir: Path) -> str | None:
    """The same from a folder of plain weights, a few values of each layer read; None where names are not the model's.

    Raises:
        ValueError: If the folder holds no model that may be loaded.
    """
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(read_causal_config(model_dir), trust_remote_code=False)
    files = list_folder(model_dir)
    where = {name: path for path in model_dir.glob("*.safetensors") for name in read_shapes(files, path.name)}
    digest = hashlib.sha256()
    for name, layer in _linears(model):
        if f"{name}.weight" not in where:
            return None
        with safe_open(where[f"{name}.weight"], framework="pt") as file:
            stored = file.get_slice(f"{name}.weight")
            lines = -(-_FINGERPRINT_VALUES // stored.get_shape()[0 if isinstance(layer, Conv1D) else 1])
            weight = stored[:, :lines].t() if isinstance(layer, Conv1D) else stored[:lines]
        sample = weight.flatten()[:_FINGERPRINT_VALUES].to(torch.bfloat16)
        digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def checkpoint_quantization(config: PretrainedConfig, model_dir: Path) -> Literal["int8", "fp8"] | None:
    """Tell how a checkpoint is quantised.

    Raises:
        ValueError: If it is, but not as compressed-tensors with 8-bit weights and activations per token.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    content = found if isinstance(found, dict) else found.to_dict()
    groups = list((content.get("config_groups") or {}).values())
    kind = _FORMATS.get(content.get("format", ""))
    method = content.get("quant_method")
    if method != "compressed-tensors" or kind is None or not groups or not all(map(_is_w8a8, groups)):
        raise ValueError(
            f"model {model_dir.name}: expected no quantisation or compressed-tensors with 8-bit weights per channel "
            f"and dynamic 8-bit activations per token, found {method!r} in format {content.get('format')!r}: quantise "
            "the base model again, or use scoring.engine=vllm"
        )
    return kind


def _is_w8a8(group: dict[str, Any]) -> bool:
    weights, activations = group.get("weights") or {}, group.get("input_activations") or {}
    return (
        weights.get("num_bits") == activations.get("num_bits") == 8
        and weights.get("strategy") == "channel"
        and weights.get("symmetric", True)
        and activations.get("strategy") == "token"
        and bool(activations.get("dynamic"))
        and activations.get("symmetric", True)
        and group.get("targets") == ["Linear"]
    )


def _load_quantized(
    model_dir: Path, config: PretrainedConfig, kind: str, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """Build the architecture without weights, swap in quantised layers, read the checkpoint into them as it is."""
    tensors = _read_tensors(model_dir, device)
    del config.quantization_config
    # Buffers that no checkpoint holds (rotary frequencies) must be real.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        memory = ActivationMemory()
        for name, layer in _linears(model):
            if f"{name}.weight_scale" in tensors:
                model.set_submodule(name, _empty_layer(layer, kind, memory))
    in_dtype = {name for name, _ in model.named_parameters()}
    tensors = {name: tensor.to(dtype) if name in in_dtype else tensor for name, tensor in tensors.items()}
    outcome = model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    missing = [name for name in outcome.missing_keys if name not in tied]
    if missing or outcome.unexpected_keys:
        raise ValueError(
            f"model {model_dir.name}: the checkpoint does not fit its config.json, missing {missing[:3]}, "
            f"unknown {outcome.unexpected_keys[:3]}: quantise the base model again"
        )
    return model.to(device)


def _read_tensors(model_dir: Path, device: torch.device) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path.name} in {model_dir.name} cannot be read ({error}): copy it again") from None
    return tensors


def _linears(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """All linear layers but the output layer, quantised ones included.

    Routers of experts that are derived from a linear layer compute something else, and are none.
    """
    output = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D, Int8Linear, Fp8Linear)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and layer is not output and not type(layer).__name__.endswith(_OTHERWISE)
    ]


def _empty_layer(layer: nn.Module, kind: str, memory: ActivationMemory) -> Int8Linear | Fp8Linear:
    inputs, outputs = (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
    bias = layer.bias is not None
    if kind == "int8":
        return Int8Linear(inputs, outputs, bias=bias, memory=memory)
    return Fp8Linear(inputs, outputs, bias=bias, memory=memory)


def convert_linears(model: PreTrainedModel, quantization: str, dtype: torch.dtype, unquantized: str | None) -> None:
    """Replace the linear layers, one at a time so that memory holds one layer twice and not the model.

    `fp8` can be made, and saved, on any machine; only a GPU can run it.
    """
    memory, layers = ActivationMemory(), _linears(model)
    for name, layer in watched(layers, len(layers), "layers"):
        if unquantized is None or not re.search(unquantized, name):
            model.set_submodule(name, _converted(layer, quantization, dtype, memory))


def _converted(layer: nn.Module, quantization: str, dtype: torch.dtype, memory: ActivationMemory) -> nn.Module:
    weight, bias = linear_weight(layer), layer.bias
    if quantization == "int8":
        return Int8Linear.from_weight(weight, bias, memory)
    if quantization == "fp8":
        return Fp8Linear.from_weight(weight, bias, memory)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(dtype))
    if bias is not None:
        plain.bias = nn.Parameter(bias.to(dtype))
    return plain


def linear_weight(layer: nn.Module) -> torch.Tensor:
    """Read a layer's weight as (outputs, inputs), dequantised where it is quantised."""
    if isinstance(layer, Int8Linear | Fp8Linear):
        return layer.dequantized_weight()
    return layer.weight.t().contiguous() if isinstance(layer, Conv1D) else layer.weight


def _merge_adapter(model: PreTrainedModel, adapter_dir: Path, model_dir: Path) -> PreTrainedModel:
    """Fold an adapter into the weights: unmerged it can cost half the throughput."""
    check_adapter_files(list_folder(adapter_dir), list_folder(model_dir))
    require_base(adapter_dir, base_fingerprint(model), model_dir.name)
    return merge_adapter(model, adapter_dir, model_dir.name)


def require_base(adapter_dir: Path, found: str | None, base: str) -> None:
    """Compare the base's fingerprint with that of the one that the adapter was trained on, where the adapter says so.

    Raises:
        ValueError: If they differ.
    """
    trained = read_origin(adapter_dir)
    expected = trained.get("base_fingerprint")
    if expected and found and expected != found:
        raise ValueError(
            f"adapter {adapter_dir.name} belongs to another base than {base}: it was trained on {trained.get('base')} "
            f"(weights {expected}), found weights {found}: give the base it was trained on"
        )
