"""Judge a backfill of cancelled orders: induced by the seller, not induced, or inconclusive.

Reads events (JSONL or parquet; a folder or a file, local or s3://) from `input`; lines may wrap an event with its
label. Writes one verdict per event as parquet to `output`, with report.md and run.json beside them, visible all
at once by `_SUCCESS`. Safe to resubmit: a finished output says so, a killed one goes on from its last shard.

    python -m jobs.cancellation_score input=var/cancellation/events.jsonl output=var/cancellation/verdicts
    ray job submit --working-dir . -- python -m jobs.cancellation_score input=s3://… output=s3://… policy=…

`--estimate` judges a sample in the job's own process and prints the expected time and actors; nothing is written.
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.actions import demo_line
from cancellation.decision.policy import load_policy
from cancellation.scoring.estimating import estimate_backfill
from cancellation.scoring.report import ScoringReport
from cancellation.scoring.run import ScoringSettings, open_run, score_backfill
from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run


class ScoreJob(Settings):
    """The backfill's settings."""

    input: InputUrl
    """Events to judge: a file or folder of JSONL or parquet, local or s3://."""

    output: OutputUrl
    """Folder for the verdicts."""

    model: ModelName = "cancellation/small_model"
    """Exported model: folder, s3:// folder, or models:/name@alias of MLflow."""

    policy: InputUrl | None = None
    """Policy file; null: the one that ships."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on each machine."""

    estimate: bool = False
    """Judge a sample, print the expected time for the whole input, and stop."""

    replace: bool = False
    """Judge anew a backfill whose input, model or policy has changed since, or of which shards were given up: its
    verdicts stay until the new ones have passed their checks. No other run may be at work on it."""

    scoring: ScoringSettings = ScoringSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: ScoreJob) -> None:
    """Judge, commit and report."""
    run = open_run(
        job.input,
        job.output,
        job.model,
        load_policy(job.policy),
        job.scoring,
        cache_dir=job.cache_dir,
        registry_uri=job.tracking.uri,
    )
    if job.estimate:
        print("\n".join(estimate_backfill(run).lines()), flush=True)
        return
    if line := demo_line(run.policy):
        print(line, flush=True)
    with ray_session(job.session), tracked_run("cancellation_score", job, job.tracking) as tracked:
        report = ScoringReport(run, tracked)
        report.print_summary(score_backfill(run, extras=report.files, replace_other=job.replace))


if __name__ == "__main__":
    run_job(main, ScoreJob, defaults=Path(__file__).with_suffix(".toml"))
