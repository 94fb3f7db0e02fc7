"""Pairs per second of the engines against one `generate` per pair, on the CPU, with a random 30M Llama.

    python -m tests.benchmarks.relevance [--threads 2] [--rounds 5] [--tiny]

Every contender has the same threads and scores the same pairs. The contenders take turns: a round
measures each once, on products that none has seen, and a ratio is the median of the rounds' ratios, so
a neighbour's load that lasts longer than a round falls on all alike. A table goes to standard error; the
last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from relevance.engines.interface import Engine, LabelScores, TokenBatch
from relevance.engines.loading import load_engine
from relevance.engines.prefix_rows import write_prompt
from relevance.engines.settings import EngineSettings, VllmSettings
from tests.measures.engine_reference import even_batch, minimum_tokens

GUIDELINES, PRODUCT, QUERY, PAIRS_PER_PRODUCT = 200, 100, 8, 10
LABEL_IDS = (5, 17, 99, 300)
VOCABULARY = 8192
PADDED_BATCH = 16
PRODUCTS = {"loop": 1, "batched": 4, "engine_fp32": 24, "engine_int8": 24, "vllm_cpu": 24}
"""Products per round: enough for a second or more of each contender."""

Contender = Callable[[TokenBatch], np.ndarray]
"""Probabilities (n, 4) among the labels."""

_vllm_engine: Engine | None = None


def make_batch(products: int, seed: int) -> TokenBatch:
    """Draw products and queries that no other seed draws; the guidelines are always the same."""
    return even_batch(
        products * PAIRS_PER_PRODUCT,
        pairs_per_product=PAIRS_PER_PRODUCT,
        lengths=(GUIDELINES, PRODUCT, QUERY),
        vocabulary=VOCABULARY,
        seed=seed,
    )


def save_model(folder: Path, *, tiny: bool) -> None:
    """Write a random Llama of 29.9 million parameters, or one of a few thousand."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    if tiny:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def generate_loop(model: PreTrainedModel) -> Contender:
    """One `generate(max_new_tokens=1)` per pair, as in the case study."""

    def score(batch: TokenBatch) -> np.ndarray:
        rows = []
        for pair in range(len(batch)):
            prompt = torch.tensor([write_prompt(batch, pair)])
            answer = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=1,
                do_sample=False,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_logits=True,
            )
            rows.append(answer.logits[0][0, list(LABEL_IDS)].softmax(-1))
        return torch.stack(rows).numpy()

    return score


def padded_batches(model: PreTrainedModel) -> Contender:
    """Whole prompts in batches of 16; here all have one length, so nothing is lost to padding."""

    def score(batch: TokenBatch) -> np.ndarray:
        rows = []
        for start in range(0, len(batch), PADDED_BATCH):
            stop = min(start + PADDED_BATCH, len(batch))
            prompts = torch.tensor([write_prompt(batch, pair) for pair in range(start, stop)])
            with torch.inference_mode():
                logits = model(prompts, logits_to_keep=1, use_cache=False).logits[:, -1]
            rows.append(logits[:, list(LABEL_IDS)].softmax(-1))
        return torch.cat(rows).numpy()

    return score


def engine(model_dir: Path, settings: EngineSettings, usage: list[LabelScores]) -> Contender:
    """One of the project's engines; what it counted is appended to `usage`."""
    loaded = load_engine(model_dir, adapter_dir=None, label_ids=LABEL_IDS, settings=settings)

    def score(batch: TokenBatch) -> np.ndarray:
        usage.append(loaded.label_logprobs(batch))
        return np.exp(usage[-1].logprobs)

    return score


def vllm_in_a_process(model_dir: Path, settings: EngineSettings, pool: ProcessPoolExecutor) -> Contender:
    """VLLM in its own process, where it binds threads for good; the arrays that cross are small."""
    pool.submit(_start_vllm, model_dir, settings).result()
    return lambda batch: pool.submit(_score_vllm, batch).result()


def _start_vllm(model_dir: Path, settings: EngineSettings) -> None:
    global _vllm_engine
    _vllm_engine = load_engine(model_dir, adapter_dir=None, label_ids=LABEL_IDS, settings=settings)


def _score_vllm(batch: TokenBatch) -> np.ndarray:
    assert _vllm_engine is not None
    return np.exp(_vllm_engine.label_logprobs(batch).logprobs)


def measure(contenders: dict[str, Contender], rounds: int, *, tiny: bool) -> dict[str, list[float]]:
    """Let the contenders take turns; pairs per second of each, by round."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, score in contenders.items():
            batch = make_batch(1 if tiny or not number else PRODUCTS[name], seed=1000 * (number + 1))
            started = time.perf_counter()
            score(batch)
            if number:  # the first round warms up
                speeds[name].append(len(batch) / (time.perf_counter() - started))
        if number:
            latest = ", ".join(f"{name} {speed[-1]:.1f}" for name, speed in speeds.items())
            print(f"round {number} of {rounds}, load {os.getloadavg()[0]:.1f}, pairs/s: {latest}", file=sys.stderr)
    return speeds


def compare(contenders: dict[str, Contender], products: int) -> dict[str, float | None]:
    """How far the contenders' probabilities are apart on the same pairs."""
    batch = make_batch(products, seed=1)
    found = {name: score(batch) for name, score in contenders.items() if name != "loop"}
    exact = found["batched"]

    def largest(name: str) -> float | None:
        return float(np.abs(found[name] - exact).max()) if name in found else None

    changed = (found["engine_int8"].argmax(1) != exact.argmax(1)).mean()
    return {
        "max_dp_fp32": largest("engine_fp32"),
        "max_dp_int8": largest("engine_int8"),
        "max_dp_vllm_cpu": largest("vllm_cpu"),
        "int8_labels_changed_fraction": float(changed),
    }


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build the contenders, measure them, and gather the figures."""
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the process of vLLM
    save_model(folder, tiny=arguments.tiny)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base = EngineSettings(device="cpu", num_threads=arguments.threads, vllm=VllmSettings(max_model_len=512))
    usage: list[LabelScores] = []
    contenders = {
        "loop": generate_loop(model),
        "batched": padded_batches(model),
        "engine_fp32": engine(folder, base, usage),
        "engine_int8": engine(folder, base.model_copy(update={"quantization": "int8"}), []),
    }
    batch = make_batch(4 if arguments.tiny else 24, seed=2)
    contenders["engine_fp32"](batch)
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        if importlib.util.find_spec("vllm") and not arguments.without_vllm:
            settings = base.model_copy(update={"engine": "vllm"})
            contenders["vllm_cpu"] = vllm_in_a_process(folder, settings, pool)
        figures = compare(contenders, 1 if arguments.tiny else 20)
        speeds = measure(contenders, arguments.rounds, tiny=arguments.tiny)
    figures["computed_tokens_over_minimum"] = usage[0].computed_tokens / minimum_tokens(batch)
    return summarise(speeds) | figures | {"threads": arguments.threads, "rounds": arguments.rounds}


def summarise(speeds: dict[str, list[float]]) -> dict[str, float | None]:
    """Medians over the rounds, and the medians of each round's ratio to its own loop."""

    def ratio(name: str) -> float | None:
        pairs = zip(speeds.get(name, []), speeds["loop"], strict=False)
        ratios = [speed / loop for speed, loop in pairs]
        return statistics.median(ratios) if ratios else None

    figures: dict[str, float | None] = {
        f"{name}_pairs_per_second": statistics.median(speeds[name]) if name in speeds else None for name in PRODUCTS
    }
    ratios = {"ratio_batched": "batched", "ratio_fp32": "engine_fp32", "ratio_int8": "engine_int8"}
    return figures | {key: ratio(name) for key, name in (ratios | {"ratio_vllm_cpu": "vllm_cpu"}).items()}


def print_table(figures: dict[str, Any]) -> None:
    """Write the figures for a reader to standard error."""
    print(
        f"random Llama, guidelines {GUIDELINES}, product {PRODUCT}, query {QUERY} tokens, {PAIRS_PER_PRODUCT} pairs "
        f"per product, {figures['threads']} thread(s), median of {figures['rounds']} rounds, "
        f"load {os.getloadavg()[0]:.1f}",
        file=sys.stderr,
    )
    for name in PRODUCTS:
        speed = figures[f"{name}_pairs_per_second"]
        if speed is not None:
            ratio = figures.get(f"ratio_{name.removeprefix('engine_')}") or 1.0
            print(f"  {name:12} {speed:9.1f} pairs/s {ratio:7.1f} x the loop", file=sys.stderr)
    for name in ("max_dp_fp32", "max_dp_int8", "max_dp_vllm_cpu", "int8_labels_changed_fraction"):
        if figures[name] is not None:
            print(f"  {name:30} {figures[name]:.2g}", file=sys.stderr)
    print(f"  computed tokens over minimum   {figures['computed_tokens_over_minimum']:.3f}", file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters: does it run?")
    parser.add_argument("--without-vllm", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        figures = run(parser.parse_args(), Path(folder))
    print_table(figures)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
