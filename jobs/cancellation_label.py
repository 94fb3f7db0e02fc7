"""Label cancelled orders with a language model: verdict, decision factors, reasoning, and what it cost.

Reads events (JSONL or parquet; a folder or a file, local or s3://) from `input`; writes one row per event as parquet to
`output`, visible all at once by `_SUCCESS`: the event, its label, reasoning, probability, cost, model; or its error.
`jobs.cancellation_train training.events.events=OUTPUT` takes it. Safe to resubmit: a finished output says so, a killed
or stopped one goes on, and nothing that was answered is asked again.

    python -m jobs.cancellation_label input=events.jsonl output=var/cancellation/labels --estimate
    python -m jobs.cancellation_label input=s3://… output=s3://… backend.kind=endpoint backend.endpoint.budget_usd=20 …
"""

from __future__ import annotations

from pathlib import Path

from cancellation.decision.policy import load_policy
from cancellation.llm.backends import BackendSettings, pin_backend
from cancellation.llm.estimate import estimate_cost
from cancellation.llm.labelling import LabellingSettings
from cancellation.llm.report import LabellingReport, summary_lines
from cancellation.llm.retrieval import pin_encoder
from cancellation.llm.run import LabellingRun, LabellingRunSettings, label_events
from cluster.commit import Output
from cluster.launch import run_job
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url
from cluster.tracking import TrackingSettings, tracked_run


class LabelJob(Settings):
    """The labelling's settings."""

    input: InputUrl
    """Events to label: a file or folder of JSONL or parquet, local or s3://."""

    output: OutputUrl
    """Folder for the labelled events."""

    estimate: bool = False
    """Say what it would cost, and stop."""

    policy: InputUrl | None = None
    """Policy file, for the classes of each market; null: the one that ships."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models and sentence vectors are kept on each machine."""

    backend: BackendSettings = BackendSettings()
    labelling: LabellingSettings = LabellingSettings()
    run: LabellingRunSettings = LabellingRunSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: LabelJob) -> None:
    """Estimate, or label, commit and report."""
    run = LabellingRun(
        absolute_url(job.input),
        Output(absolute_url(job.output)),
        job.backend,
        load_policy(job.policy),
        job.labelling,
        job.run,
        job.cache_dir,
        pin_backend(job.backend, registry_uri=job.tracking.uri),
        pin_encoder(job.labelling.retrieval, registry_uri=job.tracking.uri),
    )
    if job.estimate:
        print("\n".join(estimate_cost(run).lines()))
        return
    with ray_session(job.session), tracked_run("cancellation_label", job, job.tracking) as tracked:
        done = label_events(run, extras=LabellingReport(run, tracked).files)
        print("\n".join([*summary_lines(run, done), f"MLflow  {tracked.where}"]))


if __name__ == "__main__":
    run_job(main, LabelJob, defaults=Path(__file__).with_suffix(".toml"))
