"""Train a text encoder on unlabelled chats by masking words, streamed by Ray Data into Ray Train.

Reads chats (`pretraining.chats`) and simulated ones; continues `pretraining.encoder` or begins a small encoder with
a tokeniser of its own; writes an encoder folder to `output`, for `jobs.cancellation_train training.encoder=…`, and
settings and curves to MLflow. Safe to resubmit: a run that was broken off goes on from its last checkpoint.

    python -m jobs.cancellation_pretrain output=var/models/chat_encoder 'pretraining.chats=["../shared/data/chat"]'
    python -m jobs.cancellation_pretrain pretraining.encoder=jhu-clsp/mmBERT-base trainer.use_gpu=true …
"""

from __future__ import annotations

from pathlib import Path

from cancellation.training.pretraining import PretrainingSettings, pretrain_encoder
from cluster.launch import run_job
from cluster.places import CachePath, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.sharded.pool import configure_ray_data
from cluster.storage import absolute_url, local_folder
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from cluster.training.train import TrainerSettings


class PretrainJob(Settings):
    """The pre-training job's settings."""

    output: OutputUrl
    """Folder for the encoder."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    pretraining: PretrainingSettings = PretrainingSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: PretrainJob) -> None:
    """Train and say how it went."""
    with ray_session(job.session), tracked_run("cancellation_pretrain", job, job.tracking) as run:
        configure_ray_data()
        cache = absolute_url(job.cache_dir)
        with local_folder(job.output) as output:
            loss = pretrain_encoder(job.pretraining, job.trainer, run, output=output, cache_dir=cache)
    print(f"{job.output}: {loss:.3f} nats per masked token; {run.where}")


if __name__ == "__main__":
    run_job(main, PretrainJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
