"""Verdicts in service that people rejected come into the next round, from the logs as they are shipped."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cancellation.contact_data.logged_event import redact_event
from cancellation.events.event import event_mapping
from cancellation.monitoring.days import Days
from cancellation.relabelling.rejected import rejected_verdicts
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.simulation.simulator import SimulationSettings, simulate
from tests.builders.monitored_days import DAY, decisions, feedback, ship_feedback

SIMULATED = list(simulate(SimulationSettings(num_events=60, markets=("BR", "ID")), 12))


def shipped(archive: Path) -> pa.Table:
    """A day of decisions, with the events that they are about; every third was logged by reference."""
    table = decisions(DAY, len(SIMULATED), induced=1.0, fallback=0.0)
    texts = [
        json.dumps(redact_event(event_mapping(one.event), "redacted" if number % 3 else "reference"))
        for number, one in enumerate(SIMULATED)
    ]
    columns = {
        "event": pa.array(texts),
        "event_id": pa.array([one.event.event_id for one in SIMULATED]),
        "market": pa.array([one.event.market for one in SIMULATED]),
    }
    arrays = [columns[name] if name in columns else table[name] for name in table.column_names]
    cast = [array.cast(column.type) for array, column in zip(arrays, DECISION_SCHEMA, strict=True)]
    whole = pa.table(cast, schema=DECISION_SCHEMA)
    for market in ("BR", "ID"):
        path = archive / "decisions" / f"market={market}" / f"day={DAY}" / "0001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(whole.filter(pc.equal(whole["market"], market)), path)
    return whole


def test_rejected_verdicts_are_found_with_their_events(tmp_path, caplog):
    archive, kept = tmp_path / "archive", str(tmp_path / "monitoring")
    table = shipped(archive)
    messages = feedback(table, DAY, 40, precision=0.5)
    ship_feedback(archive, [{**one, "market": None} for one in messages])
    Days(str(archive), kept, None).complete(DAY, 0)
    wrong = {one["event_id"] for one in messages if one["outcome"] == "rejected"}
    readable = {one.event.event_id for number, one in enumerate(SIMULATED) if number % 3 and one.event.chat}
    cases = rejected_verdicts(str(archive), kept, DAY, most=100)
    found = {case.event.event_id for case in cases}
    assert wrong & readable <= found <= wrong
    assert not any("sha256:" in message.text for case in cases for message in case.event.chat)
    assert {(case.why, case.label, case.labelled_by) for case in cases} == {("rejected", "induced", "model small@1")}
    assert [case.rank for case in cases] == list(range(1, len(cases) + 1))
    assert rejected_verdicts(str(archive), kept, DAY - timedelta(days=1), most=100) == []
    caplog.clear()
    assert rejected_verdicts(str(archive), kept, DAY, most=3) == cases[:3]
    lost, most = len(wrong - found), len(found) - 3
    assert lost > 0
    assert f"{lost} of {len(wrong)} rejected verdicts are not asked: the archive lacks" in caplog.text
    assert f"{most} of {len(found)} rejected verdicts are not asked (most_rejected)" in caplog.text


def test_an_archive_that_nobody_monitored_is_no_archive_without_rejected_verdicts(tmp_path):
    with pytest.raises(ValueError, match=r"monitoring .*: expected days/ of jobs\.cancellation_monitor, found none"):
        rejected_verdicts(str(tmp_path), str(tmp_path / "elsewhere"), DAY, most=3)
