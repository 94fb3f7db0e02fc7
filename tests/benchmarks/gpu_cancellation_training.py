"""Teacher and student of the verdict model on one GPU, without Ray: `prepare` on a machine with cores, `train` there.

    python -m tests.benchmarks.gpu_cancellation_training prepare --output var/gpu_cancellation
    python -m tests.benchmarks.gpu_cancellation_training train --input var/gpu_cancellation --output OUT

`prepare` cuts the encoder's vocabulary and encodes the events, which takes cores and no GPU; `train` finds the encoded
events by the digest of everything that they depend on, trains, and writes the weights of both in half precision.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

from cancellation.training.run import TrainingSettings, train_model
from cluster.settings import load_settings
from cluster.training.train import TrainerSettings

_JOBS = Path(__file__).resolve().parents[2] / "jobs"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("prepare", "train"))
    parser.add_argument("--input", type=Path, default=Path("var/gpu_cancellation"))
    parser.add_argument("--output", type=Path, default=Path("var/gpu_cancellation"))
    parser.add_argument("--encoder", default="var/pretrained/multilingual-e5-small")
    parser.add_argument("--only", nargs="*", default=["teacher", "student"])
    parser.add_argument("overrides", nargs="*", help="section.key=value of the settings files")
    arguments = parser.parse_intermixed_args()
    (prepare if arguments.command == "prepare" else train)(arguments)


def _settings(kind: str, overrides: list[str]) -> TrainingSettings:
    from jobs.cancellation_train import TrainJob

    path = str(_JOBS / f"cancellation_train.{kind}.toml")
    return load_settings(TrainJob, [path, *overrides]).training


def prepare(arguments: argparse.Namespace) -> None:
    """Write `encoder/` and `checkpoints/cancellation-events/` below the output."""
    from concurrent.futures import ProcessPoolExecutor

    from cancellation.model.spec import ModelSpec
    from cancellation.model.text_encoder import load_encoder, prune_encoder
    from cancellation.training import run as training_run
    from cancellation.training.events import encoding_units

    settings = _settings("teacher", arguments.overrides)
    folder = arguments.output / "encoder"
    if not (folder / "tokenizer.json").exists():
        encoder, tokenizer = load_encoder(arguments.encoder, cache_dir="/tmp/cache")
        texts = training_run.tokenizer_texts(settings)
        encoder, tokenizer = prune_encoder(encoder, tokenizer, texts, size=settings.prune_to or 40_000)
        encoder.half().save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
    _, tokenizer = load_encoder(str(folder), cache_dir="/tmp/cache")
    spec = ModelSpec(
        name="any", variant="attention", encoder="any", max_tokens=settings.max_tokens, markets=settings.markets
    )
    units = encoding_units(
        settings.events, tokenizer, spec, str((arguments.output / "checkpoints/cancellation-events").resolve())
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for number, _ in enumerate(pool.map(_run_unit, units)):
            print(f"{number + 1} of {len(units)} files of encoded events", flush=True)


def _run_unit(unit: tuple) -> None:
    from cancellation.training.events import encode_unit

    encode_unit(*unit)


def train(arguments: argparse.Namespace) -> None:
    """Train what is asked for; the student learns from the teacher of the same run."""
    trainer = TrainerSettings(num_workers=0, checkpoints=str((arguments.input / "checkpoints").resolve()))
    figures = {}
    for kind in arguments.only:
        started = time.perf_counter()
        overrides = [*arguments.overrides, "training.export=false"]
        if kind == "teacher":
            overrides += [f"training.encoder={arguments.input / 'encoder'}", "training.prune_to=null"]
        else:
            overrides += [f"training.teacher={arguments.output / 'teacher' / 'trained'}"]
        made = train_model(
            _settings(kind, overrides), trainer, None, output=arguments.output / kind, cache_dir="/tmp/cache"
        )
        figures[kind] = {"seconds": time.perf_counter() - started, "history": made.history}
        print(f"{kind}: {figures[kind]['seconds']:.0f} s, {json.dumps(made.history[-1])}", flush=True)
    (arguments.output / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    shutil.rmtree(arguments.input / "checkpoints" / "run", ignore_errors=True)


if __name__ == "__main__":
    main()
