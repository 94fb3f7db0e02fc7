"""Labelled events from files: every row is an example, or is said to be none, by its place."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.events.event import event_mapping
from cancellation.events.examples import read_examples
from cancellation.events.files import find_event_shards
from cancellation.events.table import labelled_table, write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate

EVENTS = list(simulate(SimulationSettings(num_events=4), 3))
FOREIGN = "my number is 0812 3456 7890"


def write_lines(path: Path, *further: dict) -> str:
    """Labelled events, a blank line behind each, those at the end with what is given to them."""
    plain = [{}] * (len(EVENTS) - len(further))
    rows = [
        {"event": event_mapping(one.event), "label": one.label, **other}
        for one, other in zip(EVENTS, [*plain, *further], strict=True)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))
    return str(path)


def test_a_row_without_a_label_is_named_by_its_line(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "events.jsonl", {"label": None}, {})
    with pytest.raises(ValueError, match=r"events\.jsonl line 5: expected label .* found none; label the row, or"):
        list(read_examples(lines))

    write_labelled(str(tmp_path / "events.parquet"), EVENTS)
    table = pq.read_table(tmp_path / "events.parquet")
    labels = pa.array([EVENTS[0].label, None, *[one.label for one in EVENTS[2:]]])
    place = table.column_names.index("label")
    pq.write_table(table.set_column(place, "label", labels), tmp_path / "events.parquet")
    with pytest.raises(ValueError, match=r"events\.parquet line 2: expected label .* found none; label the row, or"):
        list(read_examples(str(tmp_path / "events.parquet")))


def test_a_label_that_stands_twice_is_nobodys(tmp_path: Path) -> None:
    """The last one won, in lines as in columns."""
    lines = write_lines(tmp_path / "events.jsonl", {})
    text = Path(lines).read_text()
    Path(lines).write_text(text.replace('"label": ', '"label": "inconclusive", "label": ', 1))
    with pytest.raises(ValueError, match=r"events\.jsonl line 1: .*each key once"):
        list(read_examples(lines))


def test_an_example_may_be_structs_with_nulls_and_decimals(tmp_path: Path) -> None:
    """As Spark writes them: each struct with all fields, numbers of exact digits."""
    rows = [{**event_mapping(one.event), "label": one.label, "label_weight": Decimal("0.5")} for one in EVENTS]
    for number, row in enumerate(rows):
        row["order"] = {**row["order"], "item_count": None if number % 2 else 1}
        row["sampling_weight"] = Decimal("1.50")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = list(read_examples(str(tmp_path / "a.parquet")))
    assert [one.event.order.item_count for one in found] == [1, None, 1, None]
    assert [one.event.chat for one in found] == [one.event.chat for one in EVENTS]
    assert {(one.weight, one.sampling_weight) for one in found} == {(0.5, 1.5)}


@pytest.mark.parametrize("name", ["chat", "label", "label_factors"])
@pytest.mark.parametrize("spelt", [str, str.upper])
def test_columns_that_stand_twice_or_are_spelt_otherwise_are_refused(
    tmp_path: Path, name: str, spelt: Callable[[str], str]
) -> None:
    """An event without its chat is another event, and no row would say so."""
    path, table = tmp_path / "events.parquet", labelled_table(EVENTS)
    pq.write_table(table, path)
    assert [one.event for one in read_examples(str(path))] == [one.event for one in EVENTS]
    if spelt is str:
        table = pa.table([*table.columns, table[name]], names=[*table.column_names, name])
    else:
        table = table.rename_columns([spelt(name) if column == name else column for column in table.column_names])
    pq.write_table(table, path)
    message = rf"events\.parquet: column '{spelt(name)}' stands there"
    with pytest.raises(ValueError, match=message):
        list(read_examples(str(path)))
    if name != "label_factors":  # which are for training alone
        with pytest.raises(ValueError, match=message):
            find_event_shards(str(path), shard_bytes=1)


def test_rows_of_a_labelling_that_failed_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = write_lines(tmp_path / "events.jsonl", {"label": None, "error": "refused"}, {"error": "late"})
    with caplog.at_level(logging.WARNING):
        assert [one.event for one in read_examples(lines)] == [one.event for one in EVENTS[:2]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{lines}: 2 of 4 rows have an error and are passed over"
    ]


@pytest.mark.parametrize("other", [{"label": FOREIGN}, {"label_factors": [FOREIGN]}])
def test_what_stands_in_the_place_of_a_label_is_not_repeated(tmp_path: Path, other: dict) -> None:
    with pytest.raises(ValueError, match=r"events\.jsonl line 7: expected label") as refused:
        list(read_examples(write_lines(tmp_path / "events.jsonl", other)))
    assert FOREIGN not in str(refused.value)
