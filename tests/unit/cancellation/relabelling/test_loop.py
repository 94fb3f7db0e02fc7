"""The loop from labels to corrected labels, with judges that need no Ray: trees, and what a language model has said."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.comparison.learners import TreeSettings
from cancellation.decision.policy import load_policy
from cancellation.events.event import event_mapping
from cancellation.events.factors import VERDICTS
from cancellation.events.labelled import LabelledEvent
from cancellation.events.table import write_labelled
from cancellation.monitoring.days import Days
from cancellation.relabelling.cases import Case, read_cases, read_labelled
from cancellation.relabelling.judges import JudgeSettings, Workshop
from cancellation.relabelling.round import AskSettings, choose_cases, make_round, split_tests
from cancellation.relabelling.run import RelabelSettings, ask, take_answers
from cancellation.relabelling.tasks import TaskSettings
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.people import PersonKey
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.commit import Output
from cluster.training.train import TrainerSettings
from tests.builders.monitored_days import DAY, decisions, feedback, ship, ship_feedback
from tests.builders.reviewers import answer_round

EVENTS = list(simulate(SimulationSettings(num_events=400, label_noise=0.1), 17))
TRUTH = {one.event.event_id: one for one in EVENTS}
WRONG = {one.event.event_id for one in EVENTS if one.label != one.true_label}


def write_judged(folder: Path, *, right: float) -> str:
    """What jobs.cancellation_label leaves: a language model's opinion beside each label, right as often as said."""
    rng, rows = random.Random(0), []
    for number, one in enumerate(EVENTS):
        said = one.true_label if rng.random() < right else rng.choice(VERDICTS)
        rows.append(
            {
                "event_id": one.event.event_id,
                "market": one.event.market,
                "model_version": "llm@1",
                "logits": [2.5 if name == said else 0.0 for name in VERDICTS],
                "seller_id": one.event.seller_id,
                "place": f"events.jsonl:{number + 1}",
                "error": None,
                "given_label": one.label,
                "cancelled_at": "2026-11-22T00:00:00+00:00",
            }
        )
    folder.mkdir()
    table = pa.Table.from_pylist(rows).set_column(6, "error", pa.nulls(len(rows), pa.string()))
    pq.write_table(table, folder / "part-0.parquet")
    (folder / "_SUCCESS").write_text(json.dumps({"files": ["part-0.parquet"]}))
    return str(folder)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RelabelSettings:
    folder = tmp_path_factory.mktemp("loop")
    write_labelled(str(folder / "labelled.parquet"), EVENTS)
    judges = JudgeSettings(
        kinds=("trees", "llm"),
        folds=2,
        llm=write_judged(folder / "judged", right=0.8),
        trees=TreeSettings(max_iter=10),
    )
    made = RelabelSettings(
        input=str(folder / "labelled.parquet"),
        round=str(folder / "round"),
        judges=judges,
        ask=AskSettings(test_cases=30),
    )
    ask(made, workshop(made))
    answer_round(folder / "round", TRUTH, folder / "exports")
    return made.model_copy(update={"answers": (str(folder / "exports"),), "output": str(folder / "out")})


def workshop(settings: RelabelSettings) -> Workshop:
    return Workshop(settings.judges, TrainerSettings(), Path(settings.round).parent, "", load_policy(settings.policy))


def test_most_wrong_labels_are_among_the_quarter_that_is_asked(settings):
    _, cases = read_cases(settings.round)
    doubted = sorted((case for case in cases.values() if case.why == "contradicted"), key=lambda case: case.rank)
    tests = {name for name, case in cases.items() if case.why == "test"}
    sellers = {cases[name].event.seller_id for name in tests}
    taught = [one for one in EVENTS if one.event.event_id not in tests]
    assert len(doubted) <= 0.25 * len(taught)
    assert sellers.isdisjoint(case.event.seller_id for case in doubted)
    wrong = WRONG & {one.event.event_id for one in taught}
    assert len(wrong & {case.event.event_id for case in doubted}) >= 0.6 * len(wrong)
    assert [case.quality for case in doubted] == sorted(case.quality for case in doubted)
    assert all(set(case.opinions) == {"trees", "llm"} and case.contradicted > 0 for case in doubted)


def test_a_rejected_verdict_is_asked_unless_people_have_labelled_the_event(settings):
    (fresh,) = simulate(SimulationSettings(num_events=1), 98)
    rejected = [Case(one.event, "rejected", rank, "induced") for rank, one in enumerate([EVENTS[0], fresh], 1)]
    cases = choose_cases(read_labelled(settings.input), rejected, workshop(settings), settings.ask)
    assert [case.event.event_id for case in cases if case.why == "rejected"] == [fresh.event.event_id]
    assert len({case.event.event_id for case in cases}) == len(cases)


def test_answers_become_labels_a_report_and_a_gain(settings):
    report = take_answers(settings, workshop(settings))
    assert report["answered"] == report["asked"]
    assert report["contradicted"]["low"] > report["test"]["share"]
    quarters = [one["share"] for one in report["contradicted_by_quarter"]]
    assert quarters[0] > quarters[-1]
    (gain,) = report["gains"]
    assert gain["kind"] == "trees"
    assert gain["change"]["low"] <= gain["change"]["value"] <= gain["change"]["high"]
    assert take_answers(settings, workshop(settings))["already_done"]
    lines = (Path(settings.output) / "labelled/corrected.jsonl").read_text().splitlines()
    left = sum(json.loads(line)["label"] != TRUTH[json.loads(line)["event"]["event_id"]].true_label for line in lines)
    assert left < 0.4 * len(WRONG)
    with pytest.raises(ValueError, match="holds a run with different retrain"):
        take_answers(settings.model_copy(update={"retrain": False}), workshop(settings))


def test_a_language_model_that_missed_events_is_refused(settings, tmp_path):
    write_labelled(str(tmp_path / "more.jsonl"), [*EVENTS, *simulate(SimulationSettings(num_events=9), 99)])
    more = settings.model_copy(update={"input": str(tmp_path / "more.jsonl"), "round": str(tmp_path / "round")})
    with pytest.raises(ValueError, match=r"judges\.llm .*: \d of \d+ events have no verdict; label them too"):
        ask(more, workshop(more))
    assert not (tmp_path / "round").exists()


def ship_rejected(folder: Path, events: Sequence[LabelledEvent], key: PersonKey) -> None:
    """An archive as the endpoint keeps it, in which people rejected every verdict, the first by an appeal."""
    table = decisions(DAY, len(events), induced=1.0, fallback=0.0)
    columns = {
        "event": [json.dumps(key.hidden(event_mapping(one.event))) for one in events],
        "event_id": [one.event.event_id for one in events],
        "market": [one.event.market for one in events],
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, DECISION_SCHEMA.field(place), pa.array(values))
    ship(folder / "archive", table)
    first, *others = feedback(table, DAY, len(events), precision=0.0)
    about = {"model_version": "small@1", "source": "model", "action": "penalty", "appeal_id": "a-1"}
    ship_feedback(folder / "archive", [{**first, **about, "label": "not_induced"}, *others])
    Days(str(folder / "archive"), str(folder / "monitoring"), None).complete(DAY, 0)


def test_the_seller_of_a_rejected_verdict_is_the_labelled_one(settings, tmp_path):
    """Rejected verdicts come under keyed digests: the seller who tests models is not taught by way of the archive."""
    taught, tests = split_tests(read_labelled(settings.input), settings.ask.test_fraction)
    sellers = [tests[0].example.event.seller_id, taught[0].example.event.seller_id, "a-stranger"]
    fresh = simulate(SimulationSettings(num_events=3), 97)
    rejected = [replace(o, event=replace(o.event, seller_id=name)) for o, name in zip(fresh, sellers, strict=True)]
    (tmp_path / "person.key").write_text("k" * 40)
    (tmp_path / "person.key").chmod(0o600)
    key = PersonKey.load(tmp_path / "person.key")
    ship_rejected(tmp_path, rejected, key)
    changes = {
        "archive": str(tmp_path / "archive"),
        "monitoring": str(tmp_path / "monitoring"),
        "until": DAY,
        "round": str(tmp_path / "round"),
        "answers": (),
    }
    with pytest.raises(ValueError, match=r"person_key_file: 3 of \d+ sellers stand under keyed digests"):
        ask(settings.model_copy(update=changes), workshop(settings))
    asked = settings.model_copy(update={**changes, "person_key_file": str(tmp_path / "person.key")})
    ask(asked, workshop(asked))
    _, cases = read_cases(asked.round)
    known = {one.event.event_id: name for one, name in zip(rejected, sellers, strict=True)}
    known[rejected[2].event.event_id] = key.digest("seller", "a-stranger")
    assert {name: case.event.seller_id for name, case in cases.items() if case.why == "rejected"} == known

    answer_round(tmp_path / "round", {**TRUTH, **{one.event.event_id: one for one in rejected}}, tmp_path / "exports")
    more = {"answers": (str(tmp_path / "exports"),), "output": str(tmp_path / "out")}
    answered = asked.model_copy(update=more)
    report = take_answers(answered, workshop(answered))
    assert report["rejected"]["of"] == 3
    assert report["rejected_taught"] == 2
    assert [gain["kind"] for gain in report["gains"]] == ["trees"]
    lines = (tmp_path / "out" / "labelled" / "rejected.jsonl").read_text().splitlines()
    assert {row["event"]["event_id"]: row["event"]["seller_id"] for row in map(json.loads, lines)} == known
    assert json.loads((tmp_path / "out" / "report.json").read_text())["gains"] == report["gains"]


def test_a_folder_that_is_not_the_rounds_is_refused_before_judges_are_taught(tmp_path: Path) -> None:
    others, begun = tmp_path / "others", Output(str(tmp_path / "begun"))
    others.mkdir()
    (others / "part-0.parquet").write_bytes(b"another program's")
    begun.open({"input": "another round, which was killed"})

    def choose() -> list[Case]:
        raise AssertionError("hours of training")

    for output, said in ((Output(str(others)), "holds part-0.parquet"), (begun, "holds a run with different input")):
        with pytest.raises(ValueError, match=said):
            make_round(output, {"input": "ours"}, choose, TaskSettings())


def test_what_a_language_model_has_not_judged_is_missed_before_others_are_taught(tmp_path: Path) -> None:
    write_labelled(str(tmp_path / "labelled.jsonl"), EVENTS[:60])
    rows = read_labelled(str(tmp_path / "labelled.jsonl"))
    other = [
        replace(row, example=replace(row.example, event=replace(row.example.event, event_id=f"x{n}")))
        for n, row in enumerate(rows)
    ]
    judges = JudgeSettings(kinds=("fusion", "llm"), llm=write_judged(tmp_path / "judged", right=1.0))
    workshop = Workshop(judges, TrainerSettings(num_workers=0), tmp_path / "work", str(tmp_path), load_policy())
    with pytest.raises(ValueError, match=r"judges\.llm .* have no verdict"):
        choose_cases(other, [], workshop, AskSettings())
    assert not (tmp_path / "work").exists()
