"""Adapters of kinds that are not made here, and of models that read more than texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from relevance.weights.adapters import LoraSettings, add_adapter, check_adapter_shape
from relevance.weights.loading import load_model

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "kind",
    [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 2}}],
)
def test_training_does_not_go_on_with_an_adapter_of_another_kind(
    tiny_model: Path, tmp_path: Path, kind: dict[str, object]
) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], **kind)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has {next(iter(kind))}, with which training cannot go on here: merge it"):
        check_adapter_shape(tmp_path, LoraSettings(rank=4, alpha=8))


def test_an_adapter_that_cannot_be_merged_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "biased")
    with pytest.raises(ValueError, match=r"adapter biased cannot be merged into \S+ \(.*base layer has no bias"):
        load_model(tiny_model, adapter_dir=tmp_path / "biased", device=torch.device("cpu"), dtype=torch.float32)


def test_what_reads_images_gets_no_adapter() -> None:
    vision = {**SIZES, "image_size": 28, "patch_size": 14}
    text = {**SIZES, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3", text_config=text, vision_config=vision))
    names = [
        name for name, weight in add_adapter(model, LoraSettings(rank=2)).named_parameters() if weight.requires_grad
    ]
    assert len(names) == 14
    assert all(".language_model." in name for name in names)
