"""Are a model's files what they seem? Told from names and headers alone, before anything heavy is fetched or loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cluster.models.listing import Listing

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_POINTER_BYTES = 1024
"""The most that a pointer takes; it is three short lines."""
_LENGTH_BYTES = 8
_FIRST_BYTES = 2**16
"""Read at once: it holds most headers whole."""
_MAX_HEADER_BYTES = 100_000_000
"""The most that safetensors itself takes."""
STORED = "base_model.model."
_WRAPPED = ("_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.", ".base_layer.", ".lora_A.")
"""In names of tensors that torch.compile, FSDP or peft still had in their hands when they were saved."""
_ROUNDED = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv")
_ROUNDED_HOW = (b'"quantization_config"', b'"compression_config"')
_ROUNDED_HOW_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Beside config.json, where vLLM looks too."""
_VOCABULARY = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")


def check_model_files(model: Listing) -> None:
    """Refuse a model folder that is not what its names say.

    Raises:
        ValueError: If it holds an adapter's files too, has no safetensors, a shard is missing or cut short, a
            Git-LFS pointer stands in place of content, or weights have names that no model of transformers gives
            them; file and remedy are named.
    """
    if found := [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name in model.sizes]:
        raise ValueError(
            f"model {model.name}: holds {' and '.join(found)} beside its own weights, which would be applied to "
            "them, maybe for a second time: delete them if the adapter is merged, else move them to a folder of their "
            "own and give adapter="
        )
    _check_pointers(model)
    weights = _weights(model)
    if not weights:
        others = sorted(name for name in model.sizes if name.endswith((".bin", ".pt", ".pth")))
        raise ValueError(
            f"model {model.name}: expected *.safetensors, found {', '.join(others) or 'no weights'}: pickled "
            "weights can run code and are refused, save the model again with save_pretrained"
        )
    if _INDEX in model.sizes and model.read:
        wanted = set(json.loads(model.read(_INDEX, 0, model.sizes[_INDEX]))["weight_map"].values())
        if missing := sorted(name for name in wanted if name not in model.sizes):
            raise ValueError(
                f"model {model.name}: {missing[0]} is missing ({len(missing)} of {len(wanted)} shards that "
                f"{_INDEX} names): copy it there"
            )
    if model.read:
        _check_names(model, weight_shapes(model))


def _check_names(model: Listing, names: Iterable[str]) -> None:
    """Refuse what would be passed over when the model is loaded, its layers filled with random numbers instead."""
    assert model.read
    if wrapped := next((name for name in names if any(part in name for part in _WRAPPED)), None):
        raise ValueError(
            f"model {model.name}: {wrapped} is no name that the model itself gives a weight: merge adapters, unwrap "
            "the model (torch.compile, FSDP), and save it again with save_pretrained"
        )
    rounded = next((name for name in names if name.endswith(_ROUNDED)), None)
    if rounded is None or any(name in model.sizes for name in _ROUNDED_HOW_FILES):
        return
    config = model.read("config.json", 0, model.sizes["config.json"]) if "config.json" in model.sizes else b""
    if not any(said in config for said in _ROUNDED_HOW):
        raise ValueError(
            f"model {model.name}: {rounded} belongs to quantised weights, and config.json has no quantization_config "
            "that says how to read them: export the model again with it, or give the base before it was quantised"
        )


def check_adapter_files(adapter: Listing, model: Listing | None = None) -> None:
    """Refuse an adapter folder that is none, or whose base is another.

    Args:
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        model: The base; None leaves what needs it to who loads both.

    Raises:
        ValueError: If a file is missing or a Git-LFS pointer, the vocabulary was resized, or a factor does not fit.
    """
    if not {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= set(adapter.sizes):
        found = ", ".join(adapter.sizes) or "nothing"
        raise ValueError(
            f"adapter {adapter.name}: expected {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, found {found}: save it with "
            "save_pretrained"
        )
    _check_pointers(adapter)
    if not adapter.read:
        return
    factors = read_shapes(adapter, ADAPTER_WEIGHTS)
    base = weight_shapes(model) if model else {}
    for name, shape in factors.items():
        of_base = base.get(name.removeprefix(STORED))
        resized = any(f".{part}.weight" in name for part in _VOCABULARY)
        if model and resized and of_base and of_base != shape:
            raise ValueError(
                f"adapter {adapter.name}: its {ADAPTER_WEIGHTS} has a vocabulary of {shape[0]:,} entries, the base "
                f"{model.name} one of {of_base[0]:,}: merge it into its own resized base where it was trained, and "
                "give the merged model"
            )
    if model and base:
        _check_factors(factors, base, adapter.name, model.name)


def _check_factors(
    adapter: dict[str, list[int]], base: dict[str, list[int]], adapter_name: str, model_name: str
) -> None:
    """Compare what the factors take and give with the base's weights.

    A checkpoint may name its layers otherwise than the model does, so a layer that is not found is an objection only
    where none is. GPT-2 keeps inputs and outputs the other way round: both are tried.
    """
    factors = [(*name.removeprefix(STORED).partition(".lora_")[::2], shape) for name, shape in adapter.items()]
    factors = [one for one in factors if one[1] in ("A.weight", "B.weight")]
    found = {layer: _weight_of(layer, base) for layer, _, _ in factors}
    for layer, factor, shape in factors:
        axis = 1 if factor == "A.weight" else 0
        weight = found[layer]
        if weight is None and layer.rpartition(".")[2] in _VOCABULARY:
            continue  # tied matrices are stored once, under one of their names
        if any(found.values()) and (weight is None or shape[axis] in weight):
            continue
        expected = f"{shape[axis]} {'inputs' if axis else 'outputs'}"
        raise ValueError(
            f"adapter {adapter_name} belongs to another base than {model_name}: for {layer} it expects "
            f"{expected}, found {weight[axis] if weight else 'no such layer'}: give the base it was trained on"
        )


def _weight_of(layer: str, base: dict[str, list[int]]) -> list[int] | None:
    """Find a layer's weight, with or without the first parts of its name: GPT-2's are left out on the hub."""
    parts = f"{layer}.weight".split(".")
    names = (".".join(parts[start:]) for start in range(len(parts) - 2))
    return next((base[name] for name in names if name in base), None)


def _weights(model: Listing) -> list[str]:
    """Safetensors of the folder itself: exports of other kinds lie in folders below it."""
    return [name for name in model.sizes if name.endswith(".safetensors") and "/" not in name]


def weight_shapes(model: Listing) -> dict[str, list[int]]:
    """Shapes of all of a model's tensors; empty where only whole files can be had."""
    shapes: dict[str, list[int]] = {}
    for name in _weights(model) if model.read else ():
        shapes |= read_shapes(model, name)
    return shapes


def read_shapes(folder: Listing, name: str) -> dict[str, list[int]]:
    """Read the shapes of a safetensors file's tensors from its header.

    Raises:
        ValueError: If it is no safetensors file, or shorter than its header says.
    """
    assert folder.read, "only whole files can be had of this folder"
    size = folder.sizes[name]
    first = folder.read(name, 0, _FIRST_BYTES)
    start, length = _LENGTH_BYTES, int.from_bytes(first[:_LENGTH_BYTES], "little")
    end = start + length
    text = b""
    if length <= min(size, _MAX_HEADER_BYTES):
        text = first[start:end] + (folder.read(name, len(first), end) if end > len(first) else b"")
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        end += max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {name: entry["shape"] for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{folder.name}/{name} cannot be read (no safetensors header): copy it again") from None
    if size < end:
        raise ValueError(f"{folder.name}/{name} cannot be read ({size:,} of {end:,} bytes are there): copy it again")
    return shapes


def _check_pointers(folder: Listing) -> None:
    for name, size in folder.sizes.items():
        short = size < _POINTER_BYTES and name.endswith((".safetensors", ".json", ".model"))
        if short and folder.read and folder.read(name, 0, len(_POINTER)) == _POINTER:
            raise ValueError(
                f"{folder.name}/{name} is a Git-LFS pointer and not the file itself: fetch it with "
                "git lfs pull, or download it from the hub"
            )
