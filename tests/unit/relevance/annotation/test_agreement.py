"""Agreement of people against the `krippendorff` package and by hand, and the page that shows it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from html.parser import HTMLParser

import krippendorff
import numpy as np
import pytest

from relevance.annotation.adjudication import AdjudicationSettings, adjudicate
from relevance.annotation.agreement import AgreementFigures, AgreementSettings, Rows, measure_agreement
from relevance.annotation.agreement_page import AgreementPage, judge, next_steps, render_agreement
from relevance.annotation.annotation import Annotation
from relevance.annotation.round import RoundPair
from relevance.labels import LABELS

SETTINGS = AgreementSettings(bootstrap_samples=200)
PEOPLE = {"ann": 0.9, "bob": 0.8, "cid": 0.5, "dee": 0.7}


def note(query: int, who: str, label: str, round: str = "1", version: str = "v1", comment: str = "") -> Annotation:
    return Annotation(f"q{query}", f"p{query % 7}", label, who, round, version, f"2026-11-2{round}", comment)


def row(query: int, round: str = "1", gold: str | None = None, query_text: str = "bat") -> RoundPair:
    keys = {"query_id": f"q{query}", "product_id": f"p{query % 7}", "query": query_text, "title": "Bat"}
    return RoundPair(keys, round, "v1", "exact, sure", "exact", 0.1, gold)


def rows_of(several: Iterable[RoundPair]) -> Rows:
    return {(one.round, one.pair): one for one in several}


def two_rounds() -> tuple[list[Annotation], Rows]:
    """Two rounds under two versions, gaps, and gold pairs that everybody labelled."""
    chooser = random.Random(7)
    notes, rows = [], []
    for round, version in (("1", "v1"), ("2", "v2")):
        for query in range(80) if round == "1" else range(100, 160):
            gold = chooser.choice(LABELS) if query % 10 == 0 else None
            rows.append(row(query, round, gold))
            truth = gold or chooser.choice(LABELS)
            for who in PEOPLE if gold else chooser.sample(sorted(PEOPLE), chooser.choice([1, 2, 3])):
                label = truth if chooser.random() < PEOPLE[who] else chooser.choice(LABELS)
                notes.append(note(query, who, label, round, version))
    return notes, rows_of(rows)


@pytest.fixture(scope="module")
def measured() -> tuple[list[Annotation], Rows, AgreementFigures]:
    notes, rows = two_rounds()
    return notes, rows, measure_agreement(notes, rows, SETTINGS)


def reference(notes: list[Annotation], label: str | None = None) -> float:
    """Alpha by the `krippendorff` package."""
    people = sorted({one.annotator for one in notes})
    units = sorted({(one.round, one.pair) for one in notes})
    table = np.full((len(people), len(units)), np.nan)
    for one in notes:
        value = LABELS.index(one.label) if label is None else float(one.label == label)
        table[people.index(one.annotator), units.index((one.round, one.pair))] = value
    return krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")


def test_every_alpha_equals_the_reference(measured: tuple[list[Annotation], Rows, AgreementFigures]) -> None:
    notes, rows, figures = measured
    people = [one for one in notes if rows[one.round, one.pair].gold is None]
    assert figures.overall.alpha == pytest.approx(reference(people))
    for one in figures.by_round:
        assert one.alpha == pytest.approx(reference([note for note in people if note.round == one.name]))
    for one in figures.by_version:
        assert one.alpha == pytest.approx(reference([note for note in people if note.guideline_version == one.name]))
    for one in figures.by_label:
        assert one.alpha == pytest.approx(reference(people, one.name))
    for one in figures.by_people:
        assert one.alpha == pytest.approx(reference([x for x in people if x.annotator in one.name.split(" and ")]))
    assert [one.name for one in figures.by_round] == ["1", "2"]
    assert [one.name for one in figures.by_version] == ["v1", "v2"]
    assert [one.name for one in figures.by_label] == list(LABELS)
    assert len(figures.by_people) == 6
    assert [one.alpha for one in figures.by_people] == sorted(one.alpha for one in figures.by_people)


def test_intervals_hold_alpha(measured: tuple[list[Annotation], Rows, AgreementFigures]) -> None:
    figures = measured[2]
    for one in (figures.overall, *figures.by_round, *figures.by_label, *figures.by_people):
        assert one.low < one.alpha < one.high


def test_each_person_against_gold(measured: tuple[list[Annotation], Rows, AgreementFigures]) -> None:
    notes, rows, figures = measured
    for one in figures.against_gold:
        own = [note for note in notes if note.annotator == one.annotator]
        judged = [(rows[note.round, note.pair].gold, note.label) for note in own if rows[note.round, note.pair].gold]
        assert (one.annotations, one.pairs) == (len(own), 14)
        assert 0 <= one.accuracy_low < one.accuracy < one.accuracy_high <= 1
        assert one.accuracy == pytest.approx(sum(gold == label for gold, label in judged) / len(judged))
        table = np.array([[LABELS.index(label) for label in both] for both in judged], float).T
        expected = krippendorff.alpha(reliability_data=table, level_of_measurement="nominal")
        assert one.alpha == pytest.approx(expected)
        for gold, label in {*judged}:
            assert one.confusion[LABELS.index(gold), LABELS.index(label)] == judged.count((gold, label))


def test_gold_pairs_of_one_query_say_less_of_a_person_than_as_many_of_many_queries() -> None:
    widths = []
    for per_query in (1, 6):
        rows, notes = [], []
        for n in range(24):
            keys = {"query_id": f"q{n // per_query}", "product_id": f"p{n}"}
            rows.append(RoundPair({**keys, "query": "bat", "title": "Bat"}, "1", "v1", "all", "exact", 0.1, "exact"))
            label = "irrelevant" if n < 6 else "exact"
            notes.append(
                Annotation(**keys, label=label, annotator="ann", round="1", guideline_version="v1", annotated_at="")
            )
        (ann,) = measure_agreement(notes, rows_of(rows), SETTINGS).against_gold
        assert ann.accuracy == 0.75
        widths.append(ann.accuracy_high - ann.accuracy_low)
    assert widths[1] > 1.5 * widths[0]


def test_bad_luck_on_a_few_gold_pairs_is_named_but_spoils_no_verdict() -> None:
    notes = [note(n, who, LABELS[n % 2]) for n in range(20) for who in ("ann", "bob")]
    notes += [note(n, "ann", "exact" if n != 32 else "irrelevant") for n in range(30, 33)]
    rows = rows_of([*(row(n) for n in range(20)), *(row(n, gold="exact") for n in range(30, 33))])
    page = page_of(measure_agreement(notes, rows, SETTINGS))
    assert judge(page)[0]
    assert "Go through the guidelines with ann: 66.7% of 3 gold pairs right, 80.0% expected." in next_steps(page)


def test_gold_pairs_do_not_count_as_agreement_of_people() -> None:
    notes = [note(1, "ann", "exact"), note(1, "bob", "irrelevant"), note(2, "ann", "exact"), note(2, "bob", "exact")]
    figures = measure_agreement(notes, rows_of([row(1), row(2, gold="exact")]), SETTINGS)
    assert (figures.overall.pairs, figures.overall.agreeing) == (1, 0)


def test_agreement_before_chance_is_the_share_of_equal_twos() -> None:
    notes = [note(1, who, label) for who, label in zip("abc", ("exact", "exact", "irrelevant"), strict=True)]
    notes += [note(2, "a", "exact"), note(2, "b", "exact"), note(3, "a", "exact")]
    figures = measure_agreement(notes, rows_of([row(1), row(2), row(3)]), SETTINGS)
    assert figures.overall.agreeing == pytest.approx((1 / 3 + 1) / 2)
    assert (figures.overall.pairs, figures.overall.annotations) == (2, 6)
    assert figures.coincidences.sum() == pytest.approx(5)
    assert figures.coincidences[0, 3] == pytest.approx(1)


def test_without_two_labels_on_a_pair_nothing_is_measured() -> None:
    figures = measure_agreement([note(1, "ann", "exact")], rows_of([row(1)]), SETTINGS)
    assert (figures.overall.alpha, figures.overall.low, figures.by_people) == (None, None, ())
    assert figures.against_gold[0].accuracy is None
    page = page_of(figures)
    assert judge(page) == (False, "Round 1: no pair has labels by two people yet.")
    assert "No two people labelled the same pair yet." in text_of(render_agreement(page))


def test_the_agenda_starts_with_what_is_most_disputed() -> None:
    notes = [
        *(note(1, who, label) for who, label in (("ann", "exact"), ("bob", "substitute"))),
        *(note(2, who, label) for who, label in (("ann", "exact"), ("bob", "irrelevant"))),
        *(note(3, who, label) for who, label in (("ann", "exact"), ("bob", "exact"), ("cid", "irrelevant"))),
        *(note(4, who, "exact") for who in ("ann", "bob")),
        *(note(5, who, "exact") for who in ("ann", "bob")),
        *(note(6, who, label) for who, label in (("ann", "exact"), ("bob", "complement"))),
    ]
    rows = rows_of([row(1), row(2), row(3), row(4), row(5, gold="irrelevant"), row(6)])
    figures = measure_agreement(notes, rows, SETTINGS, decided=[row(6).pair])
    assert [item.row.pair[0] for item in figures.agenda] == ["q2", "q1", "q3", "q5"]
    assert [item.disagreement for item in figures.agenda] == pytest.approx([1, 1, 2 / 3, 0])
    assert [item.against_gold for item in figures.agenda] == [False, False, False, True]
    assert len(measure_agreement(notes, rows, AgreementSettings(agenda_pairs=2, bootstrap_samples=100)).agenda) == 2


def test_a_later_round_takes_a_pair_off_the_agenda_and_leaves_the_first_rounds_alpha() -> None:
    notes = [note(1, "ann", "exact"), note(1, "bob", "irrelevant"), note(2, "ann", "exact"), note(2, "bob", "exact")]
    rows = rows_of([row(1), row(2), row(1, "2")])
    before = measure_agreement(notes, rows, SETTINGS)
    again = [*notes, note(1, "ann", "irrelevant", "2"), note(1, "bob", "irrelevant", "2")]
    after = measure_agreement(again, rows, SETTINGS)
    assert (len(before.agenda), len(after.agenda)) == (1, 0)
    assert after.by_round[0].alpha == before.by_round[0].alpha
    assert after.by_round[1].agreeing == 1


def test_a_round_in_which_everybody_presses_the_same_key_is_not_good_enough() -> None:
    notes = [note(query, who, "exact") for query in range(30) for who in ("ann", "bob", "cid")]
    figures = measure_agreement(notes, rows_of(row(query) for query in range(30)), SETTINGS)
    assert figures.overall.agreeing == 1
    everything = [figures.overall, *figures.by_round, *figures.by_version, *figures.by_label, *figures.by_people]
    assert {(one.alpha, one.low, one.high) for one in everything} == {(None, None, None)}
    assert len(figures.by_people) == 3
    page = page_of(figures, notes)
    fine, sentence = judge(page)
    assert not fine
    assert "everybody gave the same label to all 30 pairs" in sentence
    assert "nan" not in re.sub(r"<[^>]*>", " ", render_agreement(page).decode()).lower().split()


def test_a_label_that_nobody_used_has_no_alpha() -> None:
    notes = [note(query, who, LABELS[query % 2]) for query in range(30) for who in ("ann", "bob")]
    figures = measure_agreement(notes, rows_of(row(query) for query in range(30)), SETTINGS)
    assert figures.overall.alpha == 1
    assert [one.alpha for one in figures.by_label] == [1, 1, None, None]


def page_of(figures: AgreementFigures, notes: list[Annotation] | None = None, **settings: float) -> AgreementPage:
    adjudicated = adjudicate(notes or [], {}, AdjudicationSettings())
    return AgreementPage(figures, adjudicated, AgreementSettings(**settings), 3, "v2", {"rounds": "var/rounds/1"})


def text_of(page: bytes) -> str:
    class Texts(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.texts.append(data.strip())

    parser = Texts()
    parser.feed(page.decode().partition("</style>")[2])
    return " ".join(text for text in parser.texts if text)


def test_the_verdict_follows_alpha_and_gold(measured: tuple[list[Annotation], Rows, AgreementFigures]) -> None:
    figures = measured[2]
    alpha = figures.by_round[-1].alpha
    fine, sentence = judge(page_of(figures, min_alpha=alpha - 0.01, min_gold_accuracy=0))
    assert fine
    assert sentence.startswith("Round 2: people agree well enough to train on their labels: alpha ")
    fine, sentence = judge(page_of(figures, min_alpha=alpha + 0.01))
    assert not fine
    assert "people do not agree well enough" in sentence
    fine, sentence = judge(page_of(figures, min_alpha=-1, min_gold_accuracy=1))
    assert not fine
    assert sentence.endswith("but too many gold pairs are missed by ann, bob, cid, dee.")


def test_the_next_steps_say_what_to_do(measured: tuple[list[Annotation], Rows, AgreementFigures]) -> None:
    notes, rows, figures = measured
    people = [one for one in notes if rows[one.round, one.pair].gold is None]
    steps = next_steps(page_of(figures, people, min_gold_accuracy=0.75))
    open_pairs = sum(one.label is None for one in adjudicate(people, {}, AdjudicationSettings()))
    assert steps[0] == f"Decide {open_pairs} open pairs: fill in conflicts.csv, run again with decisions=…."
    assert any(step.startswith("Go through the guidelines with cid: ") for step in steps)
    assert any(re.match(r"Sharpen the line between \w+ and \w+: [\d.]+% of disagreements", step) for step in steps)
    assert "Wait for 3 labels still missing, or do without." in steps
    old = sum(one.guideline_version == "v1" for one in people)
    assert steps[-1] == f"Mind {old} labels given under other guidelines than v2."


def test_what_people_and_sellers_wrote_stays_text() -> None:
    hostile = "<script>document.title='owned'</script>"
    notes = [note(1, hostile, "exact", comment=hostile), note(1, "bob", "irrelevant")]
    page = render_agreement(page_of(measure_agreement(notes, rows_of([row(1, query_text=hostile)]), SETTINGS), notes))
    assert b"<script" not in page
    assert text_of(page).count(hostile) == 5  # query, person, two people, vote, comment
    assert not re.search(rb"<link|<img|src=|https?://", page)
