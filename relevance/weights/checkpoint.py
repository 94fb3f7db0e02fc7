"""A loaded model written as a folder: plain, or quantised in the compressed-tensors layout.

vLLM and this project's own loader both read the quantised layout without rounding again.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from relevance.weights.fp8_linear import Fp8Linear
from relevance.weights.int8_linear import Int8Linear

_KINDS = {Int8Linear: ("int", "int-quantized"), Fp8Linear: ("float", "float-quantized")}


def save_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Write weights as safetensors and config.json; the tokeniser is left to the caller.

    Layers that `load_model` quantised are written as they are: 8-bit weight and `weight_scale` per output.
    """
    model.save_pretrained(folder)
    kinds = {type(layer) for layer in model.modules()} & set(_KINDS)
    if kinds:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["quantization_config"] = _quantization_config(model, *_KINDS[kinds.pop()])
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _quantization_config(model: PreTrainedModel, number_type: str, layout: str) -> dict[str, object]:
    values = {"num_bits": 8, "type": number_type, "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": values | {"strategy": "channel", "dynamic": False},
                "input_activations": values | {"strategy": "token", "dynamic": True},
            }
        },
        # Tied to the embeddings or not, the output layer is not quantised.
        "ignore": [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)],
    }
