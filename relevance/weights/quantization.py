"""From a trained model folder to the one that ships: weights rounded to 8 bits, tokeniser and prompt beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import torch

from relevance.prompting.prompts import PROMPT_FILE
from relevance.weights.checkpoint import save_checkpoint
from relevance.weights.loading import convert_linears, load_model
from relevance.weights.origin import TRAINING_FILE

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Those of bases without tokenizer.json too: byte-level BPE in two files, and models of sentencepiece."""
_REST = {"int8": torch.float16, "fp8": torch.bfloat16}
"""What is not rounded to 8 bits: half precision, of the kind that the arithmetic beside it gives."""


def quantize_folder(
    model_dir: Path,
    output_dir: Path,
    *,
    quantization: Literal["int8", "fp8"] = "int8",
    unquantized: str | None = None,
) -> int:
    """Write a W8A8 copy of a model folder in the compressed-tensors layout; returns its size in bytes.

    Linear weights become int8 or e4m3 with a scale per output; activations are rounded per token when the model
    runs. Embeddings and norms are kept in half precision, the scales in single. FP8 is written on any machine.

    Args:
        model_dir: Model that is not quantised.
        output_dir: Where the copy goes.
        quantization: INT8 for CPUs and Ampere, FP8 for Hopper and Ada.
        unquantized: Layers to leave as they are, see `load_model`.
    """
    model = load_model(model_dir, device=torch.device("cpu"), dtype=torch.float32)
    convert_linears(model, quantization, torch.float32, unquantized)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(_REST[quantization])
    model.config.dtype = _REST[quantization]
    output_dir.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, output_dir)
    copy_companions(model_dir, output_dir)
    return sum(path.stat().st_size for path in output_dir.iterdir())


def copy_companions(model_dir: Path, output_dir: Path, *, prompt_from: Path | None = None) -> None:
    """Copy what belongs beside the weights: tokeniser, origin, and the prompt that `prompt_from` or the model has."""
    prompt_dir = prompt_from if prompt_from and (prompt_from / PROMPT_FILE).exists() else model_dir
    for name in (*_TOKENIZER_FILES, TRAINING_FILE, PROMPT_FILE):
        source = (prompt_dir if name == PROMPT_FILE else model_dir) / name
        if source.exists():
            shutil.copyfile(source, output_dir / name)
