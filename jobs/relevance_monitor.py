"""Compare a committed day of relevance scores with the day before it.

Reads `scores`, a day's partition such as …/ds=2026-11-22, and the committed partition before it; writes below `output`,
in a folder of the day's name, report.html, report.json and to_annotate.parquet (uncertain and conflicting pairs, which
jobs.relevance_annotate takes as `only`), figures to MLflow. Safe to resubmit: it starts over.

    python -m jobs.relevance_monitor scores=s3://bucket/scores/ds=2026-11-22
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.places import InputUrl, OutputUrl
from cluster.provenance import public_settings
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from relevance.monitoring.run import MonitorSettings, monitor_scores, print_scores, write_report


class MonitorJob(Settings):
    """The monitoring job's settings."""

    scores: InputUrl
    """A finished day of jobs.relevance_score: the folder that has _SUCCESS in it, beside those of other days."""

    output: OutputUrl = "var/relevance/monitoring"
    """Folder for the reports, local or s3://."""

    monitor: MonitorSettings = MonitorSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: MonitorJob) -> None:
    """Compare and report."""
    with tracked_run("relevance_monitor", job, job.tracking) as run:
        found = monitor_scores(job.scores, job.monitor)
        print_scores(found, write_report(found, job.output, public_settings(job), run), run.where)


if __name__ == "__main__":
    run_job(main, MonitorJob, defaults=Path(__file__).with_suffix(".toml"))
