"""One replica of a verdict model with an encoder of full size (mmBERT-base's) on a GPU, behind the endpoint.

    python -m tests.benchmarks.gpu_day.serving [--tiny]

Median, 99th percentile at a low rate, and the highest rate that keeps the limit. One JSON object as the last line.
Random weights in the shipped model's place: it takes as long, and judges nothing. `--tiny` runs the same on a CPU,
where the shipped network answers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cancellation.model.fusion import FusionModel, FusionSettings, load_fusion_model, save_fusion_model
from cancellation.model.text_encoder import EncoderShape, new_encoder
from cancellation.model.verdict_model import TRAINED_FOLDER
from tests.benchmarks.cancellation_gpu import BASE, SHIPPED
from tests.benchmarks.serving.processes import holds, load, server

PORT = 8413
RATES = (50, 100, 200, 300, 400, 600, 800, 1200)
LIMIT_MS = 75.0


def write_model(folder: Path, shape: EncoderShape) -> None:
    """Put a network of another shape, of random weights, in the shipped model's place."""
    shutil.copytree(SHIPPED, folder)
    small, tokenizer = load_fusion_model(SHIPPED / TRAINED_FOLDER)
    encoder = new_encoder(shape, tokenizer, max_tokens=small.spec.max_tokens)
    shutil.rmtree(folder / TRAINED_FOLDER)
    save_fusion_model(FusionModel(FusionSettings(), small.spec, encoder), tokenizer, folder / TRAINED_FOLDER, half=True)


def measure(model: Path, folder: Path, *, cuda: bool, seconds: float) -> dict[str, Any]:
    """Start the endpoint with one model replica and load it."""
    tokens = folder / "tokens"
    tokens.write_text("benchmark-token-benchmark verdict feedback policy\n")
    tokens.chmod(0o600)
    on_gpu = ("serving.model.device=cuda", "serving.model.calls=1", "serving.model.batch_tokens=16384")
    command = [
        "jobs.cancellation_serve",
        f"service.port={PORT}",
        "serving.colocated=false",
        f"serving.model.source={model}",
        f"serving.data_dir={folder}/data",
        f"serving.output={folder}/archive",
        f"serving.tokens_file={tokens}",
        *((*on_gpu, "serving.models.num_gpus=1") if cuda else ()),
    ]
    with server(command, PORT):
        load(PORT, tokens, 20, 3)
        quiet = load(PORT, tokens, RATES[0] if cuda else 10, seconds)
        best, last = 0, None
        for rate in RATES if cuda else RATES[:1]:
            last = load(PORT, tokens, rate, seconds)
            if not holds(last, LIMIT_MS):
                break
            best = rate
    return {"p50_ms": quiet["p50_ms"], "p99_ms": quiet["p99_ms"], "highest_rate": best, "quiet": quiet, "last": last}


def main() -> None:
    """Measure and print; what the load says of itself goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    shape = EncoderShape(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64) if tiny else BASE
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model", shape)
        found = measure(folder / "model", folder, cuda=not tiny, seconds=3 if tiny else 8)
    sys.stdout.flush()
    print(json.dumps({"limit_ms": LIMIT_MS, **found}))


if __name__ == "__main__":
    main()
