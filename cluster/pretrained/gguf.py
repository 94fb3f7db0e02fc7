"""A causal language model from a GGUF file, by transformers' own reader."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def convert_gguf(weights: Path, output: Path) -> None:
    """Write the model in bfloat16 with its tokeniser; the four bits that it was packed in are forgotten.

    Raises:
        ValueError: If transformers' reader does not find all of its weights.
    """
    logging.disable_progress_bar()
    read, outcome = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32, output_loading_info=True
    )
    if lacking := [*outcome["missing_keys"], *outcome["mismatched_keys"]]:
        raise ValueError(f"{weights}: its weights lack {lacking[0]}, which would be filled with random numbers")
    # A model read from GGUF counts as quantised and will not be saved: its weights go into one that was not.
    config = AutoConfig.from_pretrained(weights.parent, gguf_file=weights.name)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(output)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(output)
