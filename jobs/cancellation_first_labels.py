"""First labels of a market: draw cancellations for people to label, and read their answers as a weighted sample.

Reads unlabelled events of one market from `input`. Without `answers` it writes tasks for Label Studio to `round`; with
them it writes `output`/labelled/first.jsonl and beside it how it was drawn, as jobs.cancellation_calibrate and
jobs.cancellation_new_market read it. Safe to resubmit: a finished round, and a finished reading, say so.

    python -m jobs.cancellation_first_labels market=CO input=co/ round=var/first/CO
    python -m jobs.cancellation_first_labels market=CO input=co/ round=var/first/CO answers=exports/ output=var/CO
"""

from __future__ import annotations

from pathlib import Path

from cancellation.relabelling.first_labels import first_lines
from cancellation.relabelling.report import first_label_lines, round_lines
from cancellation.relabelling.run import FirstLabelSettings, ask_first, take_first
from cluster.launch import run_job
from cluster.tracking import TrackingSettings, tracked_run


class FirstLabelsJob(FirstLabelSettings):
    """The job's settings."""

    tracking: TrackingSettings = TrackingSettings()


def main(job: FirstLabelsJob) -> None:
    """Draw and ask, or read."""
    with tracked_run("cancellation_first_labels", job, job.tracking) as run:
        if job.answers:
            lines = first_label_lines(take_first(job), job.output)
        else:
            manifest = ask_first(job, job.tracking.uri)
            run.metrics(manifest["figures"])
            lines = [*first_lines(manifest["figures"], job.market), *round_lines(manifest, job.round)]
        print("\n".join([*lines, f"MLflow     {run.where}"]))


if __name__ == "__main__":
    run_job(main, FirstLabelsJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_score")
