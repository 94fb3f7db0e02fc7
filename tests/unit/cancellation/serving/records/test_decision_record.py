"""Records as rows: nothing of a record is lost, and none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cancellation.decision.verdicts import verdicts_of_table
from cancellation.serving.records.decision_record import DECISION_SCHEMA, TIMINGS, decision_table, partition
from cancellation.serving.records.shipped_log import read_log
from tests.builders.decision_records import NOON, decision_record


def test_every_part_of_a_record_has_its_column() -> None:
    shadow = {"name": "v2", "model_version": "m@2", "score": 0.5, "verdict": "not_induced", "action": "none"}
    record = decision_record(
        7, thresholds={"investigate": 0.5, "penalty": 0.875}, shadow=shadow, fallback_reason="late"
    )
    table = decision_table([record])
    assert table.schema == DECISION_SCHEMA
    (row,) = table.to_pylist()
    assert verdicts_of_table(table) == [record["verdict"]]
    assert row["received_at"].timestamp() == NOON
    assert row["features"] == record["features"]
    assert (row["investigate_threshold"], row["penalty_threshold"]) == (0.5, 0.875)
    assert row["timings_ms"] == record["timings_ms"]
    assert set(row["timings_ms"]) == set(TIMINGS)
    assert row["shadow"] == shadow
    assert json.loads(row["event"]) == record["event"]
    same = ("feature_digest", "state", "policy_version", "caller", "fallback_reason")
    assert {name: row[name] for name in same} == {name: record[name] for name in same}
    assert row["unread"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": None},
        {"verdict": {"score": "high"}},
        {"received_at": None},
        {"received_at": 1e300},
        {"features": "many"},
        {"thresholds": 3},
        {"timings_ms": {"parse": "fast"}},
        {"event_id": 5},
    ],
)
def test_a_record_that_does_not_fit_is_kept_whole_and_spoils_no_other(changes: dict[str, Any]) -> None:
    odd = decision_record(1, **changes)
    rows = decision_table([decision_record(0), odd, decision_record(2)]).to_pylist()
    assert [row["unread"] is None for row in rows] == [True, False, True]
    assert json.loads(rows[1]["unread"]) == odd
    assert rows[1]["event_id"] == str(odd["event_id"])


@pytest.mark.parametrize(
    ("market", "received_at", "folder"),
    [
        ("BR", NOON, "market=BR/day=2026-10-31"),
        ("TH", NOON - 0.001, "market=TH/day=2026-10-31"),
        ("../x", NOON, "market=unknown/day=2026-10-31"),
        (None, None, "market=unknown/day=1970-01-01"),
        ("BR", float("inf"), "market=BR/day=1970-01-01"),
    ],
)
def test_a_folder_is_market_day_and_hour_of_receipt(market: Any, received_at: Any, folder: str) -> None:
    assert partition({"market": market, "received_at": received_at}) == folder


def test_a_column_that_the_log_does_not_have_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected some of event_id, .*, found day; take the day from received_at"):
        read_log(str(tmp_path), columns=["event_id", "day"])
