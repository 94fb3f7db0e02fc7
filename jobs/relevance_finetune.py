"""Train a LoRA adapter for relevance labels on people's labels, by Ray Train on CPUs or GPUs.

Reads labelled pairs from `input` and maybe weakly labelled ones; writes the adapter, with its prompt and what it was
trained on, to `output`, and settings, curves, adapter and the validation pairs' evaluation to MLflow. Safe to
resubmit: a run that was broken off goes on from its last checkpoint.

    python -m jobs.relevance_finetune base=var/models/small_base output=var/models/small_adapter
    python -m jobs.relevance_finetune jobs/relevance_finetune.gpu.toml input=s3://bucket/labelled output=var/adapter
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from relevance.finetuning.recipe import FinetuneSource
from relevance.finetuning.run import finetune_and_report


class FinetuneJob(FinetuneSource):
    """The fine-tuning job's settings."""

    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: FinetuneJob) -> None:
    """Train, keep, judge."""
    with ray_session(job.session), tracked_run("relevance_finetune", job, job.tracking) as run:
        finetune_and_report(job, run, shown=public_settings(job))


if __name__ == "__main__":
    run_job(main, FinetuneJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
