"""Read what annotators gave back, measure how far they agree, settle each pair's label, and write it all down."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pydantic import Field

from cluster.commit import Output
from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from relevance.adjudication import (
    DECISION_COLUMNS,
    Adjudicated,
    AdjudicationSettings,
    Decision,
    adjudicate,
    read_decisions,
)
from relevance.agreement_page import AgreementPage, alpha_rows, judge, next_steps, render_agreement
from relevance.annotation import Annotation, PairKey, check_annotations
from relevance.annotation_files import AnnotationFiles, read_annotations
from relevance.annotation_pairs import TEXT_COLUMNS
from relevance.annotation_round import RoundPair, read_round
from relevance.annotator_agreement import AgreementSettings, Rows, measure_agreement
from relevance.guidelines import load_guidelines

PAGE, RUN, LABELLED, CONFLICTS, HISTORY = (
    "agreement.html",
    "run.json",
    "labelled_pairs",
    "conflicts.csv",
    "history.csv",
)
_LABELLED_COLUMNS = (*TEXT_COLUMNS, "label", "annotator", "guideline_version", "method", "support")
_NOT_IN_A_METRIC = re.compile(r"[^\w\-. /:]")


class AnnotationInputs(Settings):
    """What people gave back, and to what."""

    rounds: tuple[str, ...]
    """Output folders of jobs.relevance_annotate."""

    annotations: tuple[str, ...]
    """Label Studio exports (JSON) and filled-in sheets (CSV): files, or folders of them."""

    decisions: str | None = None
    """A lead's decisions: conflicts.csv of an earlier run, filled in."""

    people: dict[str, str] = Field(default={})
    """Names of Label Studio's users, by e-mail or number, where a project was shared: {"3": "ann"}."""

    output: str
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


def report_agreement(
    job: AnnotationInputs, agreement: AgreementSettings, adjudication: AdjudicationSettings, run: TrackedRun
) -> AgreementRun:
    """Read, check, measure, settle, write.

    Raises:
        ValueError: If an annotation or a decision is refused; nothing is written then.
    """
    rows = {(row.round, row.pair): row for url in job.rounds for row in read_round(url)}
    files = read_annotations(job.annotations, people=job.people)
    check_annotations(files.annotations, rows)
    people = [one for one in files.annotations if rows[one.round, one.pair].gold is None]
    decisions = read_decisions(job.decisions, {one.pair for one in people}) if job.decisions else {}
    output = Output(job.output)
    plan = _plan(job, agreement, adjudication, files.annotations, decisions)
    if output.job_manifest() is not None and (committed := output.open(plan)):
        run.tags({"already_done": "true"})
        return AgreementRun(url=job.output, already_done=True, **committed["result"])
    adjudicated = adjudicate(people, decisions, adjudication)
    page = AgreementPage(
        figures=measure_agreement(files.annotations, rows, agreement, decided=decisions),
        adjudicated=adjudicated,
        settings=agreement,
        missing_labels=max(0, sum(row.asked for row in rows.values()) - len(files.annotations)),
        guideline_version=load_guidelines().version,
        identity=_identity(job, files),
    )
    contents = _contents(page, rows, plan)
    fine, sentence = judge(page)
    labels = Counter(one.label or "open" for one in adjudicated)
    result = {"fine": fine, "sentence": sentence, "steps": next_steps(page), "labels": dict(labels)}
    output.open(plan)
    staged = {name: output.write_data(name, content) for name, content in contents.items()}
    output.publish(staged)
    output.commit(plan, {"result": result})
    output.clean_up()
    _track(run, page, contents)
    return AgreementRun(url=job.output, already_done=False, **result)


def _plan(
    job: AnnotationInputs,
    agreement: AgreementSettings,
    adjudication: AdjudicationSettings,
    annotations: Sequence[Annotation],
    decisions: Mapping[PairKey, Decision],
) -> dict[str, Any]:
    """What the output is a function of, the labels themselves included, not the files that they came in."""
    given = sorted([one.round, *one.pair, one.annotator, one.label, one.annotated_at] for one in annotations)
    decided = sorted([*pair, one.label, one.decided_by, one.decided_at, one.reason] for pair, one in decisions.items())
    return {
        "rounds": [hide_credentials(url) for url in job.rounds],
        "annotations": _digest(given),
        "decisions": _digest(decided),
        "settings": {"agreement": public_settings(agreement), "adjudication": public_settings(adjudication)},
        "guidelines": load_guidelines().version,
    }


def _digest(content: Any) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _identity(job: AnnotationInputs, files: AnnotationFiles) -> dict[str, str]:
    return {
        "rounds": ", ".join(hide_credentials(url) for url in job.rounds),
        "files": f"{len(files.digests)} with {len(files.annotations)} labels",
        "decisions": hide_credentials(job.decisions or ""),
        "commit": collect_provenance().commit or "",
    }


def _contents(page: AgreementPage, rows: Rows, plan: Mapping[str, Any]) -> dict[str, bytes]:
    newest = {row.pair: row for row in rows.values()}
    labelled = _labelled_pairs(page.adjudicated, newest)
    return {
        PAGE: render_agreement(page),
        RUN: json.dumps(_figures(page) | {"plan": plan} | collect_provenance().as_dict(), indent=1).encode(),
        f"{LABELLED}.parquet": _parquet(labelled),
        f"{LABELLED}.csv": _csv(labelled),
        CONFLICTS: _conflicts(page.adjudicated, newest),
        HISTORY: _history(page.adjudicated),
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


def _labelled_pairs(adjudicated: Sequence[Adjudicated], rows: Mapping[PairKey, RoundPair]) -> pa.Table:
    """The settled pairs, as the contract for labelled pairs has them, and by what method they were settled."""
    settled = [one for one in adjudicated if one.label is not None]
    flat = [
        {
            **rows[one.pair].texts,
            "label": one.label,
            "annotator": one.by,
            "guideline_version": one.guideline_version,
            "method": one.method,
            "support": one.support,
        }
        for one in settled
    ]
    types = dict.fromkeys(_LABELLED_COLUMNS, pa.string()) | {"support": pa.float64()}
    return pa.table({name: pa.array([row[name] for row in flat], types[name]) for name in _LABELLED_COLUMNS})


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pacsv.write_csv(table, buffer)
    return buffer.getvalue()


def _conflicts(adjudicated: Sequence[Adjudicated], rows: Mapping[PairKey, RoundPair]) -> bytes:
    """A line per open pair with what people said; a lead fills in the blanks and gives the file back."""
    lines = []
    for one in adjudicated:
        if one.label is None:
            texts = rows[one.pair].texts
            said = "; ".join(f"{vote.annotator}: {vote.label}" for vote in one.votes)
            key = dict(zip(("query_id", "product_id"), one.pair, strict=True))
            lines.append({**key, "query": texts["query"], "title": texts["title"], "labels": said})
    return _lines(("query_id", "product_id", "query", "title", "labels", *DECISION_COLUMNS[2:]), lines)


def _history(adjudicated: Sequence[Adjudicated]) -> bytes:
    lines = [
        {"query_id": one.pair[0], "product_id": one.pair[1], **asdict(event)}
        for one in adjudicated
        for event in one.history
    ]
    columns = ("query_id", "product_id", "what", "by", "at", "label", "why", "round", "guideline_version")
    return _lines(columns, lines)


def _lines(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue().encode()


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
