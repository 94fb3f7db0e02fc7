"""Find the evidence of each penalty of some days, and keep it in the archive for whoever appeals.

Reads the endpoint's archive at `archive` and the model that judged; writes the penalties with evidence below
`evidence/` in the archive. Safe to resubmit: what is there is not made again. Run it daily, before a model is replaced.

    python -m jobs.cancellation_evidence archive=s3://bucket/prefix first=2026-10-22 last=2026-10-22
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from pathlib import Path

from cancellation.serving.evidence import make_evidence
from cancellation.serving.inference.model import load_model
from cancellation.serving.settings import ModelSettings
from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.settings import Settings


class EvidenceJob(Settings):
    """Which penalties, and by what model."""

    archive: InputUrl = "var/serving/archive"
    """Where the endpoint ships, `serving.output`."""

    first: date
    """First day, in UTC, on which they were answered."""

    last: date
    """Last day."""

    model: ModelSettings = ModelSettings()
    """The one that judged: evidence of another one's verdict would be made up."""


def main(job: EvidenceJob) -> None:
    """Explain and say how many."""
    found = make_evidence(job.archive, job.first, job.last, model=load_model(job.model))
    print(", ".join(f"{name.replace('_', ' ')} {number}" for name, number in asdict(found).items()))


if __name__ == "__main__":
    run_job(main, EvidenceJob, defaults=Path(__file__).with_suffix(".toml"))
