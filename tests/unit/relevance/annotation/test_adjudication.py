"""One label out of several: majorities, a lead's decisions, and the history of both."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from relevance.annotation.adjudication import (
    DECISION_COLUMNS,
    AdjudicationSettings,
    Decision,
    adjudicate,
    read_decisions,
)
from relevance.annotation.annotation import Annotation
from tests.builders.annotation_data import write_csv

PAIR = ("q1", "p1")
LETTERS = {"E": "exact", "S": "substitute", "C": "complement", "I": "irrelevant"}


def notes(labels: str, round: str = "1", version: str = "v1") -> list[Annotation]:
    """One label per letter, by people a, b, c…; a dot is nobody."""
    given = zip("abcdefgh", labels, strict=False)
    at = f"2026-11-2{round}"
    return [Annotation(*PAIR, LETTERS[x], who, round, version, at, f"as {who}") for who, x in given if x != "."]


def settle(annotations: list[Annotation], decision: Decision | None = None, **settings: float):
    (one,) = adjudicate(annotations, {PAIR: decision} if decision else {}, AdjudicationSettings(**settings))
    return one


def decision(**fields: str) -> dict[str, str]:
    row = {"label": "C", "decided_by": "lead", "decided_at": "2026-11-25", "reason": "goes with it"}
    return {"query_id": "q1", "product_id": "p1", **row, **fields}


@pytest.mark.parametrize(
    ("labels", "settings", "label", "support"),
    [
        ("EE", {}, "exact", 1),
        ("ES", {}, None, 0.5),
        ("ESE", {}, "exact", 2 / 3),
        ("ESE", {"min_support": 0.7}, None, 2 / 3),
        ("ESC", {}, None, 1 / 3),
        ("EESS", {}, None, 0.5),
        ("E", {}, None, 1),
        ("E", {"min_votes": 1}, "exact", 1),
        ("IIIIE", {"min_support": 1}, None, 0.8),
        ("EE", {"min_votes": 3}, None, 1),
    ],
)
def test_a_majority_needs_votes_and_support(labels: str, settings: dict, label: str | None, support: float) -> None:
    one = settle(notes(labels), **settings)
    assert (one.label, one.method) == (label, "majority" if label else "open")
    assert one.support == pytest.approx(support)


def test_the_majoritys_people_version_and_history_are_kept() -> None:
    one = settle(notes("ESE"))
    assert (one.by, one.guideline_version) == ("a+c", "v1")
    said = [(event.what, event.by, event.at, event.label, event.why) for event in one.history]
    assert said == [
        ("label", "a", "2026-11-21", "exact", "as a"),
        ("label", "b", "2026-11-21", "substitute", "as b"),
        ("label", "c", "2026-11-21", "exact", "as c"),
        ("majority", "a+c", "2026-11-21", "exact", "2 of 3 labels"),
    ]


def test_a_second_thought_in_a_later_round_replaces_the_first_and_both_are_on_record() -> None:
    one = settle([*notes("ES"), *notes(".E", round="2", version="v2")])
    assert (one.label, one.support, len(one.votes), one.guideline_version) == ("exact", 1, 2, "v2")
    assert [(event.what, event.by, event.round) for event in one.history] == [
        ("label", "a", "1"),
        ("replaced label", "b", "1"),
        ("label", "b", "2"),
        ("majority", "a+b", ""),
    ]


def test_a_lead_decides_a_conflict_and_may_overrule_a_majority() -> None:
    ruling = Decision(*PAIR, "substitute", "lead", "2026-11-25", "another brand")
    settled = settle(notes("ES"), ruling)
    assert (settled.label, settled.method, settled.by, settled.support) == ("substitute", "decision", "lead", 0.5)
    overruled = settle(notes("EE"), ruling)
    assert (overruled.label, overruled.support) == ("substitute", 0)
    assert [event.what for event in overruled.history] == ["label", "label", "majority", "decision"]
    last = overruled.history[-1]
    assert (last.by, last.at, last.why) == ("lead", "2026-11-25", "another brand")


def test_an_open_pair_says_why() -> None:
    assert settle(notes("ES")).history[-1].why == "1 of 2 labels at most"
    assert settle(notes("E")).history[-1].why == "1 labels, 2 needed"


def test_decisions_are_read_and_undecided_lines_passed_over(tmp_path: Path) -> None:
    blank = dict.fromkeys(DECISION_COLUMNS, "") | {"query_id": "q2", "product_id": "p2"}
    found = read_decisions(str(write_csv(tmp_path / "d.csv", [decision(), blank])), {PAIR, ("q2", "p2")})
    assert found == {PAIR: Decision(*PAIR, "complement", "lead", "2026-11-25", "goes with it")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([decision(label="good")], "d.csv: decision on pair q1/p1: unknown label 'good'"),
        ([decision(reason="", decided_by="")], "q1/p1: decided_by, reason is blank: every decision says who, when"),
        ([decision(), decision()], "q1/p1: it stands there twice: keep one"),
        ([decision(query_id="q9")], "decision on pair q9/p1: nobody labelled that pair"),
        ([{"query_id": "q1", "label": "E"}], "d.csv: missing column product_id, decided_by, decided_at, reason"),
    ],
)
def test_a_decision_that_cannot_stand_is_named(tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_decisions(str(write_csv(tmp_path / "d.csv", rows)), {PAIR})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file: give the CSV of decisions"):
        read_decisions(str(tmp_path / "none.csv"), {PAIR})


def test_half_is_no_majority() -> None:
    with pytest.raises(ValidationError, match=r"greater than 0\.5"):
        AdjudicationSettings(min_support=0.5)
