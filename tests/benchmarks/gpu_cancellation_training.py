"""The verdict models on one GPU, without Ray: `encoder`, then `prepare` on many cores, then `train` or `llm`.

    python -m tests.benchmarks.gpu_cancellation_training encoder                      # needs `make pretrained`
    python -m tests.benchmarks.gpu_cancellation_training prepare EVENTS
    python -m tests.benchmarks.gpu_cancellation_training train EVENTS --kinds teacher
    python -m tests.benchmarks.gpu_cancellation_training train EVENTS --kinds student further
    python -m tests.benchmarks.gpu_cancellation_training llm --examples FOLDER

EVENTS are settings such as `training.events.stagings=16`, the same for all, as what was encoded for one is found by the
digest of all that it depends on. `train` writes the weights in half precision; `llm` an adapter for SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from cancellation.training.run import TrainingSettings, train_model
from cluster.settings import load_settings
from cluster.training.train import TrainerSettings

_JOBS = Path(__file__).resolve().parents[2] / "jobs"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("encoder", "prepare", "train", "llm"))
    parser.add_argument("--input", type=Path, default=Path("var/gpu_cancellation"))
    parser.add_argument("--output", type=Path, default=Path("var/gpu_cancellation"))
    parser.add_argument("--encoder", default="var/pretrained/multilingual-e5-small")
    parser.add_argument("--kinds", nargs="*", default=["teacher"], help="teacher, student, further: its settings file")
    parser.add_argument("--vocabulary", default="cancellation/small_model/trained", help="model whose pieces all have")
    parser.add_argument("--examples", type=Path, help="labelled events for the language model")
    parser.add_argument("--base", default="var/pretrained/smollm2-135m")
    parser.add_argument("overrides", nargs="*", help="section.key=value of the settings files")
    arguments = parser.parse_args()
    {"encoder": write_encoder, "prepare": prepare, "train": train, "llm": finetune_llm}[arguments.command](arguments)


def _settings(kind: str, overrides: list[str]) -> TrainingSettings:
    from jobs.cancellation_train import TrainJob

    path = str(_JOBS / f"cancellation_train.{kind}.toml")
    return load_settings(TrainJob, [path, *overrides]).training


def write_encoder(arguments: argparse.Namespace) -> None:
    """Give the pre-trained encoder the pieces of the model that ships, so that it can teach it."""
    from cancellation.model.text_encoder import adopt_vocabulary, load_encoder
    from cancellation.text.tokenizer import load_tokenizer

    encoder, tokenizer = load_encoder(arguments.encoder, cache_dir="/tmp/cache")
    wanted = load_tokenizer(Path(arguments.vocabulary))
    folder = arguments.output / "encoder"
    adopt_vocabulary(encoder, tokenizer, wanted).save_pretrained(folder)
    wanted.save(str(folder / "tokenizer.json"))


def prepare(arguments: argparse.Namespace) -> None:
    """Encode the events into `checkpoints/cancellation-events/` below the output."""
    from concurrent.futures import ProcessPoolExecutor

    from cancellation.model.spec import ModelSpec
    from cancellation.model.text_encoder import load_encoder
    from cancellation.training.events import encoding_units

    settings, folder = _settings("teacher", arguments.overrides), arguments.output / "encoder"
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
    """Train what is asked for; students learn from the teacher below the same output."""
    trainer = TrainerSettings(num_workers=0, checkpoints=str((arguments.input / "checkpoints").resolve()))
    for kind in arguments.kinds:
        started = time.perf_counter()
        overrides = [*arguments.overrides, "training.export=false"]
        if kind == "teacher":
            overrides += [f"training.encoder={arguments.input / 'encoder'}", "training.prune_to=null"]
        else:
            overrides += [f"training.teacher={arguments.output / 'teacher' / 'trained'}"]
        if kind == "further":
            overrides += [f"training.start={arguments.vocabulary}"]
        made = train_model(
            _settings(kind, overrides), trainer, None, output=arguments.output / kind, cache_dir="/tmp/cache"
        )
        found = {"seconds": time.perf_counter() - started, "history": made.history}
        (arguments.output / f"{kind}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{kind}: {found['seconds']:.0f} s, {json.dumps(made.history[-1])}", flush=True)


def finetune_llm(arguments: argparse.Namespace) -> None:
    """Fine-tune the language model on labelled events."""
    from cancellation.decision.policy import load_policy
    from cancellation.events.examples import example_files, read_examples
    from cancellation.llm.finetuning import finetune
    from jobs.cancellation_llm_finetune import LlmFinetuneJob

    path = str(_JOBS / "cancellation_llm_finetune.toml")
    given = [f"input={arguments.examples}", f"finetuning.model={arguments.base}", *arguments.overrides]
    job = load_settings(LlmFinetuneJob, [path, *given])
    examples = [one for url in example_files(job.input) for one in read_examples(url)]
    trainer = TrainerSettings(num_workers=0, checkpoints=str((arguments.input / "checkpoints").resolve()))
    started = time.perf_counter()
    tuned = finetune(
        examples,
        load_policy(None),
        job.finetuning,
        trainer,
        None,
        output=arguments.output / "llm",
        cache_dir="/tmp/cache",
    )
    losses = [round(loss, 4) for loss in tuned.losses]
    found = {"seconds": time.perf_counter() - started, "examples": tuned.num_examples, "losses": losses}
    (arguments.output / "llm.json").write_text(json.dumps(found), encoding="utf-8")
    print(f"llm: {found['seconds']:.0f} s, {tuned.num_examples} examples, loss {losses[0]} to {losses[-1]}", flush=True)


if __name__ == "__main__":
    main()
