"""Are a model's files what they seem? Told from names and headers alone, before anything heavy is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The most that safetensors itself takes."""
_STORED = "base_model.model."
_VOCABULARY = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")


def check_model_files(model_dir: Path, *, whole: bool = True) -> None:
    """Refuse a model folder that is not what its names say.

    Args:
        model_dir: The folder.
        whole: Its weights are to be there too; False where only the tokeniser was fetched.

    Raises:
        ValueError: If it holds an adapter's files too, a shard is missing or cut short, or a Git-LFS pointer stands
            in place of content; file and remedy are named.
    """
    if found := [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if (model_dir / name).exists()]:
        raise ValueError(
            f"model {model_dir.name}: holds {' and '.join(found)} beside its own weights, which would be applied to "
            "them, maybe for a second time: delete them if the adapter is merged, else move them to a folder of their "
            "own and give adapter="
        )
    _check_pointers(model_dir)
    if not whole:
        return
    index = model_dir / _INDEX
    if index.exists():
        wanted = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        if missing := sorted(name for name in wanted if not (model_dir / name).exists()):
            raise ValueError(
                f"model {model_dir.name}: {missing[0]} is missing ({len(missing)} of {len(wanted)} shards that "
                f"{_INDEX} names): copy it there"
            )
    for path in sorted(model_dir.glob("*.safetensors")):
        read_shapes(path)


def check_adapter_files(adapter_dir: Path, model_dir: Path | None = None) -> None:
    """Refuse an adapter folder that is none, or whose base is another.

    Args:
        adapter_dir: Folder with adapter_config.json and adapter_model.safetensors.
        model_dir: The base; None, or a folder without weights: what needs them is left to who loads both.

    Raises:
        ValueError: If a file is missing or a Git-LFS pointer, the vocabulary was resized, or a factor does not fit.
    """
    path = adapter_dir / ADAPTER_WEIGHTS
    if not path.is_file() or not (adapter_dir / ADAPTER_CONFIG).is_file():
        found = ", ".join(sorted(file.name for file in adapter_dir.glob("*"))) or "nothing"
        raise ValueError(
            f"adapter {adapter_dir.name}: expected {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, found {found}: save it with "
            "save_pretrained"
        )
    _check_pointers(adapter_dir)
    adapter = read_shapes(path)
    base = _base_shapes(model_dir) if model_dir else {}
    for name, shape in adapter.items():
        of_base = base.get(name.removeprefix(_STORED))
        resized = any(f".{part}.weight" in name for part in _VOCABULARY)
        if resized and of_base and of_base != shape:
            raise ValueError(
                f"adapter {adapter_dir.name}: its {ADAPTER_WEIGHTS} has a vocabulary of {shape[0]:,} entries, the base "
                f"{model_dir.name} one of {of_base[0]:,}: merge it into its own resized base where it was trained, and "
                "give the merged model"
            )
    _check_factors(adapter, base, adapter_dir, model_dir)


def _check_factors(
    adapter: dict[str, list[int]], base: dict[str, list[int]], adapter_dir: Path, model_dir: Path | None
) -> None:
    """Compare what the factors take and give with the base's weights.

    A checkpoint may name its layers otherwise than the model does, so a layer that is not found is an objection only
    where none is. GPT-2 keeps inputs and outputs the other way round: both are tried.
    """
    factors = [(*name.removeprefix(_STORED).partition(".lora_")[::2], shape) for name, shape in adapter.items()]
    factors = [one for one in factors if one[1] in ("A.weight", "B.weight")]
    if model_dir is None or not base or not factors:
        return
    found = {layer: _weight_of(layer, base) for layer, _, _ in factors}
    for layer, factor, shape in factors:
        axis = 1 if factor == "A.weight" else 0
        weight = found[layer]
        if any(found.values()) and (weight is None or shape[axis] in weight):
            continue
        expected = f"{shape[axis]} {'inputs' if axis else 'outputs'}"
        raise ValueError(
            f"adapter {adapter_dir.name} belongs to another base than {model_dir.name}: for {layer} it expects "
            f"{expected}, found {weight[axis] if weight else 'no such layer'}: give the base it was trained on"
        )


def _weight_of(layer: str, base: dict[str, list[int]]) -> list[int] | None:
    """Find a layer's weight, with or without the first parts of its name: GPT-2's are left out on the hub."""
    parts = f"{layer}.weight".split(".")
    names = (".".join(parts[start:]) for start in range(len(parts) - 2))
    return next((base[name] for name in names if name in base), None)


def _base_shapes(model_dir: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in model_dir.glob("*.safetensors"):
        shapes |= read_shapes(path)
    return shapes


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read the shapes of a safetensors file's tensors from its header.

    Raises:
        ValueError: If it is no safetensors file, or shorter than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        text = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        end = _LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {name: entry["shape"] for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path.parent.name}/{path.name} cannot be read (no safetensors header): copy it again"
        ) from None
    if size < end:
        raise ValueError(
            f"{path.parent.name}/{path.name} cannot be read ({size:,} of {end:,} bytes are there): copy it again"
        )
    return shapes


def _check_pointers(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".model"):
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise ValueError(
                        f"{folder.name}/{path.name} is a Git-LFS pointer and not the file itself: fetch it with "
                        "git lfs pull, or download it from the hub"
                    )
