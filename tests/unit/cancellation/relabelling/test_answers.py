"""What people said: checked, settled, and kept beside what was there before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cancellation.decision.sample import LabelledSample, read_sample, write_sample
from cancellation.events.table import write_labelled
from cancellation.relabelling.answers import Answer, Settled, read_answers, settle
from cancellation.relabelling.cases import CASES, Case, read_cases, read_labelled, write_cases
from cancellation.relabelling.changes import changes
from cancellation.relabelling.correction import Correction, correct
from cancellation.relabelling.procedure import PROCEDURE_PATH, load_procedure
from cancellation.relabelling.round import make_round
from cancellation.relabelling.tasks import TaskSettings, evidence
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.commit import Output
from cluster.pages.formats import format_share
from tests.builders.reviewers import AT, answer_round, chosen

EVENTS = list(simulate(SimulationSettings(num_events=60, label_noise=0.3), 8))
TRUTH = {one.event.event_id: one for one in EVENTS}


def make(folder: Path, **changes: object) -> dict:
    """A round of the first twelve events: eight doubted, two tests, two rejected verdicts that are in no set."""
    cases = [Case(one.event, "contradicted", rank, one.label) for rank, one in enumerate(EVENTS[:8], 1)]
    cases += [Case(one.event, "test", rank, one.label) for rank, one in enumerate(EVENTS[8:10], 1)]
    cases += [
        Case(one.event, "rejected", rank, "induced", labelled_by="model m@1") for rank, one in enumerate(EVENTS[10:12])
    ]
    tasks = TaskSettings.model_validate({"annotators": ("ann", "bob"), **changes})
    return make_round(Output(str(folder / "round")), {"made": "by hand"}, lambda: cases, tasks)


def test_a_round_is_made_once_and_shows_no_label_and_no_opinion(tmp_path):
    assert make(tmp_path)["asked"] == {"contradicted": 8, "test": 2, "rejected": 2}
    assert make(tmp_path)["already_done"]
    tasks = [json.loads((tmp_path / f"round/label_studio/{name}.json").read_text()) for name in ("ann", "bob")]
    assert [len(one) for one in tasks] == [6, 6]
    shown = {"event_id", "market", "case", "round", "procedure", "procedure_digest", "annotator"}
    assert all(set(task["data"]) == shown for one in tasks for task in one)
    assert "$opinion" not in (tmp_path / "round/label_studio/config.xml").read_text()
    page = (tmp_path / "round/procedure.html").read_text()
    assert load_procedure().digest in page
    assert all(f"<b>{one['version']}.</b>" in page for one in load_procedure().history)
    assert page.count("<td>chat.") == 7


def test_a_round_that_is_not_blind_says_what_was_thought(tmp_path):
    make(tmp_path, blind=False)
    tasks = json.loads((tmp_path / "round/label_studio/ann.json").read_text())
    assert all(task["data"]["opinion"].startswith("label so far: ") for task in tasks)


def test_evidence_has_the_lines_and_no_contact_data():
    message = replace(EVENTS[0].event.chat[0], text="call 081234567890 <b>now</b>")
    text = evidence(replace(EVENTS[0].event, chat=(message,)))
    assert "081234567890" not in text
    assert "[ORDER]" in text


def test_a_case_is_read_back_as_it_was_written(tmp_path):
    make(tmp_path)
    manifest, cases = read_cases(str(tmp_path / "round"))
    assert manifest["round"] == "round"
    assert cases[EVENTS[0].event.event_id].event == EVENTS[0].event
    opinions = {"trees": [0.1, 0.7, 0.2]}
    asked = Case(EVENTS[0].event, "contradicted", 3, "induced", 0.1, 2, opinions, 1.5, "eve")
    (tmp_path / "round" / CASES).write_bytes(write_cases([asked]))
    assert list(read_cases(str(tmp_path / "round"))[1].values()) == [asked]


def test_people_settle_a_case_by_more_than_half():
    def said(by: str, label: str, *factors: str, at: str = AT) -> Answer:
        return Answer("e", label, factors, by, at, "why")

    two = [said("ann", "induced", "chat.no_reply", "chat.out_of_stock"), said("bob", "induced", "chat.no_reply")]
    found = settle([*two, said("cid", "inconclusive")], needed=3)["e"]
    assert (found.label, found.factors) == ("induced", ("chat.out_of_stock", "chat.no_reply"))
    assert settle(two, needed=3)["e"].label is None
    assert settle([two[0], said("bob", "not_induced")], needed=2)["e"].label is None
    later = said("ann", "not_induced", at="2026-11-29")
    assert settle([later, *two], needed=2)["e"].label is None


@pytest.mark.parametrize(
    ("results", "data", "message"),
    [
        (chosen("guilty"), {}, "expected a category"),
        (
            chosen("induced", ("chat.no_reply", "seller.inactive", "call.from_seller", "chat.price_change")),
            {},
            "at most 3",
        ),
        (chosen("induced", ("chat.secret",)), {}, "of the contract"),
        (chosen("induced", why=" "), {}, "expected a reasoning"),
        (chosen("induced"), {"round": "other"}, "expected an answer to round round"),
        (chosen("induced"), {"procedure_digest": "0"}, "another procedure"),
        (chosen("induced"), {"event_id": "stranger"}, "expected an answer to round round, found another"),
    ],
)
def test_what_cannot_be_used_is_refused_with_event_and_person(tmp_path, results, data, message):
    make(tmp_path)
    manifest, cases = read_cases(str(tmp_path / "round"))
    (task, *_) = json.loads((tmp_path / "round/label_studio/ann.json").read_text())
    task = {"data": {**task["data"], **data}, "annotations": [{"completed_by": 1, "result": results}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.raises(
        ValueError, match=rf"export\.json: event {task['data']['event_id']}, annotator 'ann': .*{message}"
    ):
        read_answers([str(tmp_path / "export.json")], cases, manifest, people={})


def test_answers_to_events_that_the_labelled_set_lacks_are_refused_not_lost(tmp_path):
    source = str(tmp_path / "labelled.jsonl")
    write_labelled(source, EVENTS[3:])
    make(tmp_path)
    answer_round(tmp_path / "round", TRUTH, tmp_path / "exports")
    manifest, cases = read_cases(str(tmp_path / "round"))
    answers = read_answers([str(tmp_path / "exports")], cases, manifest, people={})
    correction = Correction(source, read_labelled(source), cases, manifest, answers, 0.15)
    with pytest.raises(ValueError, match=r"input .*labelled\.jsonl: .* round round asked about, found 7 of 10 \(not "):
        correct(correction, Output(str(tmp_path / "out")), correction.plan(), None)
    assert not (tmp_path / "out").exists()


def test_an_export_in_another_form_is_refused_beside_those_that_can_be_read(tmp_path):
    make(tmp_path)
    answer_round(tmp_path / "round", TRUTH, tmp_path / "exports")
    manifest, cases = read_cases(str(tmp_path / "round"))
    (tmp_path / "exports" / "bob.json").rename(tmp_path / "exports" / "bob.xlsx")
    with pytest.raises(ValueError, match=r"exports: expected \.json files alone, found bob\.xlsx; .* save it as"):
        read_answers([str(tmp_path / "exports")], cases, manifest, people={})
    with pytest.raises(ValueError, match=r"nothing: no \.json file there"):
        read_answers([str(tmp_path / "exports" / "ann.json"), str(tmp_path / "nothing")], cases, manifest, people={})


def test_both_labels_are_kept_with_who_when_and_why(tmp_path):
    source = str(tmp_path / "labelled.jsonl")
    write_labelled(source, EVENTS[:10])
    sample = LabelledSample(source="backfill", drawn="random", outcomes=("penalty", "investigate", "none"))
    write_sample(source, sample)
    make(tmp_path)
    answer_round(tmp_path / "round", TRUTH, tmp_path / "exports")
    manifest, cases = read_cases(str(tmp_path / "round"))
    answers = read_answers([str(tmp_path / "exports")], cases, manifest, people={"1": "Ann"})
    correction = Correction(source, read_labelled(source), cases, manifest, answers, 0.15)
    output = tmp_path / "out"
    report = correct(correction, Output(str(output)), correction.plan(), None)
    assert correct(correction, Output(str(output)), correction.plan(), None)["already_done"]
    rows = [json.loads(line) for line in (output / "labelled/corrected.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [one.true_label for one in EVENTS[:10]]
    page, found = (output / "report.html").read_text(), report["test"]
    span = f"{format_share(found['low'])} to {format_share(found['high'])}"
    assert f"Of all labels {span} are wrong." in page, "the two that were drawn say next to nothing"
    changed = [row for row, one in zip(rows, EVENTS, strict=False) if one.label != one.true_label]
    assert len(changed) == report["contradicted"]["part"] + report["test"]["part"] > 0
    old, new = changed[0]["label_history"]
    assert old["from"] == source
    assert old["label"] != new["label"] == changed[0]["label"]
    assert new.keys() == {"label", "label_factors", "by", "at", "why", "round", "procedure"}
    assert {row["label_history"][1]["by"] for row in rows} == {"Ann", "bob"}
    assert read_sample(f"{output}/labelled/corrected.jsonl") == sample
    rejected = [json.loads(line) for line in (output / "labelled/rejected.jsonl").read_text().splitlines()]
    assert [row["label_history"][0] for row in rejected] == 2 * [
        {"label": "induced", "by": "model m@1", "why": "rejected"}
    ]
    with pytest.raises(ValueError, match="a random sample of all cancellations is expected"):
        read_sample(f"{output}/labelled/rejected.jsonl").refuse("rejected.jsonl")
    again = read_labelled(f"{output}/labelled/corrected.jsonl")
    assert [row.example.event for row in again] == [one.event for one in EVENTS[:10]]
    assert all(len(row.history) == 2 for row in again)


def test_a_changed_procedure_needs_a_new_version(tmp_path):
    changed = tmp_path / "procedure.toml"
    changed.write_text(PROCEDURE_PATH.read_text().replace("Read all lines first", "Read some lines"))
    with pytest.raises(ValueError, match=r"procedure\.toml: the content changed \(digest .*give it a new version"):
        load_procedure(changed)


def test_an_event_that_is_labelled_twice_is_refused(tmp_path):
    write_labelled(str(tmp_path / "a.jsonl"), EVENTS[:2])
    write_labelled(str(tmp_path / "b.jsonl"), EVENTS[1:3])
    with pytest.raises(ValueError, match=f"event {EVENTS[1].event.event_id} is labelled twice"):
        read_labelled(str(tmp_path))


@pytest.mark.parametrize("num_changed", [0, 9, 40])
def test_labels_of_one_seller_say_less_than_as_many_of_many_sellers(num_changed: int) -> None:
    shares = []
    for num_sellers in (40, 8):
        events = [
            replace(EVENTS[number].event, seller_id=f"s-{number * num_sellers // 40}", event_id=f"e-{number}")
            for number in range(40)
        ]
        cases = {event.event_id: Case(event, "test", rank, "induced") for rank, event in enumerate(events)}
        said = {
            event.event_id: Settled(event.event_id, "not_induced" if number < num_changed else "induced", (), ())
            for number, event in enumerate(events)
        }
        shares.append(changes(cases, said)["test"])
    alone, alike = shares
    assert (alone["part"], alone["share"]) == (alike["part"], alike["share"]) == (num_changed, num_changed / 40)
    assert alike["low"] <= alone["low"] <= alone["share"] <= alone["high"] <= alike["high"]
    assert alike["high"] - alike["low"] > 1.5 * (alone["high"] - alone["low"])


def test_two_people_in_one_project_are_not_one(tmp_path):
    make(tmp_path)
    manifest, cases = read_cases(str(tmp_path / "round"))
    (task, *_) = json.loads((tmp_path / "round/label_studio/ann.json").read_text())
    said = [
        {"completed_by": user, "updated_at": AT, "result": chosen(label)}
        for user, label in ((1, "induced"), (2, "inconclusive"))
    ]
    (tmp_path / "export.json").write_text(json.dumps([{**task, "annotations": said}]))
    with pytest.raises(ValueError, match=r"export\.json: the project of annotator 'ann' has labels by 2 users .*1, 2"):
        read_answers([str(tmp_path / "export.json")], cases, manifest, people={})
    named = read_answers([str(tmp_path / "export.json")], cases, manifest, people={"1": "ann", "2": "eve"})
    assert settle(named, needed=1)[task["data"]["event_id"]].label is None
