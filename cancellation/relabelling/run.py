"""A round of relabelling from its settings: what is asked, and what becomes of the answers."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from pydantic import Field, model_validator

from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, read_cases, read_labelled
from cancellation.relabelling.correction import Correction, correct
from cancellation.relabelling.judges import JudgeSettings, Workshop
from cancellation.relabelling.rejected import rejected_verdicts
from cancellation.relabelling.round import AskSettings, choose_cases, make_round, round_plan
from cancellation.relabelling.tasks import TaskSettings
from cluster.commit import Output
from cluster.places import InputUrl, OutputUrl
from cluster.provenance import public_settings
from cluster.settings import Settings
from cluster.storage import absolute_url


class AnswerSettings(Settings):
    """What people gave back."""

    round: OutputUrl
    """Folder of the round. Its last part is the round's name."""

    answers: tuple[InputUrl, ...] = ()
    """Label Studio exports (JSON), files or folders of them; none: the round is made, and people are asked."""

    output: OutputUrl | None = None
    """Folder for the labels, where there are answers."""

    people: dict[str, str] = Field(default={})
    """Names of Label Studio's users, by e-mail or number, where they differ from the tasks' own: {"3": "ann"}."""

    tasks: TaskSettings = TaskSettings()

    @model_validator(mode="after")
    def _output_for_answers(self) -> AnswerSettings:
        if self.answers and not self.output:
            raise ValueError("output: answers are given, expected a folder for the labels too")
        return self


class RelabelSettings(AnswerSettings):
    """Which labels are looked at again, by whom they are doubted."""

    input: InputUrl
    """Labelled events: a file or folder of JSONL or parquet, local or s3://."""

    archive: InputUrl | None = None
    """Where the endpoint ships (`serving.output`): verdicts of the model that people rejected are asked too."""

    monitoring: str = "var/cancellation/monitoring"
    """The output of jobs.cancellation_monitor, which says which these are."""

    until: date | None = None
    """Last day of feedback that counts, in UTC; null: today."""

    most_rejected: int = Field(default=1000, ge=0)
    """Rejected verdicts of a round, the latest ones."""

    retrain: bool = True
    """With answers: teach both models before and after, and say what the labels gain."""

    ask: AskSettings = AskSettings()
    judges: JudgeSettings = JudgeSettings()


def ask(settings: RelabelSettings, workshop: Workshop) -> dict[str, Any]:
    """Make a round, or find it made; gives its manifest.

    Raises:
        ValueError: If the labels cannot be read, are too few, or the folder holds another round.
        RuntimeError: If training failed.
    """
    sections = {"ask": settings.ask, "tasks": settings.tasks, "judges": settings.judges}
    plan = round_plan(settings.input, sections, archive=settings.archive, until=str(settings.until))

    def choose() -> list[Case]:
        rejected: list[Case] = []
        if settings.archive:
            until = settings.until or datetime.now(UTC).date()
            rejected = rejected_verdicts(settings.archive, settings.monitoring, until, most=settings.most_rejected)
        return choose_cases(read_labelled(settings.input), rejected, workshop, settings.ask)

    return make_round(Output(absolute_url(settings.round)), plan, choose, settings.tasks)


def take_answers(settings: RelabelSettings, workshop: Workshop) -> dict[str, Any]:
    """Correct the labels by what people said; gives the report.

    Raises:
        ValueError: If an answer cannot be used, or the folder holds the result of others; nothing is written then.
        RuntimeError: If training failed.
    """
    manifest, cases = read_cases(absolute_url(settings.round))
    answers = read_answers(settings.answers, cases, manifest, people=settings.people)
    rows = read_labelled(settings.input)
    correction = Correction(settings.input, rows, cases, manifest, answers, settings.ask.test_fraction)
    plan = {**correction.plan(), "judges": public_settings(settings.judges), "retrain": settings.retrain}
    return correct(correction, Output(absolute_url(settings.output)), plan, workshop if settings.retrain else None)
