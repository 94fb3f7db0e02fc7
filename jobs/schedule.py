"""Run what a product's schedule says, for a day or a span of days; or write it for Airflow or Kubernetes.

Reads `<product>/schedule.toml`. Runs the flow's steps one after the other, in processes of this machine or, with
`address`, as Ray jobs; notes below the schedule's `record` what is done. Safe to resubmit: it goes on behind the last
step that is done, so this is also how a week is backfilled.

    python -m jobs.schedule product=cancellation
    python -m jobs.schedule product=cancellation first=2026-11-16 last=2026-11-22 values.root=s3://bucket
    python -m jobs.schedule product=cancellation render=airflow output="$AIRFLOW_HOME/dags" values.root=s3://bucket
    kubectl kustomize cluster/kuberay/production | python -m jobs.schedule product=relevance render=kubernetes
"""

from __future__ import annotations

import os
import sys
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from cluster.launch import run_job
from cluster.schedule.cronjobs import render_cronjobs
from cluster.schedule.dag_files import render_airflow
from cluster.schedule.plan import find_flow, load_schedule
from cluster.schedule.ray_jobs import RayJobs
from cluster.schedule.runner import chosen_days, run_and_print, run_here, run_on
from cluster.settings import Settings


class ScheduleJob(Settings):
    """Which schedule, which days, and what to do with it."""

    product: Literal["relevance", "cancellation"]

    flow: str = "daily"
    """Steps that run together, as the schedule names them."""

    day: date | None = None
    """The day to look at, in UTC; null: yesterday."""

    first: date | None = None
    """First day of a span, instead of `day`."""

    last: date | None = None
    """Last day of the span; null: yesterday."""

    again: bool = False
    """Run also what is done already."""

    values: dict[str, str] = Field(default_factory=dict)
    """Take the place of the schedule's values, as values.root=s3://bucket."""

    address: str | None = None
    """Ray's job API, such as http://127.0.0.1:8265, with RAY_AUTH_TOKEN; null: processes of this machine."""

    render: Literal["airflow", "kubernetes"] | None = None
    """Write all flows for one of these, and run nothing."""

    output: str = "var/dags"
    """Folder for the files of render=airflow. Those of render=kubernetes are printed."""


def main(job: ScheduleJob) -> None:
    """Render, or run day by day."""
    schedule = load_schedule(Path(str(files(job.product) / "schedule.toml")), job.values)
    if job.render == "airflow":
        print("\n".join(render_airflow(schedule, job.output)))
    elif job.render == "kubernetes":
        print(render_cronjobs(schedule, sys.stdin.read(), job.values))
    else:
        days = chosen_days(job.day, job.first, job.last)
        start = run_on(RayJobs(job.address, os.environ.get("RAY_AUTH_TOKEN"))) if job.address else run_here
        run_and_print(schedule, find_flow(schedule, job.flow), days, start=start, again=job.again)


if __name__ == "__main__":
    run_job(main, ScheduleJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask the jobs of its steps")
