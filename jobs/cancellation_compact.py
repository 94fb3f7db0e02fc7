"""Put the small files of the endpoint's archive together: one per market and day.

Reads and writes the archive at `archive`. Safe to resubmit. `read_log` sees every row once all the while; another
reader may see rows twice for the seconds between a day's new file and the end of its old ones.

    python -m jobs.cancellation_compact archive=s3://bucket/prefix before=2026-11-20
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path

from cancellation.serving.records.compaction import compact
from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.settings import Settings


class CompactJob(Settings):
    """Which days."""

    archive: InputUrl = "var/serving/archive"
    """Where the endpoint ships, `serving.output`."""

    before: date | None = None
    """First day, in UTC, that stays as it is; null: today, which is still being written."""


def main(job: CompactJob) -> None:
    """Put together and say how many files there were."""
    done = compact(job.archive, before=job.before or datetime.now(UTC).date())
    print(", ".join(f"{name.replace('_', ' ')} {number}" for name, number in asdict(done).items()))


if __name__ == "__main__":
    run_job(main, CompactJob, defaults=Path(__file__).with_suffix(".toml"))
