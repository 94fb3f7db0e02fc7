"""Make a label store's many small files few, so that looking up costs the same after a year as after a day.

Reads and replaces the files under `store`, those of one fingerprint or of all. The scoring job does it by itself past
some number of files; run it between two days where no run shall wait for it. Safe beside a running day; safe to
resubmit.

    python -m jobs.relevance_compact store=s3://bucket/scores/_label_store
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.places import InputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from relevance.scoring.compaction import compact, on_ray
from relevance.scoring.label_store import LabelStore, fingerprints


class CompactJob(Settings):
    """The compaction job's settings."""

    store: InputUrl
    """Label store: `_label_store` beside the scores, or what `scoring.label_store` names; local or s3://."""

    fingerprint: str | None = None
    """The one whose labels are compacted; null: all."""

    session: SessionSettings = SessionSettings()


def main(job: CompactJob) -> None:
    """Compact, fingerprint by fingerprint."""
    found = fingerprints(job.store)
    wanted = [job.fingerprint] if job.fingerprint else found
    if not set(wanted) <= set(found) or not wanted:
        if job.fingerprint:
            raise ValueError(f"{job.store}: no labels of {job.fingerprint} there")
        raise RuntimeError(f"{job.store}: no labels there: run again when a day has been scored, or give another store")
    with ray_session(job.session):
        for number, name in enumerate(wanted, start=1):
            done = compact(LabelStore(job.store.rstrip("/"), name), run=on_ray)
            what = f"{done.num_old:,} files made into {done.num_new:,}" if done.num_old else "nothing to do"
            print(f"{name} ({number} of {len(wanted)}): {what}", flush=True)


if __name__ == "__main__":
    run_job(main, CompactJob, defaults=Path(__file__).with_suffix(".toml"))
