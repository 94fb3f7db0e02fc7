"""Training computes what scoring computes, whatever attention a base has."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.models.files import resolve_model
from cluster.training.train import TrainerSettings, train
from relevance.engines.interface import TokenBatch
from relevance.engines.label_model import load_tokenizer
from relevance.engines.loading import load_engine
from relevance.engines.settings import EngineSettings
from relevance.finetuning.finetune import GroupedExamples
from relevance.prompting.prompts import PromptEncoder, load_prompt_settings, query_texts
from relevance.training.loop import TrainingSettings, TrainingTask, train_worker
from relevance.weights.adapters import LoraSettings
from tests.builders.tiny_models import save_tiny_model

PRODUCTS = ["\n\nProduct: rustic wooden wall clock", "\n\nProduct: blue steel bottle with straw"]
QUERIES = ["red clock", "steel bottle", "garden hose"]
MIXED = ["sliding_attention", "full_attention"]
GIVEN = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GIVEN |= {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def save_base(folder: Path, family: str, extra: dict[str, object]) -> int:
    """Write a tiny model of a family beside a tokeniser; returns the size of the vocabulary."""
    save_tiny_model(folder, weights=False)
    size = len(load_tokenizer(folder).backend_tokenizer.get_vocab())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=size, **(GIVEN | extra)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return size


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "extra", "is_packed"),
    [
        ("qwen3", {"head_dim": 16}, True),
        ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, True),
        ("mistral", {"sliding_window": 40}, False),
        ("gemma3_text", {"sliding_window": 8, "layer_types": MIXED, "head_dim": 16}, False),
        ("gpt_oss", {"sliding_window": 8, "layer_types": MIXED, "head_dim": 16, "num_local_experts": 4}, False),
        ("bloom", {"n_layer": 2, "n_head": 2}, False),
        ("falcon", {"alibi": True}, False),
        ("gpt_neo", {"num_layers": 2, "num_heads": 2, "attention_types": [[["local"], 2]], "window_size": 40}, False),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, False),
    ],
)
def test_the_loss_of_a_first_step_is_that_of_what_scoring_says(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    family: str,
    extra: dict[str, object],
    is_packed: bool,
    gradient_checkpointing: bool,
) -> None:
    base = tmp_path / family
    save_base(base, family, extra)
    encoder = PromptEncoder(load_tokenizer(base), load_prompt_settings(base))
    products, queries = np.repeat(PRODUCTS, len(QUERIES)).tolist(), QUERIES * len(PRODUCTS)
    targets = np.eye(4, dtype=np.float32)[[0, 3, 1, 2, 0, 3]]
    settings = TrainingSettings(bf16=False, mass_weight=0, gradient_checkpointing=gradient_checkpointing)
    source, lora = GroupedExamples(products, queries, targets), LoraSettings(rank=2)
    task = TrainingTask(resolve_model(str(base)), str(tmp_path), encoder.prompt, source, 1, settings, lora)
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    with caplog.at_level(logging.WARNING):
        loss = train(train_worker, {"task": task}, trainer, name="one").returned["losses"][0]

    batch = TokenBatch(
        encoder.guidelines_ids,
        encoder.encode_products(PRODUCTS),
        encoder.encode_queries(query_texts(pa.array(QUERIES)).to_pylist()),
        np.repeat(np.arange(2, dtype=np.int32), 3),
        np.tile(np.arange(3, dtype=np.int32), 2),
    )
    on_cpu = EngineSettings(device="cpu", num_threads=1)
    said = load_engine(base, adapter_dir=None, label_ids=encoder.label_ids, settings=on_cpu).label_logprobs(batch)
    assert np.ptp(np.exp(said.logprobs), axis=0).max() > 0.002, "a model that answers everything alike proves nothing"
    assert loss == pytest.approx(-(said.logprobs * targets).sum() / len(targets), abs=1e-5)
    assert ("each prompt is computed whole" in caplog.text) == (not is_packed)


def test_a_base_whose_output_cannot_be_repeated_is_refused_by_name(tmp_path: Path) -> None:
    base = tmp_path / "odd"
    save_base(base, "modernbert-decoder", {"local_attention": 8})
    encoder = PromptEncoder(load_tokenizer(base), load_prompt_settings(base))
    source = GroupedExamples(PRODUCTS, QUERIES[:2], np.eye(4)[:2])
    task = TrainingTask(
        resolve_model(str(base)), str(tmp_path), encoder.prompt, source, 1, TrainingSettings(), LoraSettings()
    )
    trainer = TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints"))
    with pytest.raises(ValueError, match="model odd: architecture modernbert-decoder cannot be trained on labels here"):
        train(train_worker, {"task": task}, trainer, name="one")
