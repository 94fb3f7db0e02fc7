"""Judge a relevance model on pairs that people labelled.

Reads labelled pairs from `input` (parquet, CSV or JSONL) and asks `model` for its labels, or takes them from `scores`,
a finished day of jobs.relevance_score. Writes evaluation.html and evaluation.json to `output`, figures and plots to
MLflow. Refused where `input` shares a query with `train`, or with what the model says that it learnt from. Safe to
resubmit: it starts over.

    python -m jobs.relevance_evaluate input=labelled.csv model=models:/relevance@champion train=training.csv
    python -m jobs.relevance_evaluate input=labelled.csv scores=var/scores/ds=2026-11-22
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from pydantic import Field

from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from relevance.engines.label_model import open_label_model
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.evaluation.pairs import MAX_TEXT_BYTES, read_evaluation_pairs, refuse_learnt, refuse_overlap
from relevance.evaluation.predictions import ask_model, read_scores
from relevance.evaluation.report import report_evaluation
from relevance.evaluation.run import judge


class EvaluateJob(Settings):
    """The evaluation job's settings."""

    input: InputUrl
    """Labelled pairs; with a column `annotator`, a pair may have several lines and people are compared too."""

    model: ModelName = "relevance/small_model"
    """Causal language model: folder, s3:// folder, models:/name@alias of MLflow, or hub id."""

    adapter: ModelName | None = None
    """LoRA adapter on top of the model, named like a model."""

    scores: InputUrl | None = None
    """Finished day of the scoring job that has these pairs: judge its labels and load no model."""

    train: InputUrl | None = None
    """Pairs that the model learnt from: checked for shared queries, and what the baselines learn from."""

    max_text_bytes: int = Field(default=MAX_TEXT_BYTES, ge=1_000)
    """Bytes; as `scoring.max_text_bytes` where the model scores, so that the same pairs are judged."""

    allow_overlap: bool = False
    """Judge although `train`, or what the model learnt from, shares queries with `input`; the page says so."""

    output: OutputUrl = "var/evaluation"
    """Folder for evaluation.html and evaluation.json, local or s3://."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: EvaluateJob) -> None:
    """Read, ask, judge, report."""
    pairs = read_evaluation_pairs(job.input, max_text_bytes=job.max_text_bytes)
    training = read_evaluation_pairs(job.train, max_text_bytes=job.max_text_bytes) if job.train else None
    shared = refuse_overlap(pairs, training, allow=job.allow_overlap) if training else None
    ray = ray_session(job.session) if job.engine.gpus_per_actor else nullcontext()
    with ray, tracked_run("relevance_evaluate", job, job.tracking) as run:
        if job.scores:
            predictions = read_scores(pairs.rows, job.scores)
        else:
            model = open_label_model(
                job.model,
                job.adapter,
                quantization=job.engine.quantization,
                cache_dir=job.cache_dir,
                registry_uri=job.tracking.uri,
            )
            learnt = refuse_learnt(pairs, model.learnt_queries(), allow=job.allow_overlap)
            shared = max(shared or 0, learnt) if learnt is not None else shared
            predictions = ask_model(pairs.rows, model, job.engine)
        evaluation = judge(pairs, predictions, job.evaluation, training=training, shared_queries=shared)
        report_evaluation(evaluation, job.output, public_settings(job), run)


if __name__ == "__main__":
    run_job(main, EvaluateJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.relevance_score")
