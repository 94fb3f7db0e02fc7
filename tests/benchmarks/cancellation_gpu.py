"""What a verdict costs on a GPU: the model that ships, and fusion over an encoder of mmBERT-base's size.

    python -m tests.benchmarks.cancellation_gpu [--rounds 50]

Needs torch and transformers. Milliseconds of a call with events of 128 tokens, median and 99th percentile over rounds,
from arrays to arrays; how far scores in half precision are from the exported network's on a CPU. A table on standard
error, one JSON object as the last line. Without a GPU the same runs on a CPU in float32, one event a call.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cancellation.model.fusion import FusionModel, FusionSettings, load_fusion_model
from cancellation.model.text_encoder import EncoderShape, new_encoder
from cancellation.model.torch_network import TorchNetwork
from cancellation.model.verdict_model import TRAINED_FOLDER, load_verdict_model
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from cluster.statistics.temperature import class_probabilities

SHIPPED = Path(__file__).resolve().parents[2] / "cancellation" / "small_model"
BASE = EncoderShape(hidden_size=768, num_layers=22, num_heads=12, intermediate_size=1152, local_attention=128)
_SIZES = (1, 16, 64, 256)
_TOKENS = 128


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small, tokenizer = load_fusion_model(SHIPPED / TRAINED_FOLDER)
    large = FusionModel(FusionSettings(), small.spec, new_encoder(BASE, tokenizer, max_tokens=_TOKENS))
    results = []
    for name, model in (("shipped", small), ("22 layers x 768, random weights", large)):
        network = TorchNetwork(model, device, torch.float16)
        for size in _SIZES if device.type == "cuda" else _SIZES[:1]:
            rng = np.random.default_rng(size)
            given = (
                rng.integers(30, tokenizer.get_vocab_size(), (size, _TOKENS)),
                rng.normal(size=(size, len(small.spec.features))).astype(np.float32),
                np.ones(size, np.int64),
            )
            seconds = []
            for _ in range(arguments.rounds + 5):
                started = time.perf_counter()
                network(*given)
                seconds.append(time.perf_counter() - started)
            p50, p99 = 1e3 * np.quantile(seconds[5:], (0.5, 0.99))
            row = {"model": name, "events": size, "p50_ms": p50, "p99_ms": p99, "events_per_second": size / p50 * 1e3}
            print(json.dumps(row), file=sys.stderr, flush=True)
            results.append(row)
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    report = {"device": named, "torch": torch.__version__, "results": results, "max_dp_to_export": difference(device)}
    print(json.dumps(report))


def difference(device: torch.device) -> float:
    """Largest difference of a class's probability between the device and the export, over simulated events."""
    exported = load_verdict_model(SHIPPED)
    examples = simulated_examples(SimulationSettings(num_events=500, split="all"), 3, range(500))
    encoded = [exported.encoder.encode(example.event) for example in examples]
    other = load_verdict_model(SHIPPED, device="cuda") if device.type == "cuda" else exported
    logits = (model.score(encoded).logits for model in (exported, other))
    one, two = (class_probabilities(each, 1.0) for each in logits)
    return float(np.abs(one - two).max())


if __name__ == "__main__":
    main()
