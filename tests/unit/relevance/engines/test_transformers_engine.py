from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.loading import load_engine
from relevance.engines.settings import EngineSettings
from tests.builders.tiny_models import save_tiny_model
from tests.measures.engine_reference import LABEL_IDS, minimum_tokens, random_batch, reference_scores

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")
CPU = EngineSettings(device="cpu", num_threads=1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engine-models")
    return {family: save_tiny_model(folder / family, family=family) for family in FAMILIES}


def score(
    model_dir: Path, batch: TokenBatch, settings: EngineSettings = CPU, adapter_dir: Path | None = None
) -> LabelScores:
    engine = load_engine(model_dir, adapter_dir=adapter_dir, label_ids=LABEL_IDS, settings=settings)
    return engine.label_logprobs(batch)


def probabilities(scores: LabelScores) -> np.ndarray:
    return np.exp(scores.logprobs)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_give_the_unshared_probabilities_and_mass(models: dict[str, Path], family: str) -> None:
    batch = random_batch()
    scores = score(models[family], batch)
    expected, mass = reference_scores(models[family], batch)
    assert np.ptp(expected, axis=0).max() > 0.2, "a model that answers everything alike proves nothing"
    assert np.abs(probabilities(scores) - expected).max() <= 1e-4
    assert np.abs(scores.label_mass - mass).max() <= 1e-5
    assert scores.computed_tokens < 0.25 * scores.prompt_tokens


def test_computed_tokens_stay_within_five_percent_of_the_minimum(models: dict[str, Path]) -> None:
    batch = random_batch(products=60, pairs=600, longest=60)
    engine = load_engine(models["llama"], adapter_dir=None, label_ids=LABEL_IDS, settings=CPU)
    first, again = engine.label_logprobs(batch), engine.label_logprobs(batch)
    assert first.computed_tokens <= 1.05 * minimum_tokens(batch)
    assert first.computed_tokens - again.computed_tokens == len(batch.guidelines), "kept for the engine's life"


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_pair_scores_the_same_whatever_batch_it_sits_in(models: dict[str, Path], quantization: str) -> None:
    batch = random_batch()
    settings = CPU.model_copy(update={"quantization": quantization})
    engine = load_engine(models["llama"], adapter_dir=None, label_ids=LABEL_IDS, settings=settings)
    together = probabilities(engine.label_logprobs(batch))
    for pair in (0, 7, 31, 59):
        alone = replace(
            batch,
            product_of_pair=batch.product_of_pair[pair : pair + 1],
            query_of_pair=batch.query_of_pair[pair : pair + 1],
        )
        assert np.abs(probabilities(engine.label_logprobs(alone)) - together[pair]).max() <= 1e-4


def test_a_product_with_very_many_queries_is_cut_without_computing_it_again(models: dict[str, Path]) -> None:
    batch = random_batch(products=2, pairs=400)
    settings = CPU.model_copy(update={"max_forward_tokens": 256})
    scores = score(models["qwen3"], batch, settings)
    expected, _ = reference_scores(models["qwen3"], batch)
    assert np.abs(probabilities(scores) - expected).max() <= 1e-4
    assert scores.computed_tokens <= 1.05 * minimum_tokens(batch)


def test_new_guidelines_take_the_place_of_the_old(models: dict[str, Path]) -> None:
    engine = load_engine(models["llama"], adapter_dir=None, label_ids=LABEL_IDS, settings=CPU)
    for seed in (0, 1):
        batch = random_batch(pairs=5, guidelines=11, seed=seed)
        expected, _ = reference_scores(models["llama"], batch)
        assert np.abs(probabilities(engine.label_logprobs(batch)) - expected).max() <= 1e-4


def test_no_guidelines_and_no_pairs_are_fine(models: dict[str, Path]) -> None:
    batch = replace(random_batch(pairs=5), guidelines=[])
    expected, _ = reference_scores(models["llama"], batch)
    assert np.abs(probabilities(score(models["llama"], batch)) - expected).max() <= 1e-4
    none = np.empty(0, np.int32)
    scores = score(models["llama"], replace(batch, product_of_pair=none, query_of_pair=none))
    assert scores.logprobs.shape == (0, 4)
    assert (scores.label_mass.shape, scores.prompt_tokens, scores.computed_tokens) == ((0,), 0, 0)


def test_without_label_mass_the_labels_are_the_same_and_there_is_no_mass(models: dict[str, Path]) -> None:
    batch = random_batch(pairs=10)
    scores = score(models["llama"], batch, CPU.model_copy(update={"label_mass": False}))
    assert np.array_equal(scores.logprobs, score(models["llama"], batch).logprobs)
    assert scores.label_mass is None


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("granite", {"logits_scaling": 4.0}),
        ("gemma2", {"final_logit_softcapping": 2.0, "sliding_window": 30}),
        ("mistral", {"sliding_window": 8}),
        ("bloom", {"n_layer": 2, "n_head": 2}),
    ],
)
def test_other_architectures_score_right_with_or_without_sharing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, extra: dict[str, object]
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=256, **(sizes | extra))
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(tmp_path)
    batch = random_batch(pairs=20)
    with caplog.at_level(logging.WARNING):
        scores = score(tmp_path, batch)
    expected, mass = reference_scores(tmp_path, batch)
    assert np.abs(probabilities(scores) - expected).max() <= 1e-4
    assert np.abs(scores.label_mass - mass).max() <= 1e-5
    assert ("does not share prefixes" in caplog.text) == (family in {"mistral", "bloom"})
    assert scores.shared_prefix == (family not in {"mistral", "bloom", "gemma2"}), "figures say it, not a log alone"
    assert ("pass the attention window of 30" in caplog.text) == (family == "gemma2")


def save_random_model(folder: Path, family: str, **extra: object) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=256, **(sizes | extra)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2}),
        ("gpt_neo", {"num_layers": 2, "num_heads": 2, "attention_types": [[["local"], 2]], "window_size": 30}),
    ],
)
def test_rounding_hides_no_attention_that_cannot_be_shared(tmp_path: Path, family: str, extra: dict) -> None:
    save_random_model(tmp_path, family, **extra)
    for quantization in ("none", "int8"):
        scores = score(tmp_path, random_batch(pairs=10), CPU.model_copy(update={"quantization": quantization}))
        assert not scores.shared_prefix


def test_an_architecture_that_takes_no_8_bit_layers_is_refused_by_name(tmp_path: Path) -> None:
    save_random_model(tmp_path, "mamba", state_size=4)
    with pytest.raises(ValueError, match=r"architecture mamba does not run .*: set engine.quantization=none"):
        score(tmp_path, random_batch(), CPU.model_copy(update={"quantization": "int8"}))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_routers_stay_what_they_are(tmp_path: Path, quantization: str) -> None:
    kinds = ["chunked_attention", "full_attention"]
    save_random_model(
        tmp_path, "llama4_text", num_key_value_heads=1, head_dim=16, num_local_experts=4, layer_types=kinds,
        intermediate_size_mlp=64, pad_token_id=0,
    )  # fmt: skip
    batch = random_batch(pairs=5)
    expected, _ = reference_scores(tmp_path, batch)
    scores = score(tmp_path, batch, CPU.model_copy(update={"quantization": quantization}))
    assert np.abs(probabilities(scores) - expected).max() <= (1e-4 if quantization == "none" else 0.01)


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
def test_an_encoder_is_refused_by_name(models: dict[str, Path], tmp_path: Path, family: str) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((models["llama"] / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=f"expected a causal language model, found architecture '{family}'"):
        score(tmp_path, random_batch())


def save_adapter(base_dir: Path, folder: Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


def test_an_adapter_is_merged(models: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(models["llama"], tmp_path / "adapter").save_pretrained(tmp_path / "merged")
    batch = random_batch(pairs=10)
    expected, _ = reference_scores(tmp_path / "merged", batch)
    adapted = score(models["llama"], batch, adapter_dir=tmp_path / "adapter")
    assert np.abs(probabilities(adapted) - expected).max() <= 1e-4
    assert np.abs(probabilities(score(models["llama"], batch)) - expected).max() > 0.05


def test_an_adapter_of_another_base_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(models["llama"], tmp_path)
    with pytest.raises(
        ValueError, match=r"belongs to another base than gpt2: for .* found no such layer: give the base"
    ):
        score(models["gpt2"], random_batch(), adapter_dir=tmp_path)


def test_an_adapter_of_other_shapes_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(models["llama"])
    config.intermediate_size = 96
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    save_adapter(tmp_path / "other", tmp_path / "adapter")
    with pytest.raises(ValueError, match="it expects 96 inputs, found 128"):
        score(models["llama"], random_batch(), adapter_dir=tmp_path / "adapter")


def test_a_pickled_adapter_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(models["llama"], tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"expected adapter_config.json and adapter_model.safetensors, found"):
        score(models["llama"], random_batch(), adapter_dir=tmp_path)


def test_pickled_weights_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((models["llama"] / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"expected \*.safetensors, found pytorch_model.bin: pickled weights can run code"
    ):
        score(tmp_path, random_batch())


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "modeling_strange.StrangeModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        ValueError, match="architecture 'strange' is not part of transformers, and code that comes with"
    ):
        score(tmp_path, random_batch())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a model folder with config.json, found none"):
        score(tmp_path, random_batch())


def test_damaged_weights_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((models["llama"] / "config.json").read_bytes())
    whole = (models["llama"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"safetensors cannot be read .*: copy it again"):
        score(tmp_path, random_batch())


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_needs_a_gpu_says_so(models: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"device cuda: this process sees no GPU: set scoring.device=cpu"):
        score(models["llama"], random_batch(), EngineSettings(device="cuda"))
    with pytest.raises(ValueError, match=r"FP8 needs a GPU of compute capability 8.9 or later, found a CPU"):
        score(models["llama"], random_batch(), EngineSettings(quantization="fp8", device="cpu"))


def test_a_prompt_longer_than_the_model_takes_is_refused(models: dict[str, Path]) -> None:
    batch = random_batch(guidelines=1020)
    with pytest.raises(ValueError, match=r"has a prompt of 10\d\d tokens, the model takes 1024: lower prompt.product_"):
        score(models["gpt2"], batch)
