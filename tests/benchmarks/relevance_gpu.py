"""Pairs per second of the engines on one GPU, with random weights in the shape of an 8B Llama.

    python -m tests.benchmarks.relevance_gpu [--engines bf16,fp8,int8,vllm_bf16,vllm_fp8] [--tiny]
    TMPDIR=/dev/shm python -m tests.benchmarks.relevance_gpu --engines bf16,fp8,int8 --forward-tokens 16384
    python -m tests.benchmarks.relevance_gpu --folder /dev/shm/model --engines vllm_fp8 --query-first

Needs torch, transformers and peft, 16 GB in the folder for temporary files, and about 40 GB of the GPU; vLLM needs
to be installed. `--tiny` runs the same steps on a CPU with a small model. Results go to standard
error as they come; the last line of standard output is one JSON object, which names what failed and why.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from relevance.engines.interface import TokenBatch
from relevance.engines.loading import load_engine
from relevance.engines.prefix_rows import write_prompt
from relevance.engines.settings import EngineSettings, VllmSettings
from tests.measures.engine_reference import even_batch, minimum_tokens

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
    "vllm_fp8_defaults": {"engine": "vllm", "quantization": "fp8"},
    "vllm_bf16_defaults": {"engine": "vllm", "quantization": "none"},
}
VLLM_DEFAULTS = {"max_num_batched_tokens": None, "max_num_seqs": None}
"""vLLM's own choice of what the project sets."""
REFERENCE = "reference.npy"


def make_batch(
    pairs: int, pairs_per_product: int, vocabulary: int, seed: int, *, query_first: bool = False
) -> TokenBatch:
    """Draw a batch in the lengths of a production prompt.

    With `query_first` the query comes before the product and is what pairs share: the other way to write the prompt.
    """
    lengths = (GUIDELINES, QUERY, PRODUCT) if query_first else (GUIDELINES, PRODUCT, QUERY)
    return even_batch(pairs, pairs_per_product=pairs_per_product, lengths=lengths, vocabulary=vocabulary, seed=seed)


def new_model(*, tiny: bool) -> LlamaForCausalLM:
    """Draw random weights in the shape of Llama-3.1-8B, or of something a laptop runs."""
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}
    if tiny:
        sizes |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
        sizes |= {"num_key_value_heads": 2, "vocab_size": 512}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM._from_config(LlamaConfig(**sizes), dtype=torch.bfloat16).eval()


def matrix_parameters(config: LlamaConfig) -> int:
    """Weights that every computed token is multiplied with."""
    hidden, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    attention = 2 * hidden * hidden + 2 * hidden * head * config.num_key_value_heads
    return config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)


def least_bytes(config: LlamaConfig, tokens: int, forward_tokens: int, *, weight_bytes: int) -> float:
    """Bytes that have to move for so many tokens: weights once a forward, what goes in and out of each product.

    Attention, norms and roundings come on top. Activations count as 16 bits.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = hidden // config.num_attention_heads * config.num_key_value_heads
    per_token = (hidden + hidden + 2 * keys) + 2 * hidden + (hidden + 2 * inner) + (inner + hidden)
    forwards = -(-tokens // forward_tokens)
    return forwards * matrix_parameters(config) * weight_bytes + 2.0 * config.num_hidden_layers * per_token * tokens


def reference_probabilities(model: LlamaForCausalLM, batch: TokenBatch) -> np.ndarray:
    """Whole prompts through the plain model, (n, 4)."""
    rows = []
    for pair in range(len(batch)):
        prompt = torch.tensor([write_prompt(batch, pair)], device=model.device)
        with torch.inference_mode():
            logits = model(prompt, logits_to_keep=1).logits[0, -1]
        rows.append(logits[list(LABEL_IDS)].float().softmax(-1).cpu())
    return torch.stack(rows).numpy()


def measure(
    folder: Path, config: LlamaConfig, name: str, size: int | None, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Load one engine with one forward size and time it on each shape."""
    settings = EngineSettings(
        **ENGINES[name],
        max_forward_tokens=size,
        vllm=VllmSettings(
            max_model_len=2048,
            gpu_memory_utilization=0.85,
            **(VLLM_DEFAULTS if name.endswith("_defaults") else {}),
        ),
    )
    started = time.perf_counter()
    engine = load_engine(folder, adapter_dir=None, label_ids=LABEL_IDS, settings=settings)
    load_seconds = time.perf_counter() - started
    difference = np.abs(np.exp(engine.label_logprobs(probe_batch(config)).logprobs) - arguments.reference).max()
    first = {"query_first": arguments.query_first}
    # What vLLM itself would choose is not asked of it: a step of its defaults counts like one of the project's.
    step_tokens = size or settings.vllm.max_num_batched_tokens or VllmSettings().max_num_batched_tokens
    for pairs_per_product in arguments.pairs_per_product:
        warm_up = max(2 * pairs_per_product, arguments.pairs // 5)
        engine.label_logprobs(make_batch(warm_up, pairs_per_product, config.vocab_size, seed=2, **first))
        batch = make_batch(arguments.pairs, pairs_per_product, config.vocab_size, seed=3, **first)
        started = time.perf_counter()
        scores = engine.label_logprobs(batch)
        seconds = time.perf_counter() - started
        yield {
            "engine": name,
            "max_forward_tokens": size,
            "pairs_per_product": pairs_per_product,
            **first,
            "pairs_per_second": len(batch) / seconds,
            "tflops": 2e-12 * matrix_parameters(config) * scores.computed_tokens / seconds,
            "least_gb_per_second": 1e-9
            * least_bytes(
                config, scores.computed_tokens, step_tokens, weight_bytes=2 if settings.quantization == "none" else 1
            )
            / seconds,
            "computed_tokens_over_minimum": scores.computed_tokens / (minimum_tokens(batch) - GUIDELINES),
            "max_dp_to_unshared_bf16": float(difference),
            "load_seconds": load_seconds,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        }


def write_model(folder: Path, *, tiny: bool) -> None:
    """Draw the model into a folder, with the plain model's answers, if it is not there from a call before."""
    if (folder / REFERENCE).exists():
        return
    started = time.perf_counter()
    model = new_model(tiny=tiny)
    reference = reference_probabilities(model, probe_batch(model.config))
    model.save_pretrained(folder)
    np.save(folder / REFERENCE, reference)
    print(f"model written after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def probe_batch(config: LlamaConfig) -> TokenBatch:
    """The pairs on which engines and plain model are compared."""
    return make_batch(20, 10, config.vocab_size, seed=1)


def measure_all(folder: Path, config: LlamaConfig, names: list[str], arguments: argparse.Namespace) -> list[dict]:
    """Measure one engine after the other; forward sizes are tried where the engine has them."""
    results: list[dict[str, Any]] = []
    for name in names:
        sizes = [None] if ENGINES[name].get("engine") == "vllm" else arguments.forward_tokens
        for size in sizes[: 1 if arguments.tiny else None]:
            free_memory()
            try:
                for result in measure(folder, config, name, size, arguments):
                    report(result, results)
            except Exception as error:  # the other engines' figures must not be lost with this one
                reason = f"{type(error).__name__}: {error}"[:2000]
                report({"engine": name, "max_forward_tokens": size, "error": reason}, results)
    return results


def report(result: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Keep a result and show it at once."""
    results.append(result)
    print(json.dumps(result), file=sys.stderr, flush=True)


def free_memory() -> None:
    """Give the last model's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """Measure what can run here, one engine after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="bf16,fp8,int8,vllm_bf16,vllm_fp8")
    parser.add_argument("--forward-tokens", default=FORWARD_TOKENS, type=lambda text: [*map(int, text.split(","))])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument(
        "--pairs-per-product", default=PAIRS_PER_PRODUCT, type=lambda text: [*map(int, text.split(","))]
    )
    parser.add_argument("--query-first", action="store_true")
    parser.add_argument("--folder", help="where the model is kept for the next call; default: nowhere")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in arguments.engines.split(",") if name]
    with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder, tiny=arguments.tiny)
        config = LlamaConfig.from_pretrained(folder)
        arguments.reference = np.load(folder / REFERENCE)
        results = measure_all(folder, config, names, arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(json.dumps({"device": device, "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
