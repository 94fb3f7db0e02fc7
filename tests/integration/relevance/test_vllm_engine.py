"""vLLM for real. Each engine gets a process of its own, as in the job: vLLM binds a process's threads for good."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.loading import load_engine
from relevance.engines.settings import EngineSettings, VllmSettings
from relevance.weights.checkpoint import save_checkpoint
from relevance.weights.loading import load_model
from tests.builders.tiny_models import save_tiny_model
from tests.measures.engine_reference import LABEL_IDS, minimum_tokens, random_batch

VLLM = VllmSettings(max_model_len=512, max_num_batched_tokens=4096)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(600),
]


def score(
    model_dir: Path,
    batches: list[TokenBatch],
    engine: str,
    quantization: str = "auto",
    adapter_dir: Path | None = None,
    dtype: str = "auto",
) -> list[LabelScores]:
    settings = EngineSettings(engine=engine, quantization=quantization, dtype=dtype, num_threads=1, vllm=VLLM)
    loaded = load_engine(model_dir, adapter_dir=adapter_dir, label_ids=LABEL_IDS, settings=settings)
    return [loaded.label_logprobs(batch) for batch in batches]


def score_apart(*arguments: object) -> list[LabelScores]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
        return process.submit(score, *arguments).result()


def difference(one: LabelScores, other: LabelScores) -> float:
    return float(np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).max())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("vllm") / "llama", trained_norms=True)


@pytest.fixture(scope="module")
def batches() -> list[TokenBatch]:
    mixed = random_batch(products=10, pairs=80, guidelines=64, longest=64)
    empty = TokenBatch(mixed.guidelines, [], [], np.empty(0, np.int32), np.empty(0, np.int32))
    return [mixed, empty, random_batch(products=3, pairs=6, guidelines=64, seed=1)]


@pytest.fixture(scope="module")
def vllm_scores(model_dir: Path, batches: list[TokenBatch]) -> Iterator[list[LabelScores]]:
    return score_apart(model_dir, batches, "vllm")


def test_both_engines_agree_on_the_same_weights(
    model_dir: Path, batches: list[TokenBatch], vllm_scores: list[LabelScores]
) -> None:
    expected = score(model_dir, batches, "transformers")
    for batch, one, other in zip(batches, vllm_scores, expected, strict=True):
        assert one.logprobs.shape == (len(batch), 4)
        assert one.prompt_tokens == other.prompt_tokens
        if len(batch):
            assert difference(one, other) <= 0.01
            assert np.abs(one.label_mass - other.label_mass).max() <= 0.01


def test_prefixes_are_served_from_the_cache(batches: list[TokenBatch], vllm_scores: list[LabelScores]) -> None:
    mixed, scores = batches[0], vllm_scores[0]
    assert minimum_tokens(mixed) <= scores.computed_tokens < 0.6 * scores.prompt_tokens


@pytest.mark.parametrize(
    ("dtype", "apart"), [("float32", 0.01), ("bfloat16", 0.1), pytest.param("float16", 0.1, marks=pytest.mark.slow)]
)
def test_both_engines_agree_on_an_int8_checkpoint(
    tmp_path: Path, model_dir: Path, batches: list[TokenBatch], dtype: str, apart: float
) -> None:
    """Half precision sends far more activations to another step of 8 bits; docs/benchmarks.md has figures."""
    model = load_model(model_dir, device=torch.device("cpu"), dtype=torch.float32, quantization="int8")
    save_checkpoint(model, tmp_path)
    one = score_apart(tmp_path, batches[:1], "vllm", "auto", None, dtype)[0]
    assert difference(one, score(tmp_path, batches[:1], "transformers")[0]) <= apart


def test_an_adapter_is_merged_before_vllm_sees_it(tmp_path: Path, model_dir: Path, batches: list[TokenBatch]) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(tmp_path)
    plain = score(model_dir, batches[:1], "transformers")[0]
    expected = score(model_dir, batches[:1], "transformers", "auto", tmp_path)[0]
    adapted = score_apart(model_dir, batches[:1], "vllm", "auto", tmp_path)[0]
    assert difference(plain, expected) > 0.05
    assert difference(adapted, expected) <= 0.01
