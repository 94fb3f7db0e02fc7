"""Train the verdict model on labelled or simulated cancellation events, by Ray Train on CPUs or GPUs.

Reads events (`training.events.events`, else it simulates them) and maybe a pre-trained encoder; writes the trained
weights to `output`/trained, the model that scores to `output`, settings and curves to MLflow. Safe to
resubmit: a run that was broken off goes on from its last checkpoint.

With `profile_of` it trains nothing: a model of before gets a profile of its training texts, for the daily monitor.

    python -m jobs.cancellation_train output=var/models/cancellation training.encoder=var/models/chat_encoder
    python -m jobs.cancellation_train profile_of=models:/cancellation@champion training.events.events=labelled/ output=…
"""

from __future__ import annotations

from pathlib import Path

from cancellation.training.run import TrainingSettings, train_model
from cancellation.training.text_profile import profile_model
from cluster.launch import run_job
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.places import CachePath, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url, local_folder
from cluster.tracking import TrackingSettings, tracked_run
from cluster.training.estimate import estimate_training
from cluster.training.train import TrainerSettings


class TrainJob(Settings):
    """The training job's settings."""

    output: OutputUrl
    """Folder for the model."""

    profile_of: ModelName | None = None
    """A model that was trained before training wrote a profile of texts: it is copied to `output` with one, made of
    `training.events`, which should be what it was trained on. Nothing is trained; the scores stay the same."""

    cache_dir: CachePath = "var/cache"
    """Folder for copies of remote models."""

    training: TrainingSettings = TrainingSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()

    def unused(self) -> set[str]:
        """To profile is not to train."""
        return {"trainer"} if self.profile_of else set()


def main(job: TrainJob) -> None:
    """Train, export, say how it went; or only profile."""
    if job.profile_of:
        _profile(job, job.profile_of)
        return
    with ray_session(job.session), tracked_run("cancellation_train", job, job.tracking) as run:
        cache_dir = absolute_url(job.cache_dir)
        with local_folder(job.output) as output:
            trained = train_model(job.training, job.trainer, run, output=output, cache_dir=cache_dir)
        best = min(trained.history, key=lambda report: report["validation_loss"])
        run.metrics({f"best_{name}": best[name] for name in ("validation_loss", "validation_accuracy", "step")})
    print(
        f"{job.output}: step {best['step']:.0f}, validation loss {best['validation_loss']:.4f}, "
        f"accuracy {best['validation_accuracy']:.4f}; {run.where}"
    )


def _profile(job: TrainJob, name: str) -> None:
    files = resolve_model(name, registry_uri=job.tracking.uri)
    folder = fetch_model(files, cache_dir=absolute_url(job.cache_dir))
    with local_folder(job.output) as output:
        profile = profile_model(job.training.events, folder, output)
    print(f"{job.output}: {name} with a profile of {profile.num_texts:,} texts in {', '.join(profile.markets)}")


if __name__ == "__main__":
    run_job(main, TrainJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate_training)
