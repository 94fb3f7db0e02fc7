"""Compare bases, numbers of labels and seeds: how much label, how much model is enough?

Reads labelled pairs, keeps some queries back to judge on; writes adapters, cells, one table and one plot to `output`,
and to MLflow a run with a child per cell. Safe to resubmit: finished cells are read back.

    python -m jobs.relevance_sweep 'bases=["var/models/tiny_base", "var/models/small_base"]' output=var/sweep
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.session import SessionSettings, ray_session
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from relevance.finetuning.sweep import SweepSource, sweep
from relevance.finetuning.sweep_report import report_sweep


class SweepJob(SweepSource):
    """The sweep's settings."""

    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: SweepJob) -> None:
    """Train and judge the cells, then compare them."""
    with ray_session(job.session), tracked_run("relevance_sweep", job, job.tracking) as run:
        cells = sweep(job, run, tracking=job.tracking)
        report_sweep(cells, job.output, run)


if __name__ == "__main__":
    run_job(main, SweepJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
