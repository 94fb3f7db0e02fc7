"""Look again at labels that models doubt: ask people, read their answers, write corrected labels, measure the gain.

Reads labelled events from `input` and, where given, verdicts that people rejected (`archive`, `monitoring`). Without
`answers` it writes tasks for Label Studio to `round`; with them it writes corrected labels and a report to `output`.
Safe to resubmit: a finished round, and a finished correction, say so.

    python -m jobs.cancellation_relabel input=labelled/ round=var/relabel/1
    python -m jobs.cancellation_relabel input=labelled/ round=var/relabel/1 answers=exports/ output=var/relabelled/1
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import Field, model_validator

from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import read_cases, read_labelled
from cancellation.relabelling.correction import Correction, correct
from cancellation.relabelling.judges import JudgeSettings, Workshop
from cancellation.relabelling.rejected import rejected_verdicts
from cancellation.relabelling.report import correction_lines, figures, round_lines
from cancellation.relabelling.round import AskSettings, choose_cases, make_round, round_plan
from cancellation.relabelling.tasks import TaskSettings
from cluster.commit import Output
from cluster.launch import run_job
from cluster.provenance import public_settings
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings
from cluster.storage import absolute_url
from cluster.tracking import TrackedRun, TrackingSettings, tracked_run
from cluster.training.train import TrainerSettings


class RelabelJob(Settings):
    """The relabelling job's settings."""

    input: str
    """Labelled events: a file or folder of JSONL or parquet, local or s3://."""

    round: str
    """Folder of the round. Its last part is the round's name."""

    answers: tuple[str, ...] = ()
    """Label Studio exports (JSON), files or folders of them; none: the round is made, and people are asked."""

    output: str | None = None
    """Folder for corrected labels and the report, where there are answers."""

    people: dict[str, str] = Field(default={})
    """Names of Label Studio's users, by e-mail or number, where they differ from the tasks' own: {"3": "ann"}."""

    archive: str | None = None
    """Where the endpoint ships (`serving.output`): verdicts of the model that people rejected are asked too."""

    monitoring: str = "var/cancellation/monitoring"
    """The output of jobs.cancellation_monitor, which says which these are."""

    until: date | None = None
    """Last day of feedback that counts, in UTC; null: today."""

    most_rejected: int = Field(default=1000, ge=0)
    """Rejected verdicts of a round, the latest ones."""

    retrain: bool = True
    """With answers: teach both models before and after, and say what the labels gain."""

    work: str = "var/relabelling"
    """Folder for models on this machine's disk; they can be removed afterwards."""

    cache_dir: str = "var/cache"
    """Folder for copies of remote models."""

    ask: AskSettings = AskSettings()
    tasks: TaskSettings = TaskSettings()
    judges: JudgeSettings = JudgeSettings()
    trainer: TrainerSettings = TrainerSettings()
    session: SessionSettings = SessionSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _output_for_answers(self) -> RelabelJob:
        if self.answers and self.output is None:
            raise ValueError("output: answers are given, expected a folder for the corrected labels too")
        return self


def main(job: RelabelJob) -> None:
    """Ask, or correct."""
    with tracked_run("cancellation_relabel", job, job.tracking) as run:
        lines = _correct(job, run) if job.answers else _ask(job, run)
        print("\n".join([*lines, f"MLflow     {run.where}"]))


def _workshop(job: RelabelJob, run: TrackedRun) -> Workshop:
    cache = str(Path(job.cache_dir).absolute())
    return Workshop(job.judges, job.trainer, Path(job.work).absolute() / (run.run_id or "untracked"), cache, run)


def _ask(job: RelabelJob, run: TrackedRun) -> list[str]:
    settings = {"ask": job.ask, "tasks": job.tasks, "judges": job.judges}
    plan = round_plan(job.input, settings, archive=job.archive, until=str(job.until))

    def choose() -> list:
        rows = read_labelled(job.input)
        until = job.until or datetime.now(UTC).date()
        rejected = rejected_verdicts(job.archive, job.monitoring, until, most=job.most_rejected) if job.archive else []
        with ray_session(job.session):
            return choose_cases(rows, rejected, _workshop(job, run), job.ask)

    manifest = make_round(Output(absolute_url(job.round)), plan, choose, job.tasks)
    run.metrics({f"asked.{why}": count for why, count in manifest["asked"].items()})
    return round_lines(manifest, job.round)


def _correct(job: RelabelJob, run: TrackedRun) -> list[str]:
    manifest, cases = read_cases(absolute_url(job.round))
    answers = read_answers(job.answers, cases, manifest, people=job.people)
    rows = read_labelled(job.input)
    correction = Correction(job.input, rows, cases, manifest, answers, job.ask.test_fraction)
    plan = {**correction.plan(), "judges": public_settings(job.judges), "retrain": job.retrain}
    output = Output(absolute_url(job.output or ""))
    if output.job_manifest() is None and job.retrain:
        with ray_session(job.session):
            report = correct(correction, output, plan, _workshop(job, run))
    else:
        report = correct(correction, output, plan, None)
    run.metrics(figures(report))
    return correction_lines(report, job.output or "")


if __name__ == "__main__":
    run_job(main, RelabelJob, defaults=Path(__file__).with_suffix(".toml"))
