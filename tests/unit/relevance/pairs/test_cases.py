"""Files as people bring them (../shared/cases, a folder each): read whole, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from relevance.pairs.files import find_splits, passed_over, read_split
from relevance.pairs.pair import clean_pairs
from tests.conftest import SHARED_CASES

pytestmark = pytest.mark.skipif(not SHARED_CASES.exists(), reason="the files that people bring are not at hand")


def rows_of(url: Path | str, *, carry: tuple[str, ...] = ()) -> list[dict]:
    """Rows as scoring cleans them."""
    tables = [
        clean_pairs(table, max_text_bytes=100_000, carry=carry)
        for split in find_splits(str(url), carry=carry)
        for table in read_split(split)
    ]
    return [row for table in tables for row in table.to_pylist()]


def test_unclosed_quote() -> None:
    rows = rows_of(SHARED_CASES / "unclosed_quote")
    assert len(rows) == 40
    bad = [row["error"] for row in rows if row["error"]]
    assert bad == ["pairs.csv line 7: a quote opens a value and is not closed as it should be"]
    assert [row["query_id"] for row in rows if not row["error"]] == [f"q{n}" for n in range(40) if n != 5]


def test_other_endings() -> None:
    rows = rows_of(SHARED_CASES / "other_endings/in")
    assert len(rows) == len({row["query_id"] for row in rows}) == 40
    assert not any(row["error"] for row in rows)
    assert passed_over(str(SHARED_CASES / "other_endings/in")) == []


def test_tab_separated() -> None:
    (row,) = rows_of(SHARED_CASES / "tab_separated.csv")
    assert (row["query"], row["product_id"], row["error"], row["truth"]) == ("salon chair", "25434", None, None)


def test_brand_as_double() -> None:
    rows = rows_of(SHARED_CASES / "brand_as_double")
    assert len(rows) == 30
    assert "Brand: 4012\n" in rows[0]["product_text"] + "\n"
    assert "Brand" not in rows[1]["product_text"]


def test_ids_as_double() -> None:
    rows = rows_of(SHARED_CASES / "ids_as_double")
    assert [row["query_id"] for row in rows[:2]] == ["1000000000000000", "1000000000000001"]


def test_label_as_double() -> None:
    with pytest.raises(ValueError, match=r"pairs\.parquet: column 'label' is double: expected exact, substitute"):
        find_splits(str(SHARED_CASES / "label_as_double"))


def test_category_as_list() -> None:
    rows = rows_of(SHARED_CASES / "category_as_list")
    assert len(rows) == 30
    assert 'Category: ["Home", "Furniture"]' in rows[0]["product_text"]


def test_attributes_as_structs() -> None:
    rows = rows_of(SHARED_CASES / "attributes_as_structs")
    assert len(rows) == 30
    assert rows[0]["product_text"].endswith("Attributes: colour: oak")


def test_carried_column_two_types() -> None:
    folder = SHARED_CASES / "carried_column_two_types/in"
    with pytest.raises(ValueError, match=r"column 'price', .* is int64 in .*a\.parquet and string in .*b\.parquet"):
        find_splits(str(folder), carry=("price",))
    assert len(rows_of(folder)) == 20


@pytest.mark.parametrize("name", ["spark_empty_part_csv", "spark_empty_part_jsonl"])
def test_spark_empty_part(name: str) -> None:
    rows = rows_of(SHARED_CASES / name / "in")
    assert len(rows) == 20
    assert not any(row["error"] for row in rows)


def test_image_as_struct() -> None:
    rows = rows_of(SHARED_CASES / "image_as_struct")
    assert len(rows) == 60
    assert not any(row["error"] for row in rows)


def test_column_twice() -> None:
    with pytest.raises(ValueError, match=r"pairs\.parquet: column 'title' stands there 2 times"):
        find_splits(str(SHARED_CASES / "column_twice"))
