"""Calibrate a model on labelled past events and prove, market by market, from which score on it may punish.

Reads a backfill of labelled events from `input` and scores it; writes `output`/model, the model with its
calibration.json, and `output`/policy.toml: `policy` with thresholds and the evidence they rest on, or with how many
labelled cases are missing. Safe to resubmit: events already scored are not scored again. With `model=null` the input
is what jobs.cancellation_label said of labelled events, and the language model's own verdicts are calibrated.

    python -m jobs.cancellation_calibrate input=s3://bucket/labelled output=var/models/cancellation_calibrated
    python -m jobs.cancellation_calibrate model=null input=var/cancellation/labels output=var/cancellation/llm_policy
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from cancellation.decision.calibration_plot import draw_reliability
from cancellation.decision.calibration_run import (
    POLICY_FILE,
    CalibrationSettings,
    calibrate_backfill,
    figures,
    write_calibrated,
)
from cancellation.decision.policy import Policy, load_policy
from cancellation.decision.sample import read_sample
from cancellation.llm.judged_rows import read_judged
from cancellation.model.learnt import refuse_learnt
from cancellation.scoring.report import calibration_lines
from cancellation.scoring.run import ScoringSettings, open_run, read_verdicts, score_backfill
from cancellation.serving.records.people import KeyPath, with_one_seller
from cluster.launch import run_job
from cluster.models.files import ModelName, fetch_model
from cluster.places import CachePath, InputUrl, OutputUrl
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url, join_url, read_bytes
from cluster.tracking import TrackingSettings, tracked_run


class CalibrateJob(Settings):
    """The calibration's settings."""

    input: InputUrl
    """Labelled events (JSONL or parquet): a random sample of all cancellations, with how it was drawn beside it."""

    output: OutputUrl
    """Folder for the scored backfill, the calibrated model and the policy file."""

    model: ModelName | None = "cancellation/small_model"
    """Exported model: folder, s3:// folder, or models:/name@alias of MLflow; null: a language model's, see above."""

    policy: InputUrl | None = None
    """Policy file whose states, classes and languages are kept; null: the one that ships."""

    person_key_file: KeyPath | None = None
    """The endpoint's key, by which a seller's id and its archive's digest are one seller; null: the environment's."""

    date: str = Field(default="", pattern=r"^(\d{4}-\d\d-\d\d)?$")
    """Day that the evidence gets; empty: today, in UTC."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on each machine."""

    calibration: CalibrationSettings = CalibrationSettings()
    scoring: ScoringSettings = ScoringSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()


def main(job: CalibrateJob) -> None:
    """Score, calibrate, prove, write."""
    (sample := read_sample(job.input)).refuse(job.input)
    policy, day = load_policy(job.policy), job.date or datetime.now(UTC).date().isoformat()
    with tracked_run("cancellation_calibrate", job, job.tracking) as tracked:
        rows, folder = _scored(job, job.model, policy) if job.model else (read_judged(absolute_url(job.input)), None)
        rows = with_one_seller(rows, job.person_key_file)
        calibrated = calibrate_backfill(rows, policy, job.calibration, sample=sample, day=day)
        written = write_calibrated(calibrated, folder, job.output, source=job.input, day=day)
        tracked.metrics(figures(calibrated))
        tracked.figure("reliability.png", draw_reliability(calibrated.calibration))
        tracked.artifact(POLICY_FILE, read_bytes(policy_url := join_url(job.output, POLICY_FILE)))
    where = f"model   {written}", f"policy  {policy_url} ({calibrated.policy.stamp})"
    print(*calibration_lines(calibrated), *where, tracked.where, sep="\n")


def _scored(job: CalibrateJob, model: str, policy: Policy) -> tuple[pa.Table, Path]:
    names = (job.input, f"{job.output}/verdicts", model, policy)
    run = open_run(*names, job.scoring, cache_dir=job.cache_dir, registry_uri=job.tracking.uri)
    refuse_learnt(run.input, folder := fetch_model(run.model, cache_dir=job.cache_dir))
    with ray_session(job.session):
        score_backfill(run)
    return read_verdicts(run.output.url), folder


if __name__ == "__main__":
    run_job(main, CalibrateJob, defaults=Path(__file__).with_suffix(".toml"), estimate="ask jobs.cancellation_score")
