"""The decision log on the local disk: what was appended is there, in segments that end when they should."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from cancellation.serving.records.segments import SEALED, read_segment, sealed_segments
from tests.builders.decision_records import decision_record


def _all_records(folder: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".open", SEALED))
    return [record for path in files for record in read_segment(path).records]


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    for number in range(3):
        log.append(decision_record(number))
        assert _all_records(log.folder)[-1] == decision_record(number)
    log.close()
    assert [record["event_id"] for record in _all_records(log.folder)] == ["e-000000", "e-000001", "e-000002"]
    assert log.folder.stat().st_mode & 0o777 == 0o700


def test_rotating_seals_and_goes_on_and_an_empty_segment_stays(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.rotate()
    assert sealed_segments(tmp_path) == []
    log.append(decision_record(1))
    log.rotate()
    log.append(decision_record(2))
    log.close()
    assert [[r["event_id"] for r in read_segment(path).records] for path in sealed_segments(tmp_path)] == [
        ["e-000001"],
        ["e-000002"],
    ]


@pytest.mark.parametrize("limits", [{"segment_bytes": 1000}, {"segment_seconds": 0.3}])
def test_segments_are_sealed_by_size_and_by_age_beside_the_answers(tmp_path: Path, limits: dict[str, Any]) -> None:
    log = DecisionLog(tmp_path, DecisionLogSettings(**limits))
    log.append(decision_record(1))
    _wait_until(lambda: sealed_segments(tmp_path))
    log.append(decision_record(2))
    log.close()
    assert len(sealed_segments(tmp_path)) == 2


def test_many_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)

    def append(first: int) -> None:
        for number in range(first, first + 50):
            log.append(decision_record(number))
            if number % 20 == 0:
                log.rotate()

    threads = [threading.Thread(target=append, args=(start * 50,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(record["event_id"] for record in _all_records(tmp_path)) == [f"e-{n:06d}" for n in range(200)]
    assert log.num_appended == 200


def test_two_replicas_share_a_folder(tmp_path: Path) -> None:
    logs = [DecisionLog(tmp_path), DecisionLog(tmp_path)]
    for number, log in enumerate(logs):
        log.append(decision_record(number))
        log.close()
    assert len(sealed_segments(tmp_path)) == 2


def test_what_json_lacks_is_written_all_the_same(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, DecisionLogSettings(fsync_seconds=0))
    log.append(decision_record(features=[float("nan"), 1.0, float("inf")], event={"chat": [{"text": "a\ud800\nb"}]}))
    log.close()
    (record,) = _all_records(tmp_path)
    assert record["features"] == [None, 1.0, None]
    assert record["event"] == {"chat": [{"text": "a?\nb"}]}


def test_beyond_its_limit_the_log_goes_on_and_says_so(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, DecisionLogSettings(max_bytes=1024))
    log.measure()
    assert not log.over_limit
    for number in range(3):
        log.append(decision_record(number))
    assert log.measure() > 1024
    assert log.over_limit
    log.append(decision_record(3))
    log.close()
    assert len(_all_records(tmp_path)) == 4


@pytest.mark.parametrize("gone", ["removed", "removed with its folder", "moved away"])
def test_what_was_logged_and_will_be_is_there_when_somebody_takes_the_file_away(tmp_path: Path, gone: str) -> None:
    log = DecisionLog(tmp_path / "log" / "decisions")
    for number in range(2):
        log.append(decision_record(number))
    (path,) = log.folder.iterdir()
    if gone == "removed":
        path.unlink()
    elif gone == "moved away":
        log.folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(log.folder.parent)
    _append_once_it_is_taken(log, decision_record(2))
    log.close()
    kept = [path for path in (tmp_path / "elsewhere", log.folder) if path.exists()]
    assert [[r["event_id"] for r in _all_records(folder)] for folder in kept] == (
        [["e-000000", "e-000001"], ["e-000002"]] if gone == "moved away" else [["e-000000", "e-000001", "e-000002"]]
    )


def test_what_logrotate_cuts_out_of_the_file_is_told_and_shipped_from_its_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DecisionLog(tmp_path)
    for number in range(2):
        log.append(decision_record(number))
    (path,) = tmp_path.iterdir()
    shutil.copyfile(path, copy := path.with_suffix(".open.1"))
    path.write_bytes(b"")
    _append_once_it_is_taken(log, decision_record(2))
    log.close()
    assert "was cut short by " in caplog.text
    copy.rename(tmp_path / "copy.sealed")
    assert {record["event_id"] for record in _all_records(tmp_path)} == {"e-000000", "e-000001", "e-000002"}


def test_a_log_whose_file_was_taken_away_last_of_all_is_whole_when_it_ends(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append(decision_record(1))
    next(tmp_path.iterdir()).unlink()
    log.close()
    assert [record["event_id"] for record in _all_records(tmp_path)] == ["e-000001"]


def _append_once_it_is_taken(log: DecisionLog, record: dict[str, Any]) -> None:
    """As a caller does who is told to come again; what is not taken is refused."""

    def taken() -> bool:
        with suppress(FileNotFoundError):
            log.append(record)
        return log.num_appended == 3

    _wait_until(taken)


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.close()
    log.close()
    with pytest.raises(OSError, match="expected an open one, found it closed"):
        log.append(decision_record())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_stays_full_is_told_of_once_and_once_when_it_takes_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The keeper looks four times a second."""
    log = DecisionLog(tmp_path / "log" / "decisions", DecisionLogSettings(segment_seconds=0.01, fsync_seconds=0.01))
    log.append(decision_record(0))
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").write_text("no folder can be made here")
    _wait_until(lambda: len(caplog.messages) >= 2)  # it can neither be looked after nor be measured
    told = list(caplog.messages)
    time.sleep(2)
    assert caplog.messages == told
    assert all(f"decision log {log.folder} (" in one and "look at the disk" in one for one in told)
    (tmp_path / "log").unlink()
    _wait_until(lambda: f"decision log {log.folder} (look after): works again" in caplog.messages)
    log.append(decision_record(1))
    log.close()
    assert sorted(record["event_id"] for record in _all_records(log.folder)) == ["e-000000", "e-000001"]
