"""Shipping to a folder: every record once, in its market's day, whatever is done twice or breaks between."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.log_shipping import Shipper, ShipperSettings
from cancellation.serving.records.segments import DAMAGED, SEALED, sealed_segments
from cancellation.serving.records.shipped_log import read_log
from tests.builders.decision_records import NOON, decision_record


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _write(folder: Path, first: int = 0, count: int = 6) -> None:
    log = DecisionLog(folder)
    for number in range(first, first + count):
        market, third = ("BR", "TH")[number % 2], number // 2
        log.append(decision_record(number, market=market, received_at=NOON + 6 * 3600 * third))
    log.close()


def _event_ids(output: Path, **wanted: object) -> list[str]:
    return read_log(str(output), **wanted)["event_id"].to_pylist()


ALL = [f"e-{number:06d}" for number in range(6)]


def test_records_go_to_their_markets_day_and_the_segment_goes_away(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    shipper = Shipper(tmp_path / "log", str(tmp_path / "out"))
    assert (shipper.ship_once(), shipper.ship_once(), shipper.num_shipped) == (6, 0, 6)
    folders = {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")}
    assert folders == {f"market={market}/day=2026-{day}" for market in ("BR", "TH") for day in ("10-31", "11-01")}
    assert sealed_segments(tmp_path / "log") == []
    assert _event_ids(tmp_path / "out") == ALL


def test_the_log_is_read_by_market_and_time(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once()
    assert _event_ids(tmp_path / "out", market="TH") == ALL[1::2]
    assert _event_ids(tmp_path / "out", start=NOON + 1, end=NOON + 12 * 3600) == ALL[2:4]
    assert _event_ids(tmp_path / "out", market="TH", start=NOON + 12 * 3600) == ALL[5:]
    assert _event_ids(tmp_path / "nothing") == []
    narrow = read_log(str(tmp_path / "out"), market="BR", end=NOON + 1, columns=["score", "event_id"])
    assert narrow.to_pylist() == [{"score": 0.75, "event_id": ALL[0]}]


def test_other_readers_take_the_folders_for_partitions(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once()
    dataset = ds.dataset(tmp_path / "out", partitioning="hive")
    assert dataset.count_rows(filter=(ds.field("market") == "BR") & (ds.field("day") == "2026-11-01")) == 1


def test_shipping_a_segment_again_changes_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    shutil.copytree(tmp_path / "log", tmp_path / "again")
    first = Shipper(tmp_path / "log", str(tmp_path / "out"))
    first.ship_once()
    content = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    Shipper(tmp_path / "again", str(tmp_path / "out")).ship_once()
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == content
    assert sealed_segments(tmp_path / "again") == []


def test_a_shipper_killed_in_the_middle_is_followed_by_one_that_completes(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    shutil.copytree(tmp_path / "log", tmp_path / "killed")
    Shipper(tmp_path / "killed", str(tmp_path / "out")).ship_once()
    files = sorted((tmp_path / "out").rglob("*.parquet"))
    for path in files[2:]:
        path.unlink()
    Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once()
    assert sorted((tmp_path / "out").rglob("*.parquet")) == files
    assert _event_ids(tmp_path / "out") == ALL


def test_one_ships_at_a_time(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    first, second = (Shipper(tmp_path / "log", str(tmp_path / "out")) for _ in range(2))
    with first._alone() as alone:
        assert alone
        assert second.ship_once() == 0
    assert second.ship_once() == 6


def test_a_failing_storage_is_left_alone_for_longer_and_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "log")
    (tmp_path / "out").write_text("a file where a folder should be")
    clock = Clock()
    settings = ShipperSettings(backoff_seconds=1, max_backoff_seconds=3)
    shipper = Shipper(tmp_path / "log", str(tmp_path / "out"), settings, clock=clock)
    failures = []
    for _ in range(12):
        assert shipper.ship_once() == 0
        failures.append(shipper.num_failures)
        clock.now += 1
    assert failures == [1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert shipper.last_failure == "NotADirectoryError"
    assert f"{tmp_path / 'out'}: failed (NotADirectoryError)" in caplog.messages[0]
    (tmp_path / "out").unlink()
    assert shipper.ship_once() == 6
    assert shipper.last_failure is None
    assert _event_ids(tmp_path / "out") == ALL


def test_a_damaged_segment_gives_what_it_can_and_is_kept(tmp_path: Path) -> None:
    _write(tmp_path / "log")
    (path,) = sealed_segments(tmp_path / "log")
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-5] + b"xxxxx"
    path.write_bytes(b"\n".join(lines))
    assert Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once() == 5
    assert _event_ids(tmp_path / "out") == [*ALL[:2], *ALL[3:]]
    assert path.with_suffix(DAMAGED).exists()
    assert not path.with_suffix(SEALED).exists()


def test_a_record_that_fits_no_column_is_shipped_with_the_others(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    log.append(decision_record(0))
    log.append(decision_record(1, verdict="?"))
    log.close()
    Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once()
    table = read_log(str(tmp_path / "out"))
    assert table["event_id"].to_pylist() == ALL[:2]
    assert [value is None for value in table["unread"].to_pylist()] == [True, False]


def test_other_records_ship_by_their_own_table(tmp_path: Path) -> None:
    import pyarrow as pa

    log = DecisionLog(tmp_path / "log")
    log.append({"market": "BR", "received_at": NOON, "n": 1})
    log.close()

    def table_of(records: object) -> pa.Table:
        return pa.Table.from_pylist([{"n": record["n"]} for record in records])

    Shipper(tmp_path / "log", str(tmp_path / "out"), table_of=table_of).ship_once()
    assert ds.dataset(tmp_path / "out").to_table().to_pylist() == [{"n": 1}]


def test_nothing_to_ship_is_fine(tmp_path: Path) -> None:
    assert Shipper(tmp_path / "none", str(tmp_path / "out")).ship_once() == 0


@pytest.mark.parametrize("settings", [{"interval_seconds": 0}, {"rows_at_once": 0}, {"retries": 3}])
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ShipperSettings(**settings)
