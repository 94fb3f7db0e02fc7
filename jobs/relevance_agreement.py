"""Read annotations back: how far people agree, with each other and with gold, and one label per pair.

Reads the rounds of jobs.relevance_annotate and what annotators gave back (Label Studio exports as JSON, sheets as CSV),
and a lead's `decisions` if there are any. Writes to `output`: agreement.html, labelled_pairs.parquet and .csv to train
on, conflicts.csv for a lead to fill in, history.csv with every label's way, run.json. Safe to resubmit.

    python -m jobs.relevance_agreement rounds=var/rounds/1 annotations=var/exports output=var/agreement/1
"""

from __future__ import annotations

from pathlib import Path

from cluster.launch import run_job
from cluster.tracking import TrackingSettings, tracked_run
from relevance.annotation.adjudication import AdjudicationSettings
from relevance.annotation.agreement import AgreementSettings
from relevance.annotation.agreement_report import AnnotationInputs, print_agreement, report_agreement


class AgreementJob(AnnotationInputs):
    """The agreement job's settings."""

    agreement: AgreementSettings = AgreementSettings()
    adjudication: AdjudicationSettings = AdjudicationSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: AgreementJob) -> None:
    """Read, measure, settle, report."""
    with tracked_run("relevance_agreement", job, job.tracking) as run:
        print_agreement(report_agreement(job, job.agreement, job.adjudication, run), run.where)


if __name__ == "__main__":
    run_job(main, AgreementJob, defaults=Path(__file__).with_suffix(".toml"))
