"""From scored pairs to labels to train on, as a user calls it: two rounds, people, a lead; and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from cluster import storage
from cluster.launch import run_job
from cluster.schedule.plan import find_flow, load_schedule
from cluster.tracking import TrackingSettings
from jobs import relevance_agreement, relevance_annotate
from jobs.relevance_score import ScoreJob
from jobs.relevance_score import main as score
from relevance.finetuning.pairs import read_labelled_pairs
from relevance.labels import LABELS, parse_label
from relevance.pairs.files import find_splits
from relevance.prompting.guidelines import load_guidelines
from relevance.scoring.run import ScoringSettings
from tests.builders.annotation_data import Truth, fill_sheets, read_sheet, write_csv, write_scored_day
from tests.builders.pairs_data import make_pairs, write_pairs
from tests.measures.pages import assert_legible

PEOPLE = {"ann": 0.95, "bob": 0.9, "cid": 0.9}


class Workplace:
    """A folder with a scored day in it, and the two jobs as a shell would start them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking = f"tracking.uri=sqlite:///{folder}/mlflow.db"

    def annotate(self, number: int | str = 1, **settings: object) -> Path:
        output = self.folder / f"rounds/{number}"
        given = {"scores": self.folder / "scores", "output": output, **settings}
        arguments = [self.tracking, *(f"{name}={value}" for name, value in given.items())]
        job = relevance_annotate
        run_job(job.main, job.AnnotateJob, defaults=Path("jobs/relevance_annotate.toml"), arguments=arguments)
        return output

    def agree(self, *rounds: Path, output: str = "agreement", **settings: object) -> Path:
        given = {"rounds": ",".join(map(str, rounds)), "annotations": self.folder / "back", **settings}
        arguments = [self.tracking, *(f"{name}={value}" for name, value in given.items())]
        arguments += [f"output={self.folder / output}", "agreement.bootstrap_samples=200"]
        job = relevance_agreement
        run_job(job.main, job.AgreementJob, defaults=Path("jobs/relevance_agreement.toml"), arguments=arguments)
        return self.folder / output

    def runs(self, experiment: str) -> list:
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        found = client.get_experiment_by_name(experiment)
        return client.search_runs([found.experiment_id], order_by=["start_time ASC"])


@pytest.fixture
def place(tmp_path: Path) -> tuple[Workplace, Truth]:
    return Workplace(tmp_path), write_scored_day(tmp_path, 800)


def gold_file(place: Workplace, truth: Truth, count: int = 60) -> Path:
    """Rows of the day with their label settled."""
    rows = pq.read_table(place.folder / "pairs").select(["query_id", "product_id", "query", "title"]).to_pylist()
    known = [
        row | {"label": truth[row["query_id"], row["product_id"]]}
        for row in rows
        if (row["query_id"], row["product_id"]) in truth
    ]
    return write_csv(place.folder / "gold.csv", known[:count])


def keys(path: Path) -> list[tuple[str, str]]:
    return [(row["query_id"], row["product_id"]) for row in read_sheet(path)]


def test_two_rounds_from_scores_to_labels_to_train_on(
    place: tuple[Workplace, Truth], browser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work, truth = place
    gold = gold_file(work, truth)
    first = work.annotate(gold=gold)
    second = work.annotate(2, gold=gold, earlier=first)
    given = {name: [*keys(first / f"csv/{name}.csv"), *keys(second / f"csv/{name}.csv")] for name in PEOPLE}
    for name, own in given.items():
        assert len(own) == len({*own}), f"{name} sees a pair twice"
        tasks = json.loads((first / f"label_studio/{name}.json").read_text())
        assert [(task["data"]["query_id"], task["data"]["product_id"]) for task in tasks] == keys(
            first / f"csv/{name}.csv"
        )
        assert all("colour: red; size" in task["data"]["details"] for task in tasks if task["data"]["details"])
    pairs = pq.read_table(first / "pairs.parquet").to_pylist()
    seen = Counter(pair for name in PEOPLE for pair in keys(first / f"csv/{name}.csv"))
    for row in pairs:
        assert seen[row["query_id"], row["product_id"]] == (3 if row["gold"] else 2)
    assert sum(row["gold"] is None for row in pairs) == 160
    assert sum(row["gold"] is not None for row in pairs) == 12
    assert load_guidelines().version in (first / "guidelines.html").read_text()

    for number in (first, second):
        fill_sheets(number, work.folder / "back", truth, PEOPLE)
    capsys.readouterr()
    output = work.agree(first, second)
    printed = capsys.readouterr().out
    assert "Round 2: people agree well enough to train on their labels: alpha 0." in printed
    run = json.loads((output / "run.json").read_text())
    assert run["methods"].keys() == {"majority", "open"}
    assert sum(run["methods"].values()) == 320
    assert run["missing_labels"] == 0
    labelled = pq.read_table(output / "labelled_pairs.parquet").to_pylist()
    assert len(labelled) == run["methods"]["majority"]
    right = [row["label"] == truth[row["query_id"], row["product_id"]] for row in labelled]
    assert sum(right) / len(right) > 0.95  # two who err alike are rare
    assert {row["guideline_version"] for row in labelled} == {load_guidelines().version}

    conflicts = read_sheet(output / "conflicts.csv")
    assert len(conflicts) == run["methods"]["open"] > 0
    for row in conflicts[1:]:
        row |= {"label": "C", "decided_by": "lead", "decided_at": "2026-11-26", "reason": "goes with it"}
    decisions = write_csv(work.folder / "decisions.csv", conflicts)
    output = work.agree(first, second, output="decided", decisions=decisions)
    run = json.loads((output / "run.json").read_text())
    assert run["methods"] == {"majority": len(labelled), "decision": len(conflicts) - 1, "open": 1}
    (split,) = find_splits(str(output / "labelled_pairs.parquet"))
    assert "label" in split.columns  # pairs in, by contract
    again = read_labelled_pairs(str(output / "labelled_pairs.csv"))
    assert Counter(again.labels.tolist()) == Counter(
        LABELS.index(row["label"]) for row in pq.read_table(output / "labelled_pairs.parquet").to_pylist()
    )
    history = read_sheet(output / "history.csv")
    assert Counter(row["what"] for row in history) == {
        "label": 640,
        "majority": len(labelled),
        "decision": len(conflicts) - 1,
        "open": 1,
    }
    assert all(row["by"] and row["at"] for row in history if row["what"] != "open")

    (page,) = output.glob("*.html")
    for frame in assert_legible(browser, page.read_bytes(), work.folder / "browser"):
        assert "people agree well enough" in frame["text"]

    tracked = work.runs("relevance_agreement")[-1]
    assert tracked.data.metrics["alpha.round.2"] == pytest.approx(
        next(one["alpha"] for one in run["alpha"] if (one["of"], one["name"]) == ("round", "2"))
    )
    assert tracked.data.metrics["pairs.decision"] == len(conflicts) - 1
    assert tracked.data.metrics["gold.ann.accuracy"] > 0.8
    assert len(work.runs("relevance_annotate")) == 2


def test_two_weeks_of_the_schedule_are_two_rounds(
    place: tuple[Workplace, Truth], capsys: pytest.CaptureFixture[str]
) -> None:
    """As `relevance/schedule.toml` has it: neither round nor earlier is named."""
    work, truth = place
    values = {"root": str(work.folder), "annotators": "dan,eve,fay"}
    schedule = load_schedule(Path("relevance/schedule.toml"), values)
    step = next(one for one in find_flow(schedule, "weekly").steps if one.name == "annotate")
    (beside, people) = step.arguments[-2:]
    weeks = []
    for monday in ("2026-11-22", "2026-11-29"):
        weeks.append(work.annotate(monday, **dict(one.split("=") for one in (beside, people))))
        fill_sheets(weeks[-1], work.folder / "back", truth, {"dan": 0.95, "eve": 0.9, "fay": 0.9})
    capsys.readouterr()
    work.annotate("2026-11-22", beside="true", **{"tasks.annotators": "dan,eve,fay"})
    assert "already done" in capsys.readouterr().out, "a week that came later changes nothing"
    run = json.loads((work.agree(*weeks) / "run.json").read_text())
    names = {one["name"] for one in run["alpha"] if one["of"] == "round"}
    assert names == {"2026-11-22", "2026-11-29"}
    given = [{key for name in ("dan", "eve", "fay") for key in keys(week / f"csv/{name}.csv")} for week in weeks]
    assert given[0]
    assert given[1]
    assert not given[0] & given[1], "no pair is given out twice"


def test_two_rounds_of_one_name_are_refused(place: tuple[Workplace, Truth], capsys: pytest.CaptureFixture[str]) -> None:
    work, truth = place
    both = [work.annotate(number, round="same", beside="true") for number in (1, 2)]
    for made in both:
        fill_sheets(made, work.folder / "back", truth, PEOPLE)
    apart = sorted((work.folder / "back").glob("1-*.csv"))
    with pytest.raises(SystemExit) as left:
        work.agree(*both)
    assert left.value.code == 2
    assert f"rounds: {both[0]} and {both[1]} are both named 'same'" in capsys.readouterr().err
    assert not (work.folder / "agreement").exists()
    assert (work.agree(both[0], annotations=",".join(map(str, apart))) / "agreement.html").exists()


def test_a_round_and_an_agreement_are_made_once(
    place: tuple[Workplace, Truth], capsys: pytest.CaptureFixture[str]
) -> None:
    work, truth = place
    made = work.annotate()
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    work.annotate()
    assert "already done" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        work.annotate(**{"tasks.seed": 5})
    assert left.value.code == 2
    assert "holds a run with different settings: choose another output" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    fill_sheets(made, work.folder / "back", truth, PEOPLE)
    output = work.agree(made)
    page = (output / "agreement.html").read_bytes()
    work.agree(made)
    assert "already done" in capsys.readouterr().out
    assert (output / "agreement.html").read_bytes() == page


def test_a_pair_labelled_twice_is_refused_and_nothing_is_lost(
    place: tuple[Workplace, Truth], capsys: pytest.CaptureFixture[str]
) -> None:
    work, truth = place
    made = work.annotate()
    fill_sheets(made, work.folder / "back", truth, PEOPLE)
    sheet = work.folder / "back/1-bob.csv"
    rows = read_sheet(sheet)
    rows.append(rows[4] | {"label": "E" if parse_label(rows[4]["label"]) != "exact" else "S"})
    write_csv(sheet, rows)
    before = sheet.read_bytes()
    with pytest.raises(SystemExit) as left:
        work.agree(made)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert f"annotator 'bob' labelled pair {rows[4]['query_id']}/{rows[4]['product_id']} 2 times in round '1'" in error
    assert rows[4]["title"] not in error
    assert sheet.read_bytes() == before
    assert not (work.folder / "agreement").exists()
    write_csv(sheet, [rows[0] | {"label": ""}, *rows[1:-1]])
    assert json.loads((work.agree(made) / "run.json").read_text())["missing_labels"] == 1


def test_a_round_that_cannot_be_drawn_claims_no_folder(
    place: tuple[Workplace, Truth], capsys: pytest.CaptureFixture[str]
) -> None:
    work, _ = place
    with pytest.raises(SystemExit):
        work.annotate(gold=work.folder / "nothing.csv")
    assert (
        "nothing.csv: no .parquet, .parq, .pq, .csv, .tsv, .jsonl, .ndjson or .json file there"
        in capsys.readouterr().err
    )
    assert not (work.folder / "rounds").exists()
    with pytest.raises(SystemExit):
        work.agree(work.folder / "pairs")
    assert "no _SUCCESS there: give the output folder of jobs.relevance_annotate" in capsys.readouterr().err


def test_what_the_scoring_job_leaves_is_what_a_round_is_made_of(bucket: str, local_ray: str, tiny_model: Path) -> None:
    """The real job, on S3, label store and all."""
    write_pairs(make_pairs(120), f"{bucket}/pairs")
    tracking = TrackingSettings(uri=f"sqlite:///{tiny_model.parent / 'mlflow.db'}")
    scoring = ScoringSettings(shard_rows=100, num_threads=2)
    score(
        ScoreJob(
            input=f"{bucket}/pairs",
            output=f"{bucket}/scores",
            model=str(tiny_model),
            scoring=scoring,
            tracking=tracking,
        )
    )
    job = relevance_annotate.AnnotateJob(scores=f"{bucket}/scores", output=f"{bucket}/round", tracking=tracking)
    relevance_annotate.main(job)
    files = {file.url.removeprefix(f"{bucket}/round/") for file in storage.list_files(f"{bucket}/round")}
    assert files == {
        *(f"csv/{name}.csv" for name in PEOPLE),
        *(f"label_studio/{name}.json" for name in PEOPLE),
        "label_studio/config.xml",
        "guidelines.html",
        "pairs.parquet",
        "run.json",
        "_SUCCESS",
    }
