"""Read what annotators gave back, measure how far they agree, settle each pair's label, and write it all down."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import Field

from cluster.commit import Output
from cluster.places import InputUrl, OutputUrl
from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from relevance.annotation.adjudicated_files import CONFLICTS, LABELLED, adjudicated_files
from relevance.annotation.adjudication import AdjudicationSettings, Decision, adjudicate, read_decisions
from relevance.annotation.agreement import AgreementSettings, Rows, measure_agreement
from relevance.annotation.agreement_page import AgreementPage, alpha_rows, judge, next_steps, render_agreement
from relevance.annotation.annotation import Annotation, PairKey, bring_home, check_annotations
from relevance.annotation.files import read_annotations
from relevance.annotation.round import read_round
from relevance.prompting.guidelines import load_guidelines

PAGE, RUN = "agreement.html", "run.json"
_NOT_IN_A_METRIC = re.compile(r"[^\w\-. /:]")


class AnnotationInputs(Settings):
    """What people gave back, and to what."""

    rounds: tuple[InputUrl, ...]
    """Output folders of jobs.relevance_annotate."""

    annotations: tuple[InputUrl, ...]
    """Label Studio exports (JSON) and filled-in sheets (CSV): files, or folders of them."""

    decisions: InputUrl | None = None
    """A lead's decisions: conflicts.csv of an earlier run, filled in."""

    people: dict[str, str] = Field(default={})
    """Names of Label Studio's users, by e-mail or number, where a project was shared: {"3": "ann"}."""

    output: OutputUrl
    """Folder for page and labels. One that holds the result of other annotations is refused."""


@dataclass(frozen=True)
class AgreementRun:
    """What a run found, for the last words on the terminal."""

    url: str
    fine: bool
    sentence: str
    steps: tuple[str, ...]
    labels: Mapping[str, int]
    already_done: bool


@dataclass(frozen=True)
class Returned:
    """What came back, checked."""

    rows: Rows
    annotations: Sequence[Annotation]
    decisions: Mapping[PairKey, Decision]
    num_files: int

    def by_people(self) -> list[Annotation]:
        """List the annotations of pairs whose label is not settled."""
        return [one for one in self.annotations if self.rows[one.round, one.pair].gold is None]


def report_agreement(
    job: AnnotationInputs, agreement: AgreementSettings, adjudication: AdjudicationSettings, run: TrackedRun
) -> AgreementRun:
    """Read, check, measure, settle, write.

    Raises:
        ValueError: If an annotation or a decision is refused; nothing is written then.
    """
    returned = _read_returned(job)
    output = Output(job.output)
    plan = _plan(job, agreement, adjudication, returned)
    if committed := output.find(plan):
        run.tags({"already_done": "true"})
        return AgreementRun(url=job.output, already_done=True, **committed["result"])
    page = AgreementPage(
        figures=measure_agreement(returned.annotations, returned.rows, agreement, decided=returned.decisions),
        adjudicated=adjudicate(returned.by_people(), returned.decisions, adjudication),
        settings=agreement,
        missing_labels=max(0, sum(row.asked for row in returned.rows.values()) - len(returned.annotations)),
        guideline_version=load_guidelines().version,
        identity=_identity(job, returned),
    )
    result = _result(page)
    contents = _contents(page, returned.rows, plan)
    output.open(plan)  # not before: what is refused must not claim the folder
    output.publish({name: output.write_data(name, content) for name, content in contents.items()})
    output.commit(plan, {"result": result})
    output.clean_up()
    _track(run, page, contents)
    return AgreementRun(url=job.output, already_done=False, **result)


def _read_returned(job: AnnotationInputs) -> Returned:
    rows = _given_out(job.rounds)
    files = read_annotations(job.annotations, people=job.people)
    annotations = bring_home(files.annotations, rows)
    check_annotations(annotations, rows)
    labelled = {one.pair for one in annotations if rows[one.round, one.pair].gold is None}
    decisions = read_decisions(job.decisions, labelled) if job.decisions else {}
    return Returned(rows, annotations, decisions, num_files=len(files.names))


def _given_out(rounds: Sequence[str]) -> Rows:
    """Read what people were asked, by round and pair.

    Raises:
        ValueError: If two folders hold rounds of one name: a label would count for either.
    """
    places: dict[str, str] = {}
    rows = {}
    for url in rounds:
        for row in read_round(url):
            if (first := places.setdefault(row.round, url)) != url:
                raise ValueError(
                    f"rounds: {first} and {url} are both named {row.round!r}, and labels say only that name: measure "
                    "them apart, each with its own `annotations`, and give the next round another name (round=…)"
                )
            rows[row.round, row.pair] = row
    return rows


def _result(page: AgreementPage) -> dict[str, Any]:
    """What the terminal says, then and whenever the job is started again."""
    fine, sentence = judge(page)
    labels = Counter(one.label or "open" for one in page.adjudicated)
    return {"fine": fine, "sentence": sentence, "steps": next_steps(page), "labels": dict(labels)}


def _plan(
    job: AnnotationInputs,
    agreement: AgreementSettings,
    adjudication: AdjudicationSettings,
    returned: Returned,
) -> dict[str, Any]:
    """What the output is a function of: the labels themselves, not the files that they came in."""
    given = sorted([*asdict(one).values()] for one in (replace(one, source="") for one in returned.annotations))
    decided = sorted([*asdict(one).values()] for one in returned.decisions.values())
    return {
        "rounds": [hide_credentials(url) for url in job.rounds],
        "annotations": _digest(given),
        "decisions": _digest(decided),
        "settings": {"agreement": public_settings(agreement), "adjudication": public_settings(adjudication)},
        "guidelines": load_guidelines().version,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _identity(job: AnnotationInputs, returned: Returned) -> dict[str, str]:
    return {
        "rounds": ", ".join(hide_credentials(url) for url in job.rounds),
        "files": f"{returned.num_files} with {len(returned.annotations)} labels",
        "decisions": hide_credentials(job.decisions or ""),
        "commit": collect_provenance().commit or "",
    }


def _contents(page: AgreementPage, rows: Rows, plan: Mapping[str, Any]) -> dict[str, bytes]:
    return {
        PAGE: render_agreement(page),
        RUN: json.dumps(_figures(page) | {"plan": plan} | collect_provenance().as_dict(), indent=1).encode(),
        **adjudicated_files(page.adjudicated, {row.pair: row for row in rows.values()}),
    }


def _figures(page: AgreementPage) -> dict[str, Any]:
    """Everything measured, as JSON types; of the agenda the keys, not the texts."""
    figures, (fine, sentence) = page.figures, judge(page)
    gold = [asdict(one) | {"confusion": one.confusion.tolist()} for one in figures.against_gold]
    return {
        "fine": fine,
        "verdict": sentence,
        "next_steps": next_steps(page),
        "alpha": [{"of": kind, **asdict(one)} for kind, one in alpha_rows(figures)],
        "against_gold": gold,
        "coincidences": figures.coincidences.tolist(),
        "agenda": [list(item.row.pair) for item in figures.agenda],
        "methods": dict(Counter(one.method for one in page.adjudicated)),
        "labels": dict(Counter(one.label for one in page.adjudicated if one.label)),
        "missing_labels": page.missing_labels,
    }


def _track(run: TrackedRun, page: AgreementPage, contents: Mapping[str, bytes]) -> None:
    metrics: dict[str, float | None] = {}
    for kind, one in alpha_rows(page.figures):
        name = "alpha.all" if kind == "all" else f"alpha.{kind}.{one.name}"
        metrics |= {name: one.alpha, f"{name}.low": one.low, f"{name}.high": one.high}
    for one in page.figures.against_gold:
        metrics |= {f"gold.{one.annotator}.accuracy": one.accuracy, f"gold.{one.annotator}.alpha": one.alpha}
    methods = Counter(one.method for one in page.adjudicated)
    metrics |= {f"pairs.{method}": methods[method] for method in ("majority", "decision", "open")}
    fine, sentence = judge(page)
    run.tags({"verdict": sentence, "fine": str(fine).lower(), "guideline_version": page.guideline_version})
    run.metrics({_NOT_IN_A_METRIC.sub("_", name): value for name, value in metrics.items()})
    for name in (PAGE, RUN):
        run.artifact(name, contents[name])


def print_agreement(found: AgreementRun, tracked_at: str) -> None:
    """Print the verdict, what to do next, and where everything is."""
    if found.already_done:
        print("already done: these annotations were judged under the same settings, nothing was written\n")
    print(found.sentence)
    for number, step in enumerate(found.steps, start=1):
        print(f"  {number}. {step}")
    print("\n" + ", ".join(f"{name} {count}" for name, count in sorted(found.labels.items())))
    print(f"{'page':<12}{found.url}/{PAGE}\n{'labels':<12}{found.url}/{LABELLED}.parquet and .csv")
    print(f"{'conflicts':<12}{found.url}/{CONFLICTS}\n{'MLflow':<12}{tracked_at}")
