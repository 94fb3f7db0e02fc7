"""A sweep's cells that earlier runs finished: read back for the same question alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.finetuning.recipe import FinetuningSettings
from relevance.finetuning.sweep import Cell, SweepSource, sweep
from relevance.finetuning.taught_pairs import TeachingSettings
from relevance.training.loop import TrainingSettings
from tests.builders.pairs_data import write_learnable_pairs

TEACHING = TeachingSettings(taught_queries_per_title=0, catalogue_products=0, label_repeats=1)
FINETUNING = FinetuningSettings(
    epochs=1, training=TrainingSettings(pairs_per_step=64, bf16=False), teaching=TEACHING, allow_missing_labels=True
)


def _write_weak(path: Path, answer: str) -> str:
    rows = [f"red shoe {number},blue shoe {number},{answer}" for number in range(8)]
    path.write_text("\n".join(["query,title,is_substitute", *rows, "red hat,green hat,yes", "tea,coffee,no"]) + "\n")
    return str(path)


def test_a_cell_is_read_back_for_the_same_weak_pairs_encoder_and_intervals_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    pairs = str(write_learnable_pairs(tmp_path / "pairs.csv", num_queries=16))
    tracking = TrackingSettings(off=True)

    def run(weak: str | None, samples: int = 100, encoder: Path | None = None) -> Cell:
        teaching = TEACHING.model_copy(update={"encoder": encoder and str(encoder)})
        source = SweepSource(
            bases=(str(tiny_model),),
            num_labels=(0,),
            seeds=(0,),
            input=pairs,
            weak=weak,
            output=str(tmp_path / "sweep"),
            finetuning=FINETUNING.model_copy(update={"teaching": teaching}),
            trainer=TrainerSettings(num_workers=0, checkpoints=str(tmp_path / "checkpoints")),
            evaluation=EvaluationSettings(bootstrap_samples=samples),
        )
        with tracked_run("sweep", source, tracking) as tracked:
            (cell,) = sweep(source, tracked, tracking=tracking)
        return cell

    def cells() -> int:
        return len(list((tmp_path / "sweep" / "cells").iterdir()))

    assert run(None) == run(None)
    assert cells() == 1
    assert len(run(None, samples=200).alpha_draws) == 201
    assert cells() == 2
    run(_write_weak(tmp_path / "weak.csv", "yes"))
    assert cells() == 3
    weak = _write_weak(tmp_path / "weak.csv", "no")
    run(weak)
    assert cells() == 4
    encoder = Path(shutil.copytree(tiny_model, tmp_path / "encoder"))
    run(weak, encoder=encoder)
    (encoder / "config.json").write_text((encoder / "config.json").read_text() + "\n")  # another one in its place
    run(weak, encoder=encoder)
    assert cells() == 6
