"""Register a calibrated verdict model in MLflow; it becomes champion where its policy proves it.

Reads `model` and `policy` as `jobs.cancellation_calibrate` wrote them; registers a version with a model card. The alias
`champion`, which `models:/cancellation@champion` names, moves only if precision is proven for this very model in every
market that is live or in shadow; otherwise the version stays `challenger` and the job says why. Safe to resubmit: the
same files are registered once.

    python -m jobs.cancellation_publish
    python -m jobs.cancellation_publish … --force reason="the champion crashes on Thai"
    python -m jobs.cancellation_publish rollback=true reason="appeals from one market"
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.publishing import PublishSource, publish
from cluster.launch import run_job
from cluster.models.publishing import roll_back
from cluster.models.registry import ModelRegistry
from cluster.tracking import TrackingSettings, tracked_run


class PublishJob(PublishSource):
    """The publishing job's settings."""

    tracking: TrackingSettings = TrackingSettings()


def main(job: PublishJob) -> None:
    """Roll back, or publish."""
    with tracked_run("cancellation_publish", job, job.tracking) as run:
        registry = ModelRegistry(job.name, job.tracking.uri)
        if job.rollback:
            print(f"{roll_back(job, registry, run)}: deploy it to serve it")
            return
        print(publish(job, registry, run))


if __name__ == "__main__":
    run_job(main, PublishJob, defaults=Path(__file__).with_suffix(".toml"))
