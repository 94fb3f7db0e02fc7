"""A round of annotation: what was given out to whom, as files for people and as a table for the agreement."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.annotation.label_studio import import_tasks
from cluster.commit import SUCCESS, Output, read_job_manifest
from cluster.places import InputUrl, OutputUrl
from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings
from cluster.tracking import TrackedRun
from relevance.annotation.annotation import PairKey
from relevance.annotation.files import TASK_COLUMNS, write_sheet
from relevance.annotation.label_studio import labelling_config
from relevance.annotation.pairs import TEXT_COLUMNS, key_hashes, read_gold, read_scores, read_texts, scored_day
from relevance.annotation.strata import DrawnPair, StrataSettings, draw_pairs, strata_counts, third_edges
from relevance.annotation.tasks import Assignment, TaskSettings, assign_tasks
from relevance.prompting.guidelines import Guidelines, load_guidelines
from relevance.prompting.guidelines_page import render_guidelines

PAIRS = "pairs.parquet"
"""The round's pairs with what annotators must not see: gold labels and the model's predictions. For the lead."""

PAIRS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in TEXT_COLUMNS]
    + [("round", pa.string()), ("guideline_version", pa.string()), ("stratum", pa.string()), ("gold", pa.string())]
    + [("predicted", pa.string()), ("uncertainty", pa.float64()), ("asked", pa.int64())]
    + [("projects", pa.list_(pa.string()))]
)
"""`gold` is the settled label, null for the others, of which `stratum`, `predicted` and `uncertainty` are known;
`asked` is how many people were asked, through which `projects`."""

_DETAILS = ("brand", "category", "attributes", "description")


class RoundSettings(Settings):
    """What a round is made of."""

    scores: InputUrl
    """A finished day of jobs.relevance_score: the folder that has _SUCCESS in it."""

    pairs: InputUrl | None = None
    """The input that was scored, for the texts; null: the one that the scores name."""

    gold: InputUrl | None = None
    """Pairs with a settled label (parquet, CSV or JSONL with the column `label`) to hide among the tasks. Give them
    the columns that the other pairs have: a brand that is missing gives them away."""

    only: InputUrl | None = None
    """Pairs to draw from, such as jobs.relevance_monitor proposes: a parquet file with query_id and product_id. Null:
    all that were scored."""

    earlier: tuple[InputUrl, ...] = ()
    """Folders of earlier rounds: none of their pairs is given out again."""

    beside: bool = False
    """Take the finished rounds that lie beside `output` as earlier ones too: so a schedule need not name them."""

    round: str | None = None
    """Name of this round, another for each round that is measured together; null: the last name of `output`."""

    output: OutputUrl
    """Folder for the tasks. One that holds another round is refused: people may be at work on it."""


@dataclass(frozen=True)
class RoundPair:
    """A pair that was given out in a round."""

    texts: Mapping[str, str | None]
    round: str
    guideline_version: str
    stratum: str | None
    predicted: str | None
    uncertainty: float | None
    gold: str | None
    asked: int = 2
    """Labels by different people that were asked for."""

    @property
    def pair(self) -> PairKey:
        return self.texts["query_id"] or "", self.texts["product_id"] or ""


def make_round(job: RoundSettings, strata: StrataSettings, tasks: TaskSettings, run: TrackedRun) -> dict[str, Any]:
    """Draw, assign and write a round; return its manifest, which says whether it was there already.

    Raises:
        ValueError: If the scores, the pairs or the gold pairs cannot be used, or nothing could be drawn.
    """
    job = job.model_copy(update={"round": job.round or storage.absolute_url(job.output).rpartition("/")[2]})
    guidelines = load_guidelines()
    day = scored_day(job.scores)
    output = Output(job.output)
    plan = _plan(job, strata, tasks, {"scores": day["attempt"], "guidelines": guidelines.version})
    if committed := output.find(plan):
        run.tags({"already_done": "true"})
        return {**committed, "already_done": True}
    rows, assignment, figures = _draw_round(job, strata, tasks, day, guidelines)
    output.open(plan)  # not before: a round that cannot be drawn must not claim the folder
    files = _round_files(rows, assignment, guidelines, tasks)
    manifest = {"round": job.round, "guideline_version": guidelines.version, **figures}
    described = {**manifest, **collect_provenance().as_dict(), "settings": plan["settings"]}
    files["run.json"] = json.dumps(described, indent=1).encode()
    _commit(output, plan, manifest, files)
    _track(run, job, manifest, files)
    return {**manifest, "already_done": False}


def _plan(job: RoundSettings, strata: StrataSettings, tasks: TaskSettings, inputs: Mapping[str, str]) -> dict[str, Any]:
    sections = {"strata": strata, "tasks": tasks}
    shown = {name: public_settings(section) for name, section in sections.items()}
    given = public_settings(job)
    shown["round"] = {name: given[name] for name in RoundSettings.model_fields if name != "output"}
    versions = [[hide_credentials(file.url), file.version] for file in storage.list_files(job.gold)] if job.gold else []
    return {"settings": shown, "gold_files": versions, **inputs}


def _draw_round(
    job: RoundSettings, strata: StrataSettings, tasks: TaskSettings, day: Mapping[str, Any], guidelines: Guidelines
) -> tuple[list[RoundPair], Assignment, dict[str, Any]]:
    earlier = [*job.earlier, *(_rounds_beside(job.output) if job.beside else ())]
    seen = {row.pair for url in earlier for row in read_round(url)}
    gold = {key: found for key, found in (read_gold(job.gold) if job.gold else {}).items() if key not in seen}
    edges, totals = third_edges(read_scores(job.scores), strata.uncertainty)
    drawn, taken = draw_pairs(
        read_scores(job.scores), edges, strata, excluded=_hashes({*seen, *gold}), only=_only(job.only)
    )
    if not drawn:
        raise ValueError(f"{job.scores}: no pair left to draw of {int(totals.sum())} with a label: see strata.counts")
    texts = read_texts(job.pairs or day["plan"]["input"], {one.pair for one in drawn})
    assignment = assign_tasks([one.pair for one in drawn], list(gold), tasks)
    common = {"round": job.round, "guideline_version": guidelines.version}
    rows = [_drawn_row(one, texts[one.pair], common) for one in drawn]
    for key in sorted(assignment.gold):
        about = dict.fromkeys(("stratum", "predicted", "uncertainty"))
        rows.append(RoundPair(texts=gold[key][0], gold=gold[key][1], **about, **common))
    figures = {
        "scored": int(totals.sum()),
        "drawn": len(drawn),
        "gold": len(assignment.gold),
        "tasks": {name: len(own) for name, own in assignment.tasks.items()},
        "strata": strata_counts(taken),
    }
    return rows, assignment, figures


def _rounds_beside(output: str) -> list[str]:
    """Find the finished rounds in the folder that `output` lies in, itself left out."""
    own = storage.absolute_url(output)
    found = storage.list_files(own.rpartition("/")[0], suffix=f"/{SUCCESS}")
    places = [file.url.removesuffix(f"/{SUCCESS}") for file in found]
    return [url for url in places if url != own and url.rpartition("/")[0] == own.rpartition("/")[0]]


def _drawn_row(one: DrawnPair, texts: Mapping[str, str | None], common: Mapping[str, str]) -> RoundPair:
    about = {"stratum": one.stratum, "predicted": one.predicted, "uncertainty": one.uncertainty}
    return RoundPair(texts=texts, gold=None, **about, **common)


def _only(url: str | None) -> np.ndarray | None:
    if url is None:
        return None
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(url)), columns=["query_id", "product_id"])
        return key_hashes(table.cast(pa.schema([(name, pa.string()) for name in table.column_names])))
    except (FileNotFoundError, pa.ArrowException, KeyError):
        raise ValueError(f"only: {url}: expected a parquet file with query_id and product_id, found none") from None


def _hashes(keys: set[PairKey]) -> np.ndarray:
    columns = {"query_id": [key[0] for key in keys], "product_id": [key[1] for key in keys]}
    return key_hashes(pa.table({name: pa.chunked_array([pa.array(ids, pa.string())]) for name, ids in columns.items()}))


def _round_files(
    rows: Sequence[RoundPair], assignment: Assignment, guidelines: Guidelines, tasks: TaskSettings
) -> dict[str, bytes]:
    by_pair = {row.pair: row for row in rows}
    files = {
        "guidelines.html": render_guidelines(guidelines),
        "label_studio/config.xml": labelling_config(guidelines),
        PAIRS: _pairs_file(rows, assignment, tasks),
    }
    for project, pairs in assignment.tasks.items():
        annotator = "" if project == "shared" else project
        own = [_task(by_pair[pair], annotator) for pair in pairs]
        files[f"label_studio/{project}.json"] = import_tasks(own)
        files[f"csv/{project}.csv"] = write_sheet(own)
    return files


def _task(row: RoundPair, annotator: str) -> dict[str, str]:
    details = [f"{name}: {_readable(row.texts[name])}" for name in _DETAILS if row.texts.get(name)]
    values = {
        "query_id": row.pair[0],
        "product_id": row.pair[1],
        "query": row.texts["query"] or "",
        "title": row.texts["title"] or "",
        "details": "\n".join(details),
        "round": row.round,
        "guideline_version": row.guideline_version,
        "annotator": annotator,
    }
    return {name: values[name] for name in TASK_COLUMNS}


def _readable(text: str | None) -> str:
    """Show `{"colour": "red"}` as people would write it."""
    try:
        attributes = json.loads(text or "")
    except ValueError:
        return text or ""
    return "; ".join(f"{k}: {v}" for k, v in attributes.items()) if isinstance(attributes, dict) else text or ""


def _pairs_file(rows: Sequence[RoundPair], assignment: Assignment, tasks: TaskSettings) -> bytes:
    projects: dict[PairKey, list[str]] = {}
    for project, pairs in assignment.tasks.items():
        for pair in pairs:
            projects.setdefault(pair, []).append(project)
    shared = tasks.projects == "shared"
    asked = {pair: tasks.annotators_per_pair if shared else len(names) for pair, names in projects.items()}
    flat = [{**asdict(row), **row.texts, "asked": asked[row.pair], "projects": projects[row.pair]} for row in rows]
    buffer = io.BytesIO()
    columns = {field.name: pa.array([row[field.name] for row in flat], field.type) for field in PAIRS_SCHEMA}
    pq.write_table(pa.table(columns, schema=PAIRS_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def _commit(output: Output, plan: Mapping[str, Any], manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    staged = {name: output.write_data(name.replace("/", "-"), content) for name, content in files.items()}
    output.publish(staged)
    output.commit(plan, manifest)
    output.clean_up()


def _track(run: TrackedRun, job: RoundSettings, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    run.tags({"mlflow.runName": f"round {job.round}", "guideline_version": manifest["guideline_version"]})
    run.metrics({name: manifest[name] for name in ("scored", "drawn", "gold")})
    run.metrics({f"tasks.{name}": count for name, count in manifest["tasks"].items()})
    for name in ("run.json", "guidelines.html", "label_studio/config.xml"):
        run.artifact(name, files[name])


def read_round(url: str) -> list[RoundPair]:
    """Read the pairs of a round back.

    Raises:
        ValueError: If the folder holds no finished round.
    """
    if read_job_manifest(url) is None:
        raise ValueError(f"{url}: no {SUCCESS} there: give the output folder of jobs.relevance_annotate")
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(storage.join_url(url, PAIRS))))
    except FileNotFoundError:
        raise ValueError(f"{url}: no {PAIRS} there: give the output folder of jobs.relevance_annotate") from None
    known = ("round", "guideline_version", "stratum", "predicted", "uncertainty", "gold", "asked")
    return [
        RoundPair(texts={name: row[name] for name in TEXT_COLUMNS}, **{name: row[name] for name in known})
        for row in table.to_pylist()
    ]


def print_round(manifest: Mapping[str, Any], output: str, tracked_at: str) -> None:
    """Print what was made and where it is."""
    if manifest["already_done"]:
        print("already done: this round was made from the same scores and settings, nothing was written\n")
    for name, stratum in manifest["strata"].items():
        short = "" if stratum["drawn"] == stratum["asked"] else f"  only {stratum['drawn']} there"
        print(f"{name:<24}{stratum['drawn']:>6} of {stratum['population']:>12,}{short}")
    print(f"\n{manifest['drawn']} pairs and {manifest['gold']} gold pairs, guidelines {manifest['guideline_version']}")
    for name, count in manifest["tasks"].items():
        print(f"{name:<24}{count:>6} tasks   {output}/label_studio/{name}.json or csv/{name}.csv")
    print(f"{'interface':<24}{output}/label_studio/config.xml\n{'MLflow':<24}{tracked_at}")
