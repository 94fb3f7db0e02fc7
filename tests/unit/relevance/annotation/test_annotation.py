"""Annotation rounds: drawing, giving out, files for people, and reading back what they say."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.annotation.assignment import assign_people
from cluster.annotation.label_studio import import_tasks
from relevance.annotation.annotation import Annotation, check_annotations, latest_per_annotator
from relevance.annotation.files import SHEET_COLUMNS, TASK_COLUMNS, read_annotations, write_sheet
from relevance.annotation.label_studio import labelling_config, read_export
from relevance.annotation.pairs import read_gold, read_scores, read_texts, scored_day
from relevance.annotation.strata import StrataSettings, draw_pairs, third_edges, uncertainties
from relevance.annotation.tasks import TaskSettings, assign_tasks
from relevance.labels import LABELS
from relevance.prompting.guidelines import load_guidelines
from tests.builders.annotation_data import Truth, write_csv, write_manifest, write_scored_day

NONE = np.empty(0, np.uint64)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("day")
    return folder, write_scored_day(folder, 600)


def draw(folder: Path, *, excluded: np.ndarray = NONE, **settings: object):
    strata = StrataSettings(**settings)
    scores = str(folder / "scores")
    edges, _ = third_edges(read_scores(scores), strata.uncertainty)
    return draw_pairs(read_scores(scores), edges, strata, excluded=excluded)


def task(number: int, **values: str) -> dict[str, str]:
    row = {"query_id": f"q{number}", "product_id": "p1", "query": "bat", "title": "Bat", "details": "", "round": "1"}
    return {**row, "guideline_version": "v1", "annotator": "ann", **values}


def export(*annotations: dict, **data: str) -> bytes:
    """An export as Label Studio 1.23 writes it, with one task."""
    return json.dumps([{"id": 7, "annotations": list(annotations), "data": task(1, **data)}]).encode()


def answer(label: str | None, user: object = 3, **fields: object) -> dict:
    result = {"from_name": "label", "to_name": "query", "type": "choices", "value": {"choices": [label]}}
    times = {"created_at": "2026-11-22T08:00:00Z", "updated_at": "2026-11-22T09:00:00Z"}
    return {"completed_by": user, "was_cancelled": False, "result": [result] if label else [], **times, **fields}


def read(folder: Path, name: str, content: bytes, **people: str) -> list[Annotation]:
    (folder / name).write_bytes(content)
    return read_annotations([str(folder / name)], people=people).annotations


@pytest.mark.parametrize(
    ("kind", "probabilities", "expected"),
    [
        ("entropy", [1, 0, 0, 0], 0),
        ("entropy", [0.25] * 4, 1),
        ("entropy", [0.5, 0.5, 0, 0], 0.5),
        ("margin", [1, 0, 0, 0], 0),
        ("margin", [0.1, 0.4, 0.1, 0.4], 1),
        ("margin", [0.1, 0.2, 0.7, 0.0], 0.5),
    ],
)
def test_uncertainty_by_hand(kind: str, probabilities: list[float], expected: float) -> None:
    assert uncertainties(np.array([probabilities]), kind)[0] == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["entropy", "margin"])
def test_strata_are_thirds_of_each_label_and_give_what_was_asked(day: tuple[Path, Truth], kind: str) -> None:
    folder, truth = day
    counts = {"exact": (3, 4, 9), "substitute": (0, 0, 5), "irrelevant": (1, 1, 1)}
    drawn, strata = draw(folder, counts=counts, uncertainty=kind)
    found = Counter(one.stratum for one in drawn)
    asked = {
        f"{label}, {third}": counts.get(label, (0, 0, 0))[i]
        for label in LABELS
        for i, third in enumerate(("sure", "middling", "unsure"))
    }
    assert found == {name: count for name, count in asked.items() if count}
    sizes = {one.name: one.population for one in strata}
    for label in LABELS:
        thirds = [sizes[f"{label}, {third}"] for third in ("sure", "middling", "unsure")]
        assert sum(thirds) == Counter(truth.values())[label]
        assert max(thirds) - min(thirds) <= 3
    assert all(truth[one.pair] == one.predicted for one in drawn)
    exact = {
        third: [one.uncertainty for one in drawn if one.stratum == f"exact, {third}"] for third in ("sure", "unsure")
    }
    assert max(exact["sure"]) < min(exact["unsure"])


def test_a_draw_follows_its_seed_and_not_the_order_of_files(day: tuple[Path, Truth], tmp_path: Path) -> None:
    folder, _ = day
    first = {one.pair for one in draw(folder)[0]}
    assert first == {one.pair for one in draw(folder)[0]}
    assert first != {one.pair for one in draw(folder, seed=1)[0]}
    (tmp_path / "scores").mkdir()
    for number, part in enumerate(sorted((folder / "scores").glob("part-*"), reverse=True)):
        (tmp_path / f"scores/part-{number:05d}.parquet").write_bytes(part.read_bytes())
    write_manifest(tmp_path)
    assert first == {one.pair for one in draw(tmp_path)[0]}


def test_a_stratum_that_is_too_small_gives_all_it_has(day: tuple[Path, Truth]) -> None:
    drawn, strata = draw(day[0], counts={"exact": (10**6, 0, 0)})
    (sure,) = [one for one in strata if one.name == "exact, sure"]
    assert len(drawn) == sure.drawn == sure.population < sure.asked


def test_unfinished_scores_and_another_input_are_refused(day: tuple[Path, Truth], tmp_path: Path) -> None:
    folder, truth = day
    with pytest.raises(RuntimeError, match=r"no _SUCCESS there: run again when .*, or give the folder of a finished"):
        scored_day(str(tmp_path))
    wanted = set(list(truth)[:3])
    assert read_texts(str(folder / "pairs"), wanted).keys() == wanted
    with pytest.raises(ValueError, match="1 scored pairs are not in this input, the first q1/nowhere: give"):
        read_texts(str(folder / "pairs"), {*wanted, ("q1", "nowhere")})


def test_gold_needs_a_label_and_only_one(tmp_path: Path) -> None:
    row = {"query_id": "q1", "product_id": "p1", "query": "bat", "title": "Bat", "label": "S"}
    ((texts, label),) = read_gold(str(write_csv(tmp_path / "good.csv", [row, row]))).values()
    assert (texts["title"], label) == ("Bat", "substitute")
    with pytest.raises(ValueError, match="gold pair q1/p1: expected label: exact, substitute"):
        read_gold(str(write_csv(tmp_path / "none.csv", [{**row, "label": "good"}])))
    with pytest.raises(ValueError, match=r"gold pair q1/p1 stands there with two texts: .* the market in front"):
        read_gold(str(write_csv(tmp_path / "texts.csv", [row, {**row, "title": "Ball"}])))
    with pytest.raises(ValueError, match="gold pair q1/p1 stands there with two labels"):
        read_gold(str(write_csv(tmp_path / "two.csv", [row, {**row, "label": "E"}])))


@pytest.mark.parametrize(("people", "per_pair", "num_pairs"), [(3, 2, 100), (5, 2, 101), (7, 3, 200), (2, 2, 9)])
def test_people_get_equal_loads_and_meet_each_other(people: int, per_pair: int, num_pairs: int) -> None:
    names = [f"a{number}" for number in range(people)]
    assigned = assign_people(num_pairs, names, per_pair, seed=3)
    assert all(len({*chosen}) == per_pair for chosen in assigned)
    load = Counter(name for chosen in assigned for name in chosen)
    assert max(load.values()) - min(load.values()) <= 1
    twos = Counter(frozenset(two) for chosen in assigned for two in combinations(chosen, 2))
    assert len(twos) == people * (people - 1) // 2
    assert min(twos.values()) >= 0.7 * max(twos.values())


def test_gold_is_a_share_of_each_persons_tasks_the_same_for_all_and_shuffled_in() -> None:
    pairs, gold = [(f"q{n}", "p") for n in range(90)], [(f"g{n}", "p") for n in range(50)]
    settings = TaskSettings(annotators=("ann", "bob", "cid"), gold_fraction=0.25, seed=4)
    assignment = assign_tasks(pairs, gold, settings)
    assert assignment == assign_tasks(pairs, gold, settings)
    for own in assignment.tasks.values():
        places = [place for place, pair in enumerate(own) if pair in assignment.gold]
        assert len({*own}) == len(own) == 80
        assert len(places) == 20
        assert places[0] < 20 < 60 < places[-1]
    assert len(assignment.gold) == 20
    shared = assign_tasks(pairs, gold, TaskSettings(projects="shared", gold_fraction=0))
    assert set(shared.tasks["shared"]) == set(pairs)


def _pairs(folder: Path, *titles: str) -> str:
    rows = [{"query_id": "q1", "query": "bat", "product_id": "p1", "title": title} for title in titles]
    return str(write_csv(folder / "pairs.csv", rows))


def test_people_see_the_row_that_got_the_label_and_not_a_damaged_copy(tmp_path: Path) -> None:
    found = read_texts(_pairs(tmp_path, "", "Bat", "Bat"), {("q1", "p1")})
    assert found["q1", "p1"]["title"] == "Bat"


def test_a_drawn_pair_with_two_texts_is_refused(tmp_path: Path) -> None:
    """Which of them was drawn nobody knows: people would be shown one and asked about the other's label."""
    with pytest.raises(ValueError, match=r"pairs\.csv: pair q1/p1 stands there with two texts: ids have to name one"):
        read_texts(_pairs(tmp_path, "Bat", "Animal"), {("q1", "p1")})


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="4 people per pair are asked for, 3 are named"):
        TaskSettings(annotators_per_pair=4)
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        TaskSettings(annotators_per_pair=1)
    with pytest.raises(ValidationError, match="it names files"):
        TaskSettings(annotators=("ann", "../bob"))
    with pytest.raises(ValidationError, match="found good"):
        StrataSettings(counts={"good": (1, 1, 1)})


def test_the_interface_offers_the_four_labels_and_holds_the_guidelines() -> None:
    root = ElementTree.fromstring(labelling_config(load_guidelines()))
    assert [choice.get("value") for choice in root.iter("Choice")] == list(LABELS)
    (guidelines,) = root.iter("HyperText")
    assert all(rule["name"].capitalize() in guidelines.get("value") for rule in load_guidelines().rules)
    assert {tag.get("value") for tag in root.iter("Text")} == {"$query", "$title", "$details"}


def test_tasks_tell_nothing_of_gold_or_of_the_model() -> None:
    (imported,) = json.loads(import_tasks([task(1)]))
    assert imported.keys() == {"data"}
    assert tuple(imported["data"]) == TASK_COLUMNS
    assert not {"gold", "predicted", "stratum"} & {*SHEET_COLUMNS}


def test_a_sheet_comes_back_as_it_went_out(tmp_path: Path) -> None:
    sheet = write_sheet([task(1, title='=HYPERLINK("x")', details="brand: B\nsize: 2"), task(2)]).decode("utf-8-sig")
    assert "'=HYPERLINK" in sheet
    lines = sheet.replace("v1,ann,,,", "v1,ann,s,a remark,2026-11-22", 1)
    for name, text in (("comma.csv", lines), ("semicolon.csv", lines.replace(",", ";"))):
        (one,) = read(tmp_path, name, text.encode())
        assert (one.pair, one.label, one.annotator, one.comment) == (("q1", "p1"), "substitute", "ann", "a remark")


def test_an_export_of_a_persons_own_project(tmp_path: Path) -> None:
    remark = {"from_name": "comment", "type": "textarea", "value": {"text": ["size?"]}}
    own = answer("complement")
    own["result"].append(remark)
    (one,) = read(tmp_path, "ann.json", export(own))
    assert one == Annotation("q1", "p1", "complement", "ann", "1", "v1", "2026-11-22T09:00:00Z", "size?", "ann.json")


def test_an_export_of_a_shared_project_names_people_by_number_or_mail(tmp_path: Path) -> None:
    both = export(answer("exact", 3), answer("substitute", {"id": 4, "email": "bob@example.com"}), annotator="")
    assert [one.annotator for one in read(tmp_path, "s.json", both)] == ["user 3", "bob@example.com"]
    named = read(tmp_path, "s.json", both, **{"3": "ann", "bob@example.com": "bob"})
    assert [one.annotator for one in named] == ["ann", "bob"]


def test_skipped_tasks_are_left_out() -> None:
    rows = read_export(export(answer("exact", was_cancelled=True), answer(None), answer("substitute")), name="x")
    assert [row["label"] for row in rows] == ["substitute"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", export(answer("good")), r"a.json: annotation 1, pair q1/p1, annotator 'ann': unknown label 'good'"),
        ("a.json", export(answer("exact"), round=""), "a.json: annotation 1: round is blank or missing"),
        ("a.json", export(answer("exact", 3), answer("exact", 4)), r"'ann' has labels by 2 users .* \(3, 4\): say who"),
        ("a.json", b'[{"id": 1, "label": "exact"}]', r"a.json: not a Label Studio export \(KeyError\): export the"),
        ("a.json", b"{", "a.json: not a Label Studio export"),
        ("a.csv", b"query_id,label\nq1,exact\n", "a.csv: missing column product_id, annotator, round, guideline_ver"),
        ("a.csv", b"", "a.csv: missing column query_id.*found none"),
        ("a.csv", "query_id;Stück\n".encode("latin-1"), "a.csv: not UTF-8: save it as CSV UTF-8"),
        ("a.txt", b"", "no .csv or .json file there"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, content)


@pytest.mark.parametrize("other", ["bob.xlsx", "bob.csv.gz"])
def test_a_sheet_in_another_form_is_refused_beside_the_others(tmp_path: Path, other: str) -> None:
    """Else a person's labels would be missing from the agreement, as if nobody had given them."""
    (tmp_path / "ann.csv").write_bytes(write_sheet([task(1)]))
    (tmp_path / other).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"expected \.csv or \.json files alone, found " + other + "; .* save it as"):
        read_annotations([str(tmp_path)])


def note(number: int, who: str, label: str, round: str = "1", at: str = "") -> Annotation:
    return Annotation(f"q{number}", "p1", label, who, round, "v1", at, source=f"{who}.csv")


def test_nobody_labels_a_pair_twice_in_a_round_and_nobody_an_unknown_pair() -> None:
    known = {(round, (f"q{number}", "p1")) for number in (1, 2) for round in ("1", "2")}
    check_annotations([note(1, "ann", "exact"), note(1, "bob", "exact"), note(1, "ann", "exact", "2")], known)
    with pytest.raises(ValueError, match=r"ann.csv: annotator 'ann' labelled pair q2/p1 2 times in round '1' \(1 such"):
        check_annotations([note(2, "ann", "exact"), note(1, "ann", "exact"), note(2, "ann", "exact")], known)
    with pytest.raises(ValueError, match=r"bob.csv: pair q3/p1 of annotator 'bob' is not in round '1' \(2 such"):
        check_annotations([note(3, "bob", "exact"), note(3, "ann", "exact")], known)


def test_the_last_word_is_of_the_last_round_as_people_count() -> None:
    words = [
        note(1, "ann", "exact", "10"),
        note(1, "ann", "substitute", "9", "2030"),
        note(1, "bob", "irrelevant", "2"),
    ]
    assert {(one.annotator, one.label) for one in latest_per_annotator(words)} == {
        ("ann", "exact"),
        ("bob", "irrelevant"),
    }
