"""Pairs per second of the engines on one GPU, with random weights in the shape of an 8B Llama.

    python -m tests.benchmarks.relevance_gpu [--engines bf16,fp8,int8,vllm_bf16,vllm_fp8] [--tiny]

Needs torch, transformers and peft; vLLM is measured where it can be imported. `--tiny` runs the same
steps on a CPU with a small model. A table goes to standard error as it grows; the last line of standard
output is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from relevance.engine import TokenBatch
from relevance.engine_loading import load_engine
from relevance.engine_settings import EngineSettings, VllmSettings
from relevance.prefix_rows import write_prompt
from tests.engine_reference import minimum_tokens

GUIDELINES, PRODUCT, QUERY = 384, 250, 20
PAIRS_PER_PRODUCT = (10, 50)
FORWARD_TOKENS = (8192, 16384, 32768)
LABEL_IDS = (5, 17, 99, 300)
ENGINES = {
    "bf16": {"quantization": "none"},
    "int8": {"quantization": "int8"},
    "fp8": {"quantization": "fp8"},
    "vllm_bf16": {"engine": "vllm", "quantization": "none"},
    "vllm_fp8": {"engine": "vllm", "quantization": "fp8"},
}


def make_batch(pairs: int, pairs_per_product: int, vocabulary: int, seed: int) -> TokenBatch:
    """Draw a batch in the lengths of a production prompt; guidelines are the same for every seed."""
    random = np.random.default_rng(seed)
    order = np.arange(pairs, dtype=np.int32)
    products = -(-pairs // pairs_per_product)
    return TokenBatch(
        guidelines=np.random.default_rng(0).integers(3, vocabulary, size=GUIDELINES).tolist(),
        products=random.integers(3, vocabulary, size=(products, PRODUCT)).tolist(),
        queries=random.integers(3, vocabulary, size=(pairs, QUERY)).tolist(),
        product_of_pair=order // pairs_per_product,
        query_of_pair=order,
    )


def save_model(folder: Path, *, tiny: bool) -> LlamaConfig:
    """Write random weights in the shape of Llama-3.1-8B, or of something a laptop runs."""
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}
    if tiny:
        sizes |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "vocab_size": 512}
    config = LlamaConfig(**sizes)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return config


def matrix_parameters(config: LlamaConfig) -> int:
    """Weights that every computed token is multiplied with."""
    hidden, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    attention = 2 * hidden * hidden + 2 * hidden * head * config.num_key_value_heads
    return config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)


def reference_probabilities(folder: Path, batch: TokenBatch) -> np.ndarray:
    """Whole prompts through a plain model, (n, 4)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    rows = []
    for pair in range(len(batch)):
        with torch.inference_mode():
            logits = model(torch.tensor([write_prompt(batch, pair)], device=device), logits_to_keep=1).logits[0, -1]
        rows.append(logits[list(LABEL_IDS)].float().softmax(-1).cpu())
    return torch.stack(rows).numpy()


def measure(folder: Path, config: LlamaConfig, name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Load one engine and time it on each shape; forward sizes are tried where the engine has them."""
    base = EngineSettings(**ENGINES[name], vllm=VllmSettings(max_model_len=2048, gpu_memory_utilization=0.85))
    sizes = (None,) if base.engine == "vllm" else FORWARD_TOKENS
    results = []
    for size in sizes[: 1 if arguments.tiny else None]:
        started = time.perf_counter()
        settings = base.model_copy(update={"max_forward_tokens": size})
        engine = load_engine(folder, adapter_dir=None, label_ids=LABEL_IDS, settings=settings)
        load_seconds = time.perf_counter() - started
        probe = make_batch(20, 10, config.vocab_size, seed=1)
        difference = np.abs(np.exp(engine.label_logprobs(probe).logprobs) - arguments.reference).max()
        for pairs_per_product in PAIRS_PER_PRODUCT:
            engine.label_logprobs(make_batch(2 * pairs_per_product, pairs_per_product, config.vocab_size, seed=2))
            batch = make_batch(arguments.pairs, pairs_per_product, config.vocab_size, seed=3)
            started = time.perf_counter()
            scores = engine.label_logprobs(batch)
            seconds = time.perf_counter() - started
            results.append(
                {
                    "engine": name,
                    "max_forward_tokens": size,
                    "pairs_per_product": pairs_per_product,
                    "pairs_per_second": len(batch) / seconds,
                    "tflops": 2e-12 * matrix_parameters(config) * scores.computed_tokens / seconds,
                    "computed_tokens_over_minimum": scores.computed_tokens / (minimum_tokens(batch) - GUIDELINES),
                    "max_dp_to_unshared_bf16": float(difference),
                    "load_seconds": load_seconds,
                }
            )
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
        del engine
        gc.collect()
        torch.cuda.empty_cache()
    return results


def main() -> None:
    """Measure what can run here, one engine after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="bf16,fp8,int8,vllm_bf16,vllm_fp8")
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    names = arguments.engines.split(",")
    if not importlib.util.find_spec("vllm"):
        names = [name for name in names if not name.startswith("vllm")]
    with tempfile.TemporaryDirectory() as folder:
        config = save_model(Path(folder), tiny=arguments.tiny)
        arguments.reference = reference_probabilities(Path(folder), make_batch(20, 10, config.vocab_size, seed=1))
        gc.collect()
        torch.cuda.empty_cache()
        results = [result for name in names for result in measure(Path(folder), config, name, arguments)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(json.dumps({"device": device, "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
