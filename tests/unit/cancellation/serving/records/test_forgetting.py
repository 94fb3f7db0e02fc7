"""A person forgotten: everywhere, nobody else with them, and for good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cancellation.serving.records.archive import TABLES
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.forgetting import Places, forget
from cancellation.serving.records.log_shipping import Shipper
from cancellation.serving.records.people import PersonKey
from cancellation.serving.records.recent import LAYOUT, RecentDecisions
from cancellation.serving.records.segments import read_segment
from cancellation.serving.records.shipped_log import read_log
from cluster.database.sqlite import SqliteDatabase
from tests.builders.decision_records import NOON, decision_record

KEY = PersonKey(b"k" * 32)
GONE = frozenset({KEY.digest("seller", "s-1")})


def _record(number: int) -> dict[str, Any]:
    """Of seller s-0, s-1 or s-2 in turn; every fourth does not fit the columns."""
    event = {"order_id": f"o-{number}", "seller_id": f"s-{number % 3}", "buyer_id": "b"}
    changes = {"features": "many"} if number % 4 == 0 else {}
    return decision_record(number, people=KEY.people(event), event=KEY.hidden(event), **changes)


def _feedback(number: int) -> dict[str, Any]:
    return {"event_id": f"e-{number:06d}", "market": "BR", "received_at": NOON, "outcome": "appealed"}


def _explanation(number: int) -> dict[str, Any]:
    event = {"order_id": f"o-{number}", "seller_id": f"s-{number % 3}", "buyer_id": "b"}
    about = {"people": KEY.people(event), "event": KEY.hidden(event)}
    return {"event_id": f"e-{number:06d}", "market": "BR", "received_at": NOON, "outcome": "whole", **about}


class Kept:
    """Twelve events, the first six of them shipped, and feedback on each."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.log = folder / "archive", folder / "log"
        self.database = SqliteDatabase(folder / "recent.sqlite", LAYOUT)
        self.recent = RecentDecisions(self.database)
        self.places = Places(str(self.archive), self.log, self.recent)
        for number in range(12):
            self.recent.put(f"e-{number:06d}", "f", _record(number))
        self.write(range(6))
        shutil.copytree(self.log, folder / "before")
        self.ship(self.log)
        self.write(range(6, 12))

    def write(self, numbers: range) -> None:
        records = {"decisions": _record, "shadow": _record, "feedback": _feedback, "explanations": _explanation}
        for name, record in records.items():
            log = DecisionLog(self.log / name)
            for number in numbers:
                log.append(record(number))
            log.close()

    def ship(self, folder: Path) -> None:
        for name, table in TABLES.items():
            Shipper(folder / name, f"{self.archive}/{name}", table_of=table).ship_once()

    def events(self) -> list[int]:
        """Numbers of the events of which there is anything, in whatever place."""
        ids = [record["event_id"] for path in self.log.glob("*/*-*") for record in read_segment(path).records]
        for name in TABLES:
            ids += read_log(f"{self.archive}/{name}", columns=["event_id"])["event_id"].to_pylist()
        ids += [f"e-{number:06d}" for number in range(12) if self.recent.get(f"e-{number:06d}")]
        return sorted({int(event_id.removeprefix("e-")) for event_id in ids})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.recent.close()
    kept.database.close()


def test_a_seller_is_forgotten_everywhere_and_no_other(kept: Kept) -> None:
    assert kept.events() == list(range(12))
    before, left = forget(kept.places, GONE)
    assert (before.archive, before.segments, before.recent) == (8, 8, 4)
    assert left.rows == 0
    assert kept.events() == [number for number in range(12) if number % 3 != 1]
    again, _ = forget(kept.places, GONE)
    assert again.rows == 0


def test_a_segment_that_is_shipped_a_second_time_brings_nobody_back(kept: Kept, tmp_path: Path) -> None:
    forget(kept.places, GONE)
    kept.ship(tmp_path / "before")
    assert kept.events() == [number for number in range(12) if number % 3 != 1]


def test_lines_of_a_segment_that_is_being_written_are_left_and_said_to_be(kept: Kept) -> None:
    log = DecisionLog(kept.log / "decisions")
    log.append(_record(13))
    _, left = forget(kept.places, GONE)
    assert (left.rows, left.open_segments) == (1, 1)
    log.append(_record(14))
    log.close()
    _, left = forget(kept.places, GONE)
    assert left.rows == 0
    assert kept.events()[-1] == 14


def test_who_is_forgotten_halfway_is_forgotten_with_the_feedback_next_time(kept: Kept) -> None:
    shutil.rmtree(kept.archive / "decisions")  # as if it had been broken off behind these
    _, left = forget(kept.places, GONE)
    assert left.rows == 0
    feedback = read_log(f"{kept.archive}/feedback", columns=["event_id"])["event_id"].to_pylist()
    assert "e-000001" not in feedback


def test_no_id_of_anybody_stands_in_what_is_kept(kept: Kept) -> None:
    for path in kept.log.glob("*/*-*"):
        assert b'"s-' not in path.read_bytes()
    (row,) = read_log(f"{kept.archive}/decisions").slice(2, 1).to_pylist()
    assert row["seller_digest"] in {KEY.digest("seller", f"s-{number}") for number in range(3)}
