"""A small model that learns what a larger one says of pairs that nobody labelled."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.relevance_crossvalidate import CrossvalidateJob
from jobs.relevance_crossvalidate import main as cross_validate
from jobs.relevance_finetune import FinetuneJob
from jobs.relevance_finetune import main as finetune
from jobs.relevance_recombine import RecombineJob
from jobs.relevance_recombine import main as recombine
from jobs.relevance_score import ScoreJob
from jobs.relevance_score import main as score
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.pairs import fold_text, read_evaluation_pairs
from relevance.evaluation.predictions import ask_model
from relevance.finetuning.recombined import RecombinationSettings
from relevance.scoring.run import ScoringSettings
from tests.builders.pairs_data import write_learnable_pairs
from tests.builders.tiny_models import save_tiny_model

TRAINING = {"learning_rate": 3e-3, "pairs_per_step": 32, "bf16": False}


pytestmark = pytest.mark.slow  # three trainings


def _settings(folder: Path, base: Path, pairs: Path, *, epochs: int) -> dict:
    return {
        "base": str(base),
        "input": str(pairs),
        "finetuning": {"epochs": epochs, "training": TRAINING, "allow_missing_labels": True},
        "trainer": {"num_workers": 0, "checkpoints": str(folder / "checkpoints")},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }


def _right(base: Path, adapter: Path, judged: Path) -> float:
    pairs = read_evaluation_pairs(str(judged))
    model = open_label_model(str(base), str(adapter), quantization="none", cache_dir="")
    said = ask_model(pairs.rows, model, EngineSettings())
    return float((said.labels == pairs.labels).mean())


@pytest.fixture(scope="module")
def taught(local_ray: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Pairs that a tuned model labelled, none of which shares a text with those that judge its pupil."""
    folder = tmp_path_factory.mktemp("taught")
    base, many = save_tiny_model(folder / "large"), write_learnable_pairs(folder / "many.csv", num_queries=60)
    judged = write_learnable_pairs(folder / "judged.csv", num_queries=24, seed=7)
    teacher = folder / "teacher"
    finetune(FinetuneJob.model_validate({**_settings(folder, base, many, epochs=8), "output": str(teacher)}))
    assert _right(base, teacher, many) > 0.9, "a teacher that knows nothing teaches nothing"
    pairs = folder / "pairs.parquet"
    drawn = RecombinationSettings(queries_per_title=5)
    recombine(RecombineJob(texts=(str(many),), spared=str(judged), output=str(pairs), recombination=drawn))
    scoring = ScoringSettings(shard_rows=500, num_threads=2)
    scores = folder / "scores"
    score(ScoreJob(input=str(pairs), output=str(scores), model=str(base), adapter=str(teacher), scoring=scoring))
    return {
        "folder": folder,
        "judged": judged,
        "many": many,
        "distilled": {"distilled": str(pairs), "distilled_scores": str(scores), "distilled_by": str(teacher)},
    }


def test_pairs_are_real_texts_put_together_anew(taught: dict) -> None:
    rows = pq.read_table(taught["distilled"]["distilled"]).to_pylist()
    judged = read_evaluation_pairs(str(taught["judged"]))
    queries, titles = set(map(fold_text, judged.queries)), set(map(fold_text, judged.titles))
    assert not any(fold_text(row["query"]) in queries or fold_text(row["title"]) in titles for row in rows)
    by_title: dict[str, list[str]] = {}
    for row in rows:
        by_title.setdefault(row["title"], []).append(fold_text(row["query"]))
    assert all(len(set(some)) == len(some) > 1 for some in by_title.values()), "a query twice for one title"
    assert {row["title"] for row in rows} <= set(read_evaluation_pairs(str(taught["many"])).titles)


def test_a_pupil_learns_from_its_teacher_what_too_few_labels_do_not_tell(taught: dict, tmp_path: Path) -> None:
    base, few = save_tiny_model(tmp_path / "small", seed=1), write_learnable_pairs(tmp_path / "few.csv", num_queries=4)
    alone, pupil = tmp_path / "alone", tmp_path / "pupil"
    settings = _settings(tmp_path, base, few, epochs=4)
    finetune(FinetuneJob.model_validate({**settings, "output": str(alone)}))
    distilling = {**settings["finetuning"], "distilled_epochs": 4}
    job = {**settings, **taught["distilled"], "finetuning": distilling, "output": str(pupil)}
    finetune(FinetuneJob.model_validate(job))
    assert _right(base, alone, taught["judged"]) < 0.6
    assert _right(base, pupil, taught["judged"]) > 0.8
    origin = json.loads((pupil / "training.json").read_text("utf-8"))
    assert origin["distilled_pairs"] > 500
    teacher = json.loads((Path(taught["distilled"]["distilled_by"]) / "training.json").read_text("utf-8"))
    assert set(origin["training_queries"]) >= set(teacher["training_queries"])


def test_a_pupil_is_not_judged_by_what_its_teacher_learnt(taught: dict, tmp_path: Path) -> None:
    settings = _settings(tmp_path, save_tiny_model(tmp_path / "small", seed=1), taught["many"], epochs=1)
    job = {**settings, **taught["distilled"], "output": str(tmp_path / "folds"), "num_folds": 2}
    with pytest.raises(ValueError, match="learnt from 60 of the queries that are to judge"):
        cross_validate(CrossvalidateJob.model_validate(job))


def test_pairs_without_their_scores_are_refused(taught: dict, tmp_path: Path) -> None:
    settings = _settings(tmp_path, save_tiny_model(tmp_path / "small", seed=1), taught["many"], epochs=1)
    job = {**settings, "distilled": taught["distilled"]["distilled"], "output": str(tmp_path / "none")}
    with pytest.raises(ValueError, match="distilled, distilled_scores and distilled_by belong together"):
        finetune(FinetuneJob.model_validate(job))
