"""A market's first labels from their settings: what is drawn and asked, and the sample that the answers become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from cancellation.model.verdict_model import load_verdict_model
from cancellation.relabelling.answers import read_answers
from cancellation.relabelling.cases import Case, read_cases
from cancellation.relabelling.correction import write_first
from cancellation.relabelling.first_labels import FirstSettings, draw_first, flag_by_model, flag_by_rules
from cancellation.relabelling.round import make_round, round_plan
from cancellation.relabelling.run import AnswerSettings
from cluster.commit import Output
from cluster.models.files import ModelName, fetch_model, resolve_model
from cluster.places import InputUrl
from cluster.storage import absolute_url


class FirstLabelSettings(AnswerSettings):
    """Of which market, from what."""

    market: str = Field(pattern=r"^[A-Z]{2}$")
    """The market, ISO 3166-1 alpha-2."""

    input: InputUrl
    """Its cancellations of a period, all of them: a file or folder of JSONL or parquet, local or s3://."""

    model: ModelName | None = None
    """Exported model that flags cancellations, calibrated: folder, s3:// folder, or models:/name@alias of MLflow; null:
    the rules flag."""

    cache_dir: str = "~/.cache/marketplace-llm"
    """Where remote models are kept on this machine."""

    first: FirstSettings = FirstSettings()


def ask_first(settings: FirstLabelSettings, registry_uri: str | None) -> dict[str, Any]:
    """Draw and make a round, or find it made; gives its manifest.

    Raises:
        ValueError: If the events cannot be read, are too few, or the folder holds another round.
    """
    files = resolve_model(settings.model, registry_uri=registry_uri) if settings.model else None
    sections = {"first": settings.first, "tasks": settings.tasks}
    plan = round_plan(settings.input, sections, market=settings.market, flagged_by=files.digest if files else "rules")
    figures: dict[str, int] = {}

    def choose() -> list[Case]:
        flag = flag_by_rules
        if files:
            folder = fetch_model(files, cache_dir=str(Path(settings.cache_dir).expanduser()))
            flag = flag_by_model(load_verdict_model(folder), settings.first.flag_above)
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
