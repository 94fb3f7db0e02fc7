"""Judge a way of fine-tuning on all labelled pairs: each by an adapter that saw neither its query nor its title.

Reads what `relevance_finetune` reads; writes the folds' adapters and one evaluation, page and JSON, to `output`.
Safe to resubmit: finished folds are not trained again.

    python -m jobs.relevance_crossvalidate base=var/models/small_base output=var/crossvalidation
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from relevance.finetuning.run import CrossvalidateSource, crossvalidate_and_report


class CrossvalidateJob(CrossvalidateSource):
    """The cross-validation job's settings."""

    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: CrossvalidateJob) -> None:
    """Train the folds, judge them together."""
    with ray_session(job.session), tracked_run("relevance_crossvalidate", job, job.tracking) as run:
        crossvalidate_and_report(job, run, shown=public_settings(job))


if __name__ == "__main__":
    run_job(main, CrossvalidateJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
