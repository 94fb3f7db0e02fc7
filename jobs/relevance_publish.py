"""Publish a relevance model: merge, quantise to 8 bit, check it with its engine, register it, maybe make it champion.

Reads `base`, `adapter` and labelled pairs from `input`; writes the model and its evaluation to `output` and registers a
version with a model card in MLflow. The alias `champion` moves only if alpha is surely not lower than the present
champion's; otherwise the version stays `challenger` and the job says why. Safe to resubmit: the same files are
registered once.

    python -m jobs.relevance_publish base=meta-llama/Llama-3.1-8B adapter=s3://bucket/adapter input=labelled.csv
    python -m jobs.relevance_publish … --force reason="the champion leaks memory"
    python -m jobs.relevance_publish rollback=true reason="complaints from one market"
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from cluster.launch import run_job
from cluster.models.publishing import roll_back
from cluster.models.registry import ModelRegistry
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.tracking import TrackingSettings, tracked_run
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.publishing.estimating import estimate_publishing
from relevance.publishing.run import PublishSource, check_source, publish
from relevance.publishing.steps import PublishingSettings


class PublishJob(PublishSource):
    """The publishing job's settings."""

    publishing: PublishingSettings = PublishingSettings()
    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: PublishJob) -> None:
    """Roll back, or publish."""
    if not job.rollback:
        check_source(job)
    ray = ray_session(job.session) if job.engine.gpus_per_actor else nullcontext()
    with ray, tracked_run("relevance_publish", job, job.tracking) as run:
        registry = ModelRegistry(job.name, job.tracking.uri)
        if job.rollback:
            print(f"{roll_back(job, registry, run)}: scoring takes it from its next run on")
            return
        publish(
            job,
            registry,
            run,
            publishing=job.publishing,
            engine=job.engine,
            evaluation=job.evaluation,
            shown=public_settings(job),
        )


def estimate(_main: object, job: PublishJob) -> None:
    """Ask a sample, say what the whole would take."""
    with ray_session(job.session) if job.engine.gpus_per_actor else nullcontext():
        found = estimate_publishing(job, job.publishing, job.engine, registry_uri=job.tracking.uri)
    print("\n".join(found.lines()), flush=True)


if __name__ == "__main__":
    run_job(main, PublishJob, defaults=Path(__file__).with_suffix(".toml"), estimate=estimate)
