"""Look up in the archive what an appeal is about: the decision, the policy it rests on, the model's version.

Reads the endpoint's archive at `archive`; prints one JSON object: `decision` (with the event as it was logged),
`explained` (its decision factors with their evidence, once jobs.cancellation_evidence has run), `later` decisions on
the same event of that day, each with its own `explained`, `policy` (the file's text). Changes nothing.

    python -m jobs.cancellation_appeal archive=s3://bucket/prefix event_id=cancelled-1 market=ID day=2026-10-22
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from pydantic import Field

from cancellation.serving.records.shipped_log import find_decision
from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.settings import Settings


class AppealJob(Settings):
    """Which decision."""

    archive: InputUrl = "var/serving/archive"
    """Where the endpoint ships, `serving.output`."""

    event_id: str
    market: str = Field(pattern="^[A-Z]{2}$")

    day: date
    """On which it was judged, in UTC."""


def main(job: AppealJob) -> None:
    """Look it up and print it."""
    found = find_decision(job.archive, job.event_id, market=job.market, day=job.day)
    print(json.dumps(found, default=str, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    run_job(main, AppealJob, defaults=Path(__file__).with_suffix(".toml"))
