"""Events at rest: a row and a line give the event back, from real files."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from cancellation.events.event import event_mapping, parse_event
from cancellation.events.fields import EventError
from cancellation.events.table import EVENT_SCHEMA, LABEL_SCHEMA, event_of_row, event_row, write_labelled
from cancellation.simulation.simulator import SimulationSettings, simulate
from jobs.cancellation_simulate import SimulateJob, main
from tests.builders.cancellation_events import event_mappings, sample_event

SETTINGS = SimulationSettings(num_events=50)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(event_mappings())
def test_a_row_gives_the_event_back(mapping: dict[str, Any]) -> None:
    event = parse_event(event_mapping(parse_event(mapping)))
    assert event_of_row(event_row(event, utc_offset_hours=-6)) == event


def test_parquet_and_jsonl_hold_the_same_labelled_events(tmp_path: Path) -> None:
    expected = list(simulate(SETTINGS, 4))
    for name in ("events.parquet", "events.jsonl"):
        main(SimulateJob(output=str(tmp_path / name), seed=4, simulation=SETTINGS))
    table = pq.read_table(tmp_path / "events.parquet")
    assert table.schema.names == EVENT_SCHEMA.names + LABEL_SCHEMA.names
    rows = table.to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event_of_row(row) for row in rows] == [labelled.event for labelled in expected]
    assert [parse_event(line["event"]) for line in lines] == [labelled.event for labelled in expected]
    for stored in (rows, lines):
        assert [item["label"] for item in stored] == [labelled.label for labelled in expected]
        assert [tuple(item["label_factors"]) for item in stored] == [labelled.factors for labelled in expected]


def test_only_the_languages_asked_for_are_written(tmp_path: Path) -> None:
    expected = [one.event.event_id for one in simulate(SETTINGS, 4) if one.language in ("en", "th")]
    path = tmp_path / "events.jsonl"
    main(SimulateJob(output=str(path), seed=4, simulation=SETTINGS, languages=("en", "th")))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["event"]["event_id"] for line in lines] == expected
    main(SimulateJob(output=str(path), writers=("w17", "w18"), languages=("th",)))
    staged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["lang"] for line in staged} == {"th"}
    with pytest.raises(ValueError, match=r"languages: .* found thai; correct them"):
        main(SimulateJob(output=str(path), languages=("thai",)))


def test_another_ending_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"events\.csv: expected a name that ends in \.jsonl or \.parquet"):
        write_labelled(str(tmp_path / "events.csv"), simulate(SETTINGS, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_parsed_as_strictly_as_a_request() -> None:
    row = event_row(parse_event(sample_event()))
    with pytest.raises(EventError, match="each key once"):
        event_of_row({**row, "chat": '[{"at": "x", "at": "y"}]'})
    with pytest.raises(EventError, match=r"^chat: expected an array"):
        event_of_row({**row, "chat": "{}"})


def test_instants_that_a_table_holds_as_such_are_read(tmp_path: Path) -> None:
    row = event_row(parse_event(sample_event()))
    order = {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
        for name, value in json.loads(row["order"]).items()
    }
    typed = {**row, "cancelled_at": datetime.fromisoformat(row["cancelled_at"]), "order": order}
    pq.write_table(pa.Table.from_pylist([typed]), tmp_path / "typed.parquet")
    (stored,) = pq.read_table(tmp_path / "typed.parquet").to_pylist()
    assert isinstance(stored["cancelled_at"], datetime)
    assert event_of_row(stored) == event_of_row(row)
    with pytest.raises(EventError, match=r"^cancelled_at: expected an offset"):
        event_of_row({**stored, "cancelled_at": stored["cancelled_at"].replace(tzinfo=None)})
