"""Pre-training the small model on Ray Train, with pairs that other processes draw ahead."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cluster.models.files import resolve_model
from cluster.tracking import TrackingSettings
from cluster.training.train import TrainerSettings
from jobs.relevance_pretrain import PretrainJob, main
from relevance.engines.label_model import load_tokenizer
from relevance.prompting.prompts import PromptEncoder, load_prompt_settings
from relevance.small_model_recipe.generated_pairs import GeneratedPairs, GenerationSettings
from relevance.small_model_recipe.pretraining import ModelShape, PretrainingSettings
from relevance.training.drawn_ahead import DrawnAhead
from relevance.training.loop import TrainingSettings

TITLES = ["Nolo Red Running Shoes for Men, Size 9", "Brak Cast Iron Skillet, 10 Inch", "Wide Ruled Notebook (3 Pack)"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_pairs_drawn_ahead_are_those_that_a_worker_draws_itself(tmp_path: Path) -> None:
    weak, held_out = tmp_path / "weak.csv", tmp_path / "held_out.csv"
    for path, columns in ((weak, ("query", "title", "is_substitute")), (held_out, ("query", "title", "label"))):
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(columns)
    with weak.open("a", newline="") as file:
        csv.writer(file).writerows([f"query {number}", title, "yes"] for number, title in enumerate(TITLES))
    with held_out.open("a", newline="") as file:
        csv.writer(file).writerow(["lamp", "A Lamp", "exact"])
    drawing = GenerationSettings(products_per_pool=8, queries_per_product=2)
    for processes, name in ((0, "alone"), (2, "ahead")):
        main(
            PretrainJob(
                texts=str(weak),
                held_out=str(held_out),
                output=str(tmp_path / name),
                shape=ModelShape(hidden_size=128, num_layers=3, intermediate_size=64, vocab_size=1024),
                pretraining=PretrainingSettings(
                    num_pairs=48,
                    drawing_processes=processes,
                    generation=drawing,
                    training=TrainingSettings(pairs_per_step=8, bf16=False),
                ),
                trainer=TrainerSettings(checkpoints=str(tmp_path / f"{name}_checkpoints"), poll_seconds=0.1),
                tracking=TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}"),
            )
        )
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "ahead")]
    assert weights[0] == weights[1]

    folder = tmp_path / "ahead"
    prompt, source = load_prompt_settings(folder), GeneratedPairs(TITLES, drawing, seed=0)
    drawn = DrawnAhead(source, resolve_model(str(folder)), "", prompt, num_processes=2)
    encoder = PromptEncoder(load_tokenizer(folder), prompt)
    for number in (3, 4, 5):
        for ahead, own in zip(drawn.epoch(number), source.epoch(encoder, number), strict=True):
            assert (ahead.product, ahead.queries) == (own.product, own.queries)
            assert np.array_equal(ahead.targets, own.targets)
