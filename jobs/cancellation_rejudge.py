"""Judge again, with the model, what the rules had to answer while the model was away.

Reads the endpoint's archive at `archive`, with the policies in it, and the model; writes the new decisions below
`rejudged/` in the archive, each with what was answered. Safe to resubmit: what was judged again is not judged a third
time.

    python -m jobs.cancellation_rejudge archive=s3://bucket/prefix first=2026-10-22 last=2026-10-23
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path

from cancellation.decision.policy import load_policy
from cancellation.serving.inference.model import load_model
from cancellation.serving.rejudging import rejudge
from cancellation.serving.settings import ModelSettings
from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.settings import Settings


class RejudgeJob(Settings):
    """Which decisions, and by what."""

    archive: InputUrl = "var/serving/archive"
    """Where the endpoint ships, `serving.output`."""

    first: date
    """First day, in UTC, on which they were answered."""

    last: date
    """Last day."""

    policy: InputUrl | None = None
    """Policy file; null: the one that was in force when each was answered, from the archive."""

    model: ModelSettings = ModelSettings()


def main(job: RejudgeJob) -> None:
    """Judge and say how many."""
    policy = load_policy(job.policy) if job.policy else None
    found = rejudge(job.archive, job.first, job.last, model=load_model(job.model), policy=policy)
    print(", ".join(f"{name.replace('_', ' ')} {number}" for name, number in asdict(found).items()))


if __name__ == "__main__":
    run_job(main, RejudgeJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_score")
