"""Tables as text: read many lines at a time, they are what they are record by record."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.sharded import input_files
from cluster.sharded.delimited import DelimitedTable

relaxed = settings(deadline=None, max_examples=200)
COLUMNS = ("c", "a")


def by_record(content: bytes) -> list[tuple[bytes | None, bytes | None, str | None]]:
    table = DelimitedTable("t.csv", io.BytesIO(content))
    places = [table.names.index(name) for name in COLUMNS]
    return [
        (None, None, one.error) if one.error else (*(one.cells[place] for place in places), None)
        for one in table.records()
    ]


def by_table(content: bytes) -> list[tuple[bytes | None, bytes | None, str | None]]:
    rows = []
    for table in DelimitedTable("t.csv", io.BytesIO(content)).tables(COLUMNS):
        assert len(table) > 0
        rows += [(row["c"], row["a"], row.get("error")) for row in table.to_pylist()]
    return rows


@relaxed
@given(
    st.lists(st.sampled_from(["\\N", *'ab,,,"""\n\n\n\r\\ ;\0éN']), max_size=120).map("".join),
    st.sampled_from([",", "\t", ";", "|", "\x01"]),
)
def test_whatever_is_written_reads_as_it_does_record_by_record(text: str, separator: str) -> None:
    content = "a,b,c\n".replace(",", separator).encode() + text.replace(",", separator).encode()
    assert by_table(content) == by_record(content)


@relaxed
@given(st.lists(st.tuples(*[st.text(st.sampled_from('ab,"\n\r é'), max_size=6)] * 3), max_size=30))
def test_what_a_program_writes_is_read(rows: list[tuple[str, str, str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    content = stream.getvalue().encode()
    assert by_table(content) == by_record(content)


def test_a_cell_of_nothing_is_null_and_an_empty_one_a_text() -> None:
    """As Hive and PostgreSQL write it: the model would read `Brand: \\N`."""
    lines = ["\\N,b,", '"\\N",b,""', '\\N,"two\nlines",\\\\N', '"\\N","a \\"quote\\" of Spark",N', "\\n,b, \\N"]
    content = ("a,b,c\n" + "\n".join(lines)).encode()
    expected = [(b"", None), (b"", None), (b"\\\\N", None), (b"N", None), (b" \\N", b"\\n")]
    assert by_table(content) == by_record(content) == [(*cells, None) for cells in expected]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 50])
def test_a_record_may_cross_the_end_of_what_was_read_ahead(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'a,b,c\n1,2,3\n4,"five\nand six",6\n\n7,8\n"9,10,11\n12,13,14\n15,"16",17\n' * 2 + b"18,19,20"
    whole = by_record(content)
    monkeypatch.setattr(input_files, "_BLOCK_BYTES", size)
    assert by_table(content) == whole
    assert [error for *_, error in whole if error and "2 columns, expected 3" in error]


def test_a_separator_that_a_file_names_is_a_mark() -> None:
    with pytest.raises(ValueError, match="no separator found in the first line"):
        DelimitedTable("t.csv", io.BytesIO(b"sep=x\naxb\n1x2\n"))
    assert DelimitedTable("t.csv", io.BytesIO(b"sep=^\na^b\n1^2\n")).names == ["a", "b"]


def test_a_first_line_that_is_no_header_is_refused_without_its_words() -> None:
    content = b"q1,a red kettle,p1,Kettle of enamel\nq2,a blue pan,p2,Pan of iron\n"
    with pytest.raises(ValueError, match=r"t\.csv: no header: of its first line's 4 values none .*query_id") as said:
        DelimitedTable("t.csv", io.BytesIO(content), wanted=("query_id", "title"))
    assert not any(word in str(said.value) for word in ("red", "kettle", "Kettle", "q1"))
    assert DelimitedTable("t.csv", io.BytesIO(b"Title ,x\n"), wanted=("query_id", "title")).names == ["Title", "x"]


def test_a_table_holds_all_that_was_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "_BLOCK_BYTES", 1000)
    content = b"a,b\n" + b"one,two\n" * 1000
    sizes = [len(table) for table in DelimitedTable("t.csv", io.BytesIO(content)).tables(["a"])]
    assert sum(sizes) == 1000
    assert min(sizes[:-1]) > 100


def test_rows_that_a_carriage_return_alone_ends_are_rows() -> None:
    """What an old Mac wrote below a header that another program put there; of Excel's two kinds of line ends."""
    content = (
        b'a,b,c\r\n1,2,3\r4,"5, five",6\r7,8,9\r\n10,11,12\ra,b,c\r13,14,15\r\n16,17\r18,19,20\r\n"2\r1",22,23\r\n'
    )
    found = by_table(content)
    assert found == by_record(content)
    assert [a for _, a, _ in found] == [b"1", b"4", b"7", b"10", None, b"13", None, b"2\r1"]
    errors = [error for *_, error in found if error]
    assert errors == [
        "line 3: the header again, as where files were put together",
        "line 4: 4 columns, expected 3",
    ]


def test_a_header_that_comes_again_is_no_record() -> None:
    """`cat *.csv`, of files with a byte-order mark, and of a program that quotes all."""
    content = b'a,b,c\n1,2,3\n\xef\xbb\xbfa,b,c\n4,5,6\r\n"a","b","c"\r\n7,8,9\na,b,c'
    errors = [error for *_, error in by_table(content)]
    again = "the header again, as where files were put together"
    assert errors == [None, f"line 3: {again}", None, f"line 5: {again}", None, f"line 7: {again}"]
    assert by_table(content) == by_record(content)
    assert by_table(b"a,b,c\na,b,x\na,a,c\n") == [(b"x", b"a", None), (b"c", b"a", None)]


def test_records_below_a_header_of_another_order_are_not_mixed_up() -> None:
    for read in (by_table, by_record):
        with pytest.raises(ValueError, match=r"t\.csv: line 3 is a header with these columns in another order"):
            read(b"a,b,c\n1,2,3\nc,a,b\n3,1,2\n")
