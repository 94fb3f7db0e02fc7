"""Annotations as people bring them (../shared/cases): they come home to their round, or are named with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relevance.annotation.annotation import Annotation, bring_home, check_annotations, pair_at_home
from relevance.annotation.files import read_annotations, read_rows
from relevance.annotation.round import read_round
from tests.conftest import SHARED_CASES

at_hand = pytest.mark.skipif(not SHARED_CASES.exists(), reason="the files that people bring are not at hand")
NOTE = Annotation("q1", "p1", "exact", "ann", "1", "v1", "", source="ann.csv")


@at_hand
def test_label_studio_numbers() -> None:
    folder = SHARED_CASES / "label_studio_numbers"
    known = {(row.round, row.pair) for row in read_round(str(folder / "round"))}
    back = read_annotations([str(folder / "back")])
    home = bring_home(back.annotations, known)
    check_annotations(home, known)
    assert {"000000", "000018"} <= {one.product_id for one in home}
    assert len(home) == len(back.annotations) > 53


@at_hand
def test_label_studio_relation() -> None:
    back = read_annotations([str(SHARED_CASES / "label_studio_relation/relation")])
    assert len(back.annotations) > 20
    assert {one.annotator for one in back.annotations} == {"ann"}


@pytest.mark.parametrize(
    ("written", "came_back"), [("0042", "42"), ("0042", "42.0"), ("000", "0"), ("P7   ", "P7"), ("P7", " P7 ")]
)
def test_ids_come_home(written: str, came_back: str) -> None:
    known = {("01", ("q1", written)), ("01", ("q1", "9")), ("01", ("q2", written))}
    (home,) = bring_home([replace(NOTE, product_id=came_back, round="1")], known)
    assert (home.round, home.pair) == ("01", ("q1", written))
    assert pair_at_home(("q1", came_back), {pair for _, pair in known}) == ("q1", written)


@pytest.mark.parametrize(
    ("known", "id_", "why"), [(("018", "18.0"), "0018", "several pairs"), (("1",), "1.2E+15", "digits are lost")]
)
def test_ids_that_cannot_be_told_are_named_with_the_reason(known: tuple[str, ...], id_: str, why: str) -> None:
    pairs = {("1", ("q1", one)) for one in known}
    with pytest.raises(ValueError, match=why):
        check_annotations(bring_home([replace(NOTE, product_id=id_)], pairs), pairs)


def test_a_quote_that_swallows_lines_of_a_sheet_is_named() -> None:
    content = b'query_id,comment\nq1,"24 inch\nq2,fine\nq3,"x"\n'
    with pytest.raises(ValueError, match=r"sheet\.csv: line 2: a quote opens"):
        read_rows(content, "sheet.csv", ["query_id"])
