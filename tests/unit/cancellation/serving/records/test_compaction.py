"""The archive's small files put together: the same rows in fewer files, whenever it is broken off."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

from cancellation.serving.records.compaction import Compacted, compact
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.log_shipping import Shipper
from cancellation.serving.records.shipped_log import read_log
from tests.builders.decision_records import NOON, decision_record

NEXT_DAY = date(2026, 11, 1)


def _ship(folder: Path, numbers: range, *, day: int = 0) -> None:
    for number in numbers:
        log = DecisionLog(folder / "log")
        market = ("BR", "TH")[number % 2]
        log.append(decision_record(number, market=market, received_at=NOON + 86_400 * day + number))
        log.close()
    Shipper(folder / "log", str(folder / "out" / "decisions")).ship_once()


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("*.parquet"))


def test_a_day_of_a_market_is_one_file_with_the_same_rows(tmp_path: Path) -> None:
    _ship(tmp_path, range(6))
    _ship(tmp_path, range(6, 9), day=1)
    before = read_log(str(tmp_path / "out" / "decisions"))
    assert compact(str(tmp_path / "out"), before=NEXT_DAY) == Compacted(folders=2, files_before=6, files_after=2)
    assert len(_files(tmp_path)) == 2 + 3
    assert read_log(str(tmp_path / "out" / "decisions")).equals(before)
    assert compact(str(tmp_path / "out"), before=NEXT_DAY) == Compacted(folders=0, files_before=2, files_after=2)


def test_what_came_late_joins_the_rest_of_its_day(tmp_path: Path) -> None:
    _ship(tmp_path, range(4))
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    _ship(tmp_path, range(4, 6))
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    assert len(_files(tmp_path)) == 2
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6


def test_broken_off_before_the_old_files_went_no_row_is_there_twice(tmp_path: Path) -> None:
    _ship(tmp_path, range(6))
    shutil.copytree(tmp_path / "out", tmp_path / "old")
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    shutil.copytree(tmp_path / "old", tmp_path / "out", dirs_exist_ok=True)
    assert len(_files(tmp_path)) == 8
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    assert len(_files(tmp_path)) == 2
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6
