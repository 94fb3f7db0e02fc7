"""First labels of a market: draw cancellations for people to label, and read their answers as a weighted sample.

Reads unlabelled events of one market from `input`. Without `answers` it writes tasks for Label Studio to `round`; with
them it writes `output`/labelled/first.jsonl and beside it how it was drawn, as jobs.cancellation_calibrate and
jobs.cancellation_new_market read it. Safe to resubmit: a finished round, and a finished reading, say so.

    python -m jobs.cancellation_first_labels market=CO input=co/ round=var/first/CO
    python -m jobs.cancellation_first_labels market=CO input=co/ round=var/first/CO answers=exports/ output=var/CO
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from cancellation.model.verdict_model import load_verdict_model
from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, read_cases
from cancellation.relabelling.correction import write_first
from cancellation.relabelling.first_labels import FirstSettings, draw_first, first_lines, flag_by_model, flag_by_rules
from cancellation.relabelling.report import first_label_lines, round_lines
from cancellation.relabelling.round import make_round, round_plan
from cancellation.relabelling.tasks import TaskSettings
from cluster.commit import Output
from cluster.launch import run_job
from cluster.models.files import fetch_model, resolve_model
from cluster.settings import Settings
from cluster.storage import absolute_url
from cluster.tracking import TrackedRun, TrackingSettings, tracked_run


class FirstLabelsJob(Settings):
    """The job's settings."""

    market: str = Field(pattern=r"^[A-Z]{2}$")
    """The market, ISO 3166-1 alpha-2."""

    input: str
    """Its cancellations of a period, all of them: a file or folder of JSONL or parquet, local or s3://."""

    round: str
    """Folder of the round. Its last part is the round's name."""

    model: str | None = None
    """Exported model that flags cancellations, calibrated: folder, s3:// folder, or models:/name@alias of MLflow; null:
    the rules flag."""

    answers: tuple[str, ...] = ()
    """Label Studio exports (JSON), files or folders of them; none: the round is made, and people are asked."""

    output: str | None = None
    """Folder for the labelled sample, where there are answers."""

    people: dict[str, str] = Field(default={})
    """Names of Label Studio's users, by e-mail or number, where they differ from the tasks' own: {"3": "ann"}."""

    cache_dir: str = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    first: FirstSettings = FirstSettings()
    tasks: TaskSettings = TaskSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _output_for_answers(self) -> FirstLabelsJob:
        if self.answers and self.output is None:
            raise ValueError("output: answers are given, expected a folder for the labelled sample too")
        return self


def main(job: FirstLabelsJob) -> None:
    """Draw and ask, or read."""
    with tracked_run("cancellation_first_labels", job, job.tracking) as run:
        lines = _read(job) if job.answers else _ask(job, run)
        print("\n".join([*lines, f"MLflow     {run.where}"]))


def _ask(job: FirstLabelsJob, run: TrackedRun) -> list[str]:
    files = resolve_model(job.model, registry_uri=job.tracking.uri) if job.model else None
    plan = round_plan(
        job.input,
        {"first": job.first, "tasks": job.tasks},
        market=job.market,
        flagged_by=files.digest if files else "rules",
    )
    found: dict[str, int] = {}

    def choose() -> list[Case]:
        flag = flag_by_rules
        if files:
            model = load_verdict_model(fetch_model(files, cache_dir=str(Path(job.cache_dir).expanduser())))
            flag = flag_by_model(model, job.first.flag_above)
        cases, size = draw_first(job.input, job.market, flag, job.first)
        found.update(size.as_dict())
        return cases

    manifest = make_round(Output(absolute_url(job.round)), plan, choose, job.tasks, figures=found)
    run.metrics(manifest["figures"])
    return [*first_lines(manifest["figures"], job.market), *round_lines(manifest, job.round)]


def _read(job: FirstLabelsJob) -> list[str]:
    manifest, cases = read_cases(absolute_url(job.round))
    answers = read_answers(job.answers, cases, manifest, people=job.people)
    report = write_first(cases, manifest, answers, Output(absolute_url(job.output or "")))
    return first_label_lines(report, job.output or "")


if __name__ == "__main__":
    run_job(main, FirstLabelsJob, defaults=Path(__file__).with_suffix(".toml"))
