"""From a trained model folder to the one that ships: weights rounded to 8 bits, tokeniser and prompt beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from relevance.checkpoint import save_checkpoint
from relevance.model_loading import load_model
from relevance.prompts import PROMPT_FILE

_COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", PROMPT_FILE)


def quantize_folder(model_dir: Path, output_dir: Path, *, unquantized: str | None = None) -> int:
    """Write a W8A8 INT8 copy of a model folder in the compressed-tensors layout; returns its size in bytes.

    Linear weights become int8 with a scale per output; activations are rounded per token when the model runs.
    Embeddings, norms and the layers that `unquantized` finds (see `load_model`) are kept in half precision, the
    scales in single.
    """
    model = load_model(
        model_dir, device=torch.device("cpu"), dtype=torch.float32, quantization="int8", unquantized=unquantized
    )
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    model.config.dtype = torch.float16
    output_dir.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, output_dir)
    for name in _COMPANIONS:
        if (model_dir / name).exists():
            shutil.copyfile(model_dir / name, output_dir / name)
    return sum(path.stat().st_size for path in output_dir.iterdir())
