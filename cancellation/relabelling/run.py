"""Rounds from their settings, of relabelling and of first labels: what is asked, and what becomes of the answers."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from pydantic import Field, model_validator

from cancellation.decision.policy import load_policy
from cancellation.model.verdict_model import load_verdict_model
from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, one_identity, read_cases, read_labelled
from cancellation.relabelling.correction import Correction, correct, write_first
from cancellation.relabelling.first_labels import FirstSettings, draw_first, flag_by_model, flag_by_rules
from cancellation.relabelling.judges import JudgeSettings, Workshop
from cancellation.relabelling.rejected import Monitored, rejected_verdicts
from cancellation.relabelling.round import AskSettings, choose_cases, make_round, round_plan
from cancellation.relabelling.tasks import TaskSettings
from cancellation.serving.records.people import KeyPath, find_key
from cluster.commit import Output
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.places import CachePath, InputUrl, OutputUrl
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

    policy: InputUrl | None = None
    """Policy file, for the verdicts that each market knows, as in scoring; null: the one that ships."""

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

    monitoring: Monitored = "var/cancellation/monitoring"
    """The output of jobs.cancellation_monitor, which says which these are."""

    person_key_file: KeyPath | None = None
    """The endpoint's key (`serving.person_key_file`): sellers, buyers and orders stand in the archive under keyed
    digests, and by it they are known for those of `input`. Null: what VERDICTS_PERSON_KEY_FILE names, or none."""

    until: date | None = None
    """Last day of feedback that counts, in UTC; null: today."""

    most_rejected: int = Field(default=1000, ge=0)
    """Rejected verdicts of a round, the latest ones."""

    retrain: bool = True
    """With answers: teach both models before and after, and say what the labels gain."""

    ask: AskSettings = AskSettings()
    judges: JudgeSettings = JudgeSettings()

    def unused(self) -> set[str]:
        """Without an archive no rejected verdicts are looked for; without training there are no judges."""
        left = set() if not self.answers or self.retrain else {"judges"}
        return left | ({"monitoring"} if self.archive is None else set())

    @property
    def teaches_networks(self) -> bool:
        """Whether verdict models are trained."""
        judging = not self.answers or self.retrain
        return judging and any(kind.startswith("fusion") for kind in self.judges.kinds)


def ask(settings: RelabelSettings, workshop: Workshop) -> dict[str, Any]:
    """Make a round, or find it made; gives its manifest.

    Raises:
        ValueError: If the labels cannot be read, are too few, the folder holds another round, or sellers stand under
            digests and under ids and there is no key.
        RuntimeError: If training failed.
    """
    sections = {"ask": settings.ask, "tasks": settings.tasks, "judges": settings.judges}
    given = {"archive": settings.archive, "until": str(settings.until), "classes": workshop.policy.classes}
    plan = round_plan(settings.input, sections, **given)

    def choose() -> list[Case]:
        rejected: list[Case] = []
        if settings.archive:
            until = settings.until or datetime.now(UTC).date()
            rejected = rejected_verdicts(settings.archive, settings.monitoring, until, most=settings.most_rejected)
        rows, rejected = one_identity(read_labelled(settings.input), rejected, find_key(settings.person_key_file))
        return choose_cases(rows, rejected, workshop, settings.ask)

    return make_round(Output(absolute_url(settings.round)), plan, choose, settings.tasks)


def take_answers(settings: RelabelSettings, workshop: Workshop) -> dict[str, Any]:
    """Correct the labels by what people said; gives the report.

    Raises:
        ValueError: If an answer cannot be used, or the folder holds the result of others; nothing is written then.
        RuntimeError: If training failed.
    """
    manifest, cases = read_cases(absolute_url(settings.round))
    answers = read_answers(settings.answers, cases, manifest, people=settings.people)
    rows, asked = one_identity(read_labelled(settings.input), list(cases.values()), find_key(settings.person_key_file))
    cases = {case.event.event_id: case for case in asked}
    correction = Correction(settings.input, rows, cases, manifest, answers, settings.ask.test_fraction)
    judges = {"judges": public_settings(settings.judges), "classes": workshop.policy.classes}
    plan = {**correction.plan(), **judges, "retrain": settings.retrain}
    return correct(correction, Output(absolute_url(settings.output)), plan, workshop if settings.retrain else None)


class FirstLabelSettings(AnswerSettings):
    """Of which market, from what."""

    market: str = Field(pattern=r"^[A-Z]{2}$")
    """The market, ISO 3166-1 alpha-2."""

    input: InputUrl
    """Its cancellations of a period, all of them: a file or folder of JSONL or parquet, local or s3://."""

    model: ModelName | None = None
    """Exported model that flags cancellations, calibrated: folder, s3:// folder, or models:/name@alias of MLflow; null:
    the rules flag."""

    cache_dir: CachePath = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    first: FirstSettings = FirstSettings()


def ask_first(settings: FirstLabelSettings, registry_uri: str | None) -> dict[str, Any]:
    """Draw and make a round, or find it made; gives its manifest.

    Raises:
        ValueError: If the events cannot be read, are too few, or the folder holds another round.
    """
    files = resolve_model(settings.model, registry_uri=registry_uri) if settings.model else None
    sections, policy = {"first": settings.first, "tasks": settings.tasks}, load_policy(settings.policy)
    given: dict[str, Any] = {"market": settings.market, "flagged_by": files.digest if files else "rules"}
    if files:
        given["classes"] = policy.market(settings.market).classes
    plan = round_plan(settings.input, sections, **given)
    figures: dict[str, int] = {}

    def choose() -> list[Case]:
        flag = flag_by_rules
        if files:
            folder = fetch_model(files, cache_dir=settings.cache_dir)
            flag = flag_by_model(load_verdict_model(folder), settings.first.flag_above, policy)
        cases, size = draw_first(settings.input, settings.market, flag, settings.first)
        figures.update(size.as_dict())
        return cases

    return make_round(Output(absolute_url(settings.round)), plan, choose, settings.tasks, figures=figures)


def take_first(settings: FirstLabelSettings) -> dict[str, Any]:
    """Write what people said as a weighted sample; gives its counts.

    Raises:
        ValueError: If an answer cannot be used, or cases are not settled.
    """
    manifest, cases = read_cases(absolute_url(settings.round))
    answers = read_answers(settings.answers, cases, manifest, people=settings.people)
    return write_first(cases, manifest, answers, Output(absolute_url(settings.output)))
