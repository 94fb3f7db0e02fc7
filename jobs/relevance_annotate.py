"""Make a round of annotation: which pairs people label, who labels which, as tasks for Label Studio and as CSV.

Reads a finished day of scores, the pairs that were scored and, to hide among the tasks, pairs with a settled label.
Writes to `output`: label_studio/config.xml and a .json per person, the same tasks as csv/*.csv, guidelines.html, and
pairs.parquet, which is for the lead alone. Safe to resubmit: a round that is there says so and is left as it is.
What people give back is read by jobs.relevance_agreement.

    python -m jobs.relevance_annotate scores=var/scores output=var/rounds/1 tasks.annotators=ann,bob,cid
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.tracking import TrackingSettings, tracked_run
from relevance.annotation.round import RoundSettings, make_round, print_round
from relevance.annotation.strata import StrataSettings
from relevance.annotation.tasks import TaskSettings


class AnnotateJob(RoundSettings):
    """The annotation job's settings."""

    strata: StrataSettings = StrataSettings()
    tasks: TaskSettings = TaskSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: AnnotateJob) -> None:
    """Draw, assign, write."""
    with tracked_run("relevance_annotate", job, job.tracking) as run:
        print_round(make_round(job, job.strata, job.tasks, run), job.output, run.where)


if __name__ == "__main__":
    run_job(main, AnnotateJob, defaults=Path(__file__).with_suffix(".toml"))
