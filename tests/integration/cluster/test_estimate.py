"""`--estimate` of jobs that train or publish: real first steps on their own data, figures, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cancellation.events.table import write_labelled
from cancellation.llm.finetuning import LlmFinetuningSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.pretraining import PretrainingSettings as ChatPretrainingSettings
from cancellation.training.run import TrainingSettings as VerdictTrainingSettings
from cluster.settings import Settings
from cluster.tracking import TrackingSettings
from cluster.training.estimate import estimate_training
from cluster.training.train import TrainerSettings
from jobs import (
    cancellation_llm_finetune,
    cancellation_pretrain,
    cancellation_train,
    relevance_crossvalidate,
    relevance_finetune,
    relevance_publish,
    relevance_sweep,
)
from relevance.finetuning.recipe import FinetuningSettings
from relevance.publishing.steps import PublishingSettings
from relevance.training.loop import TrainingSettings
from tests.builders.chat_models import save_tiny_chat_model
from tests.builders.pairs_data import write_learnable_pairs

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16}
FINETUNING = FinetuningSettings(epochs=3, training=TrainingSettings(pairs_per_step=8, bf16=False))
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]


def trainer(folder: Path, **changes: object) -> TrainerSettings:
    return TrainerSettings(checkpoints=str(folder / "checkpoints"), worker_hour_price=3.6, **changes)


def tracking(folder: Path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{folder / 'mlflow.db'}")


def finetune(folder: Path, base: Path, **changes: object) -> tuple[Callable, Settings]:
    pairs = write_learnable_pairs(folder / "pairs.csv", num_queries=40)
    common = {"input": str(pairs), "output": str(folder / "out"), "finetuning": FINETUNING, **changes}
    job = relevance_finetune.FinetuneJob(
        base=str(base), trainer=trainer(folder, num_workers=0), tracking=tracking(folder), **common
    )
    return relevance_finetune.main, job


def crossvalidate(folder: Path, base: Path) -> tuple[Callable, Settings]:
    job = relevance_crossvalidate.CrossvalidateJob(
        base=str(base),
        input=str(write_learnable_pairs(folder / "pairs.csv", num_queries=40)),
        num_folds=4,
        output=str(folder / "out"),
        finetuning=FINETUNING,
        trainer=trainer(folder, num_workers=0),
        tracking=tracking(folder),
    )
    return relevance_crossvalidate.main, job


def sweep(folder: Path, base: Path) -> tuple[Callable, Settings]:
    job = relevance_sweep.SweepJob(
        bases=(str(base),),
        num_labels=(40, 0),
        seeds=(0,),
        input=str(write_learnable_pairs(folder / "pairs.csv", num_queries=40)),
        output=str(folder / "out"),
        finetuning=FINETUNING,
        trainer=trainer(folder, num_workers=0),
        tracking=tracking(folder),
    )
    return relevance_sweep.main, job


def verdicts(folder: Path, _base: Path) -> tuple[Callable, Settings]:
    events = folder / "events.jsonl"
    write_labelled(str(events), simulate(SimulationSettings(num_events=400), 5))
    small = {"vocab_size": 800, "max_tokens": 48, "shape": SHAPE, "fusion": {"hidden_size": 16, "num_heads": 1}}
    loop = {"steps_per_validation": 4, "batch_size": 8, "bf16": False, "epochs": 2.0}
    job = cancellation_train.TrainJob(
        output=str(folder / "model"),
        cache_dir=str(folder / "cache"),
        training=VerdictTrainingSettings.model_validate({**small, "loop": loop, "events": {"events": str(events)}}),
        trainer=trainer(folder, num_workers=2),
        tracking=tracking(folder),
    )
    return cancellation_train.main, job


def chats(folder: Path, _base: Path) -> tuple[Callable, Settings]:
    small = {"num_simulated": 300, "tokenizer_events": 100, "vocab_size": 700, "max_tokens": 48, "shape": SHAPE}
    masking = {"num_steps": 50, "batch_size": 16, "steps_per_checkpoint": 8, "bf16": False, "batches_per_pool": 4}
    job = cancellation_pretrain.PretrainJob(
        output=str(folder / "encoder"),
        cache_dir=str(folder / "cache"),
        pretraining=ChatPretrainingSettings.model_validate({**small, "masking": masking}),
        trainer=trainer(folder),
        tracking=tracking(folder),
    )
    return cancellation_pretrain.main, job


def completions(folder: Path, _base: Path) -> tuple[Callable, Settings]:
    base = save_tiny_chat_model(folder / "tiny-chat", spread=0.2)
    events = folder / "events.jsonl"
    write_labelled(str(events), simulate(SimulationSettings(num_events=20), 5))
    job = cancellation_llm_finetune.LlmFinetuneJob(
        input=str(events),
        output=str(folder / "adapter"),
        finetuning=LlmFinetuningSettings(model=str(base), epochs=5, events_per_step=4, max_tokens=8192),
        trainer=trainer(folder, num_workers=0),
        tracking=tracking(folder),
    )
    return cancellation_llm_finetune.main, job


@pytest.mark.parametrize(
    ("made", "steps", "examples", "timed"),
    [
        (finetune, 75, 600, 16),
        (crossvalidate, 4 * 57, 4 * 450, 4 * 16),
        (sweep, 15 + 56, 120 + 450, 12 + 16),
        pytest.param(verdicts, 100, 800, 16, marks=pytest.mark.slow),
        pytest.param(chats, 50, 800, 16, marks=pytest.mark.slow),
        (completions, 25, 100, 16),
    ],
)
def test_a_training_is_estimated_from_its_first_steps_and_leaves_nothing(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    made: Callable,
    steps: int,
    examples: int,
    timed: int,
) -> None:
    main, job = made(tmp_path, tiny_model)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    estimate_training(main, job)
    said = capsys.readouterr().out.splitlines()
    counts = re.match(r"at most ([\d,]+) steps.*, ([\d,]+) examples in all", said[-5])
    assert counts, said
    assert [int(found.replace(",", "")) for found in counts.groups()] == [
        pytest.approx(steps, rel=0.1),
        pytest.approx(examples, rel=0.1),
    ]
    assert re.search(rf"then [\d.e-]+ s a step: measured on {timed} of them, \d workers?$", said[-4])
    assert said[-3].startswith("about ")
    assert re.fullmatch(r"about \$\d+\.\d\d: \d workers? at \$3\.60 an hour", said[-2])
    assert said[-1] == "nothing was written"
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and "cache" not in path.parts] == []


def test_publishing_is_estimated_from_a_sample_of_its_pairs(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_learnable_pairs(tmp_path / "pairs.csv", num_queries=80)
    job = relevance_publish.PublishJob(
        base=str(tiny_model),
        input=str(pairs),
        output=str(tmp_path / "published"),
        publishing=PublishingSettings(quantization="int8"),
        tracking=tracking(tmp_path),
    )
    relevance_publish.estimate(relevance_publish.main, job)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "400 labelled pairs, asked up to 3 times: of the model, unquantised, the champion"
    assert re.match(r"[\d,]+ pairs/s after [\d.]+ s of loading: measured on 200 of them", said[1])
    assert said[-1] == "nothing was written"
    assert sorted(tmp_path.rglob("*")) == [pairs]


def test_an_input_that_is_refused_is_refused_by_an_estimate_too(tmp_path: Path, tiny_model: Path) -> None:
    main, job = finetune(tmp_path, tiny_model)
    (tmp_path / "pairs.csv").write_text("query,title\nlamp,A lamp\n")
    with pytest.raises(ValueError, match=r"column .* is missing"):
        estimate_training(main, job)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "pairs.csv"]
