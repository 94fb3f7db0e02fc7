"""Text encoders as people keep them: transformers' own folders, and those of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoModel,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)

from cluster.models.whole_weights import load_whole

_MODULES = "modules.json"
"""What sentence-transformers runs one after another, each in a folder of its own."""


def encoder_folder(folder: Path) -> Path:
    """Give the folder in which the encoder itself lies: sentence-transformers may keep it in one below."""
    first = next((path for kind, path in _modules(folder) if kind == "Transformer"), folder)
    return first if (first / "config.json").is_file() else folder


def require_mean(folder: Path, name: str) -> None:
    """Refuse an encoder whose sentence vectors are said to be another thing than the mean over its tokens.

    Raises:
        ValueError: If its modules.json says so.
    """
    for kind, path in _modules(folder):
        file = path / "config.json"
        pooling = json.loads(file.read_text("utf-8")) if kind == "Pooling" and file.is_file() else {}
        others = [mode for mode, used in pooling.items() if mode.startswith("pooling_mode_") and used is True]
        if pooling.get("pooling_mode", "mean") not in ("mean", ["mean"]):
            others.append(f"pooling_mode={pooling['pooling_mode']}")
        others = [mode for mode in others if mode != "pooling_mode_mean_tokens"]
        if kind not in ("Transformer", "Pooling", "Normalize", "Dropout"):
            others.append(kind)
        if others:
            raise ValueError(
                f"encoder {name}: its sentence vectors are made by {others[0]}, and here they are the mean over its "
                "tokens, which it was not trained for: choose one with mean pooling alone, such as multilingual-e5"
            )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    file = folder / _MODULES
    if not file.is_file():
        return []
    try:
        return [(one["type"].rpartition(".")[2], folder / one["path"]) for one in json.loads(file.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"model {folder.name}: its {_MODULES} is not as written by sentence-transformers") from None


def load_text_encoder(folder: Path, config: PretrainedConfig, **how: Any) -> PreTrainedModel:
    """Load an encoder in 32 bits, in evaluation mode; heads that were trained on it are left out.

    Args:
        folder: As `encoder_folder` gives it.
        config: As `read_config` gives it.
        how: Further arguments of `from_pretrained`.

    Raises:
        ValueError: If it is of a class that has no encoder of its own, or its safetensors lack a weight or hold one
            that the encoder would leave out.
    """
    return load_whole(
        encoder_class(config),
        folder,
        config=config,
        remedy="correct num_hidden_layers and sizes in config.json, merge adapters, unwrap the model (FSDP, "
        "torch.compile), and save the encoder again with save_pretrained",
        spared=("pooler.",),  # nobody reads it, and many checkpoints have none
        dtype=torch.float32,
        **how,
    )


def encoder_class(config: PretrainedConfig) -> type[AutoModel | AutoModelForTextEncoding]:
    """Say how transformers makes the encoder alone.

    Raises:
        ValueError: If its class has none.
    """
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:  # of T5's kind the encoder alone
        return AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise ValueError(f"encoder: {config.model_type} has a decoder that cannot be left out; choose an encoder")
    return AutoModel
