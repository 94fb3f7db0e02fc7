"""Label a day of query-product pairs: exact, substitute, complement or irrelevant.

Reads pairs (parquet, CSV or JSONL; a folder or a file, local or s3://) from `input`. Writes one row per pair
under `output`, with a report and run.json beside them, visible all at once by `_SUCCESS`. Safe to resubmit:
a finished day says so, a killed one goes on from its last committed shard.

    python -m jobs.relevance_score input=s3://bucket/pairs/ds=2026-11-22 output=s3://bucket/scores
    ray job submit --working-dir . -- python -m jobs.relevance_score input=… output=… model=… scoring.engine=vllm

`--estimate` scores a sample and prints the expected time, cost and actors; nothing is written.
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from relevance.engines.label_model import open_label_model
from relevance.scoring.day import score_day
from relevance.scoring.estimating import estimate_day, print_estimate
from relevance.scoring.report import ReportSettings, ScoringReport
from relevance.scoring.run import ScoringSettings, open_run


class ScoreJob(Settings):
    """The scoring job's settings."""

    input: InputUrl
    """Pairs to label: a file or folder of parquet, CSV or JSONL, local or s3://."""

    output: OutputUrl
    """Folder for the scores; the input's `ds=…` partition keeps its name below it."""

    model: ModelName = "relevance/small_model"
    """Causal language model: folder, s3:// folder, models:/name@alias of MLflow, or hub id."""

    adapter: ModelName | None = None
    """LoRA adapter on top of the model, named like a model; null: the model is merged already."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on each machine."""

    estimate: bool = False
    """Score a sample, print the expected time, cost and actors for the whole input, and stop."""

    replace: bool = False
    """Score a day anew whose input or settings have changed since: its scores stay until the new ones have passed their
    checks, labels that were given before are taken from the label store. No other run may be at work on it."""

    must_be_fine: bool = False
    """End with status 3, the day committed all the same, where it fails a check of the report: what a schedule has
    after it waits then until somebody has looked."""

    scoring: ScoringSettings = ScoringSettings()
    report: ReportSettings = ReportSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: ScoreJob) -> None:
    """Score, commit and report."""
    model = open_label_model(
        job.model,
        job.adapter,
        quantization=job.scoring.quantization,
        cache_dir=job.cache_dir,
        registry_uri=job.tracking.uri,
    )
    run = open_run(job.input, job.output, model, job.scoring)
    with ray_session(job.session):
        if job.estimate:
            print_estimate(estimate_day(run, gpu_hour_price=job.report.gpu_hour_price), run)
            return
        with tracked_run("relevance_score", job, job.tracking) as tracked:
            report = ScoringReport(run, job.report, tracked)
            day = score_day(run, extras=report.files, replace_other=job.replace)
            report.print_summary(day)
    if job.must_be_fine:
        report.require_fine(day)


if __name__ == "__main__":
    run_job(main, ScoreJob, defaults=Path(__file__).with_suffix(".toml"))
