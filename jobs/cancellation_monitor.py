"""Look at a day of verdicts: what changed, whether precision holds, whether to train anew.

Reads the endpoint's archive at `archive` (decisions, shadow, feedback) and what features and texts looked like in
training, from `model`, which reads a sample of the texts; keeps counts by day below `output`/days and writes
`output`/`day`/report.html, report.json and retrain.json, figures to MLflow. Safe to resubmit: a day is never counted
twice, and one whose hours came late is counted again; a round is submitted once for each model.

    python -m jobs.cancellation_monitor archive=s3://bucket/prefix day=2026-11-22
    python -m jobs.cancellation_monitor … submit.address=http://127.0.0.1:8265 monitor.triggers.relabel='python -m …'
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from cancellation.monitoring.report import print_day, write_report
from cancellation.monitoring.run import MonitorSettings, find_profile, find_text_model, monitor_day
from cancellation.monitoring.triggers import SubmitSettings, require_filled, submit_retraining
from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.sharded.pool import map_in_order
from cluster.tracking import TrackingSettings, tracked_run


class MonitorJob(Settings):
    """The monitoring job's settings."""

    archive: InputUrl = "var/serving/archive"
    """Where the endpoint ships, `serving.output`."""

    day: date | None = None
    """The day to look at, in UTC; days before it are brought up to date as well. Null: yesterday."""

    output: OutputUrl = "var/cancellation/monitoring"
    """Folder for reports and counts, local or s3://; the same for all days."""

    model: ModelName = "cancellation/small_model"
    """The model in service, for what features and texts looked like in training: folder, s3:// folder, or
    models:/name@alias of MLflow."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    monitor: MonitorSettings = MonitorSettings()
    submit: SubmitSettings | None = None
    """Null: commands are printed and nothing is submitted."""

    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: MonitorJob) -> None:
    """Count, compare, decide, report."""
    if job.submit:
        require_filled(job.monitor.triggers, job.submit)
    place = {"cache_dir": job.cache_dir, "registry_uri": job.tracking.uri}
    profile, missing = find_profile(job.model, **place)
    texts, no_texts = find_text_model(job.model, **place, sample=job.monitor.drift.text_sample)
    day = job.day or datetime.now(UTC).date() - timedelta(days=1)
    with ray_session(job.session), tracked_run("cancellation_monitor", job, job.tracking) as run:
        found = monitor_day(
            job.archive,
            job.output,
            day,
            profile=profile,
            profile_missing=missing,
            texts=texts,
            texts_missing=no_texts,
            settings=job.monitor,
            through=map_in_order,
        )
        url = write_report(found, job.output, public_settings(job), run)
        print_day(found, url, run.where)
        if job.submit:
            token = os.environ.get("RAY_AUTH_TOKEN")
            for line in submit_retraining(found.decision, job.output, job.submit, token=token):
                print(line)


if __name__ == "__main__":
    run_job(main, MonitorJob, defaults=Path(__file__).with_suffix(".toml"))
