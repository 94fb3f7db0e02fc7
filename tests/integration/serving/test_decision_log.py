"""The decision log when processes are killed and the storage fails: nothing answered is missing, nothing is twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from cancellation.serving.records.archive import Archive
from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from cancellation.serving.records.log_shipping import Shipper, ShipperSettings
from cancellation.serving.records.segments import read_segment, sealed_segments
from cancellation.serving.records.shipped_log import read_log
from cluster import storage
from tests.builders.decision_records import decision_record
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server
from tests.servers.serving_replicas import listening, simulated_event

WRITER = """
import sys
from pathlib import Path
from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from tests.builders.decision_records import decision_record
log = DecisionLog(Path(sys.argv[1]), DecisionLogSettings(segment_bytes=200_000, fsync_seconds=0.05))
first, number = int(sys.argv[2]), 0
while True:
    log.append(decision_record(first + number, market=("BR", "TH")[number % 2]))
    number += 1
    print(first + number - 1, flush=True)  # the answer: whoever reads it may count on the record
"""
SHIPPER = """
import sys
from pathlib import Path
from cancellation.serving.records.log_shipping import Shipper
Shipper(Path(sys.argv[1]), sys.argv[2]).ship_once()
"""


@pytest.fixture
def quick_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that gives up at once: the shipper's own patience is what is tested, botocore's takes minutes."""
    options = {**storage._S3_OPTIONS, "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}
    monkeypatch.setattr(storage, "_S3_OPTIONS", options)


def _start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-u", "-c", script, *arguments]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    return rest


def _shipped(output: str) -> list[str]:
    return read_log(output)["event_id"].to_pylist()


def _killed_writer(folder: Path, first: int, seconds: float) -> list[str]:
    """Let a process write until it is killed; give the events that it answered."""
    writer = _start(WRITER, str(folder), str(first))
    answered = writer.stdout.readline()
    time.sleep(seconds)  # any instant will do: the promise holds for all
    answered += _kill(writer)
    *lines, _ = answered.split(b"\n")  # the last number may be cut off
    return [f"e-{int(line):06d}" for line in lines]


def test_a_writer_killed_at_any_instant_leaves_all_that_it_answered(tmp_path: Path) -> None:
    chance = random.Random(7)
    for round_number in range(4):
        folder, output = tmp_path / f"log-{round_number}", str(tmp_path / f"out-{round_number}")
        answered = _killed_writer(folder, 0, chance.uniform(0.0, 0.6))
        Shipper(folder, output).ship_once()
        shipped = _shipped(output)
        assert set(answered) <= set(shipped), "an answer that was sent is missing"
        assert len(shipped) == len(set(shipped))
        assert len(shipped) - len(answered) <= 1, "at most the one whose answer was under way may be more"
        assert list(folder.glob("*.open")) + list(folder.glob("*.sealed")) == []


def test_the_living_go_on_while_the_segments_of_the_dead_are_shipped(tmp_path: Path) -> None:
    folder, output = tmp_path / "log", str(tmp_path / "out")
    alive = DecisionLog(folder)
    alive.append(decision_record(900_000))
    answered = _killed_writer(folder, 0, 0.2)
    Shipper(folder, output).ship_once()
    assert set(answered) <= set(_shipped(output))
    assert "e-900000" not in _shipped(output)
    alive.append(decision_record(900_001))
    alive.close()
    Shipper(folder, output).ship_once()
    assert {"e-900000", "e-900001"} <= set(_shipped(output))


def test_shippers_killed_again_and_again_ship_everything_once(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    folder = tmp_path / "log"
    log = DecisionLog(folder)
    for number in range(120):
        log.append(decision_record(number, market=("BR", "TH", "MX")[number % 3]))
        if number % 10 == 9:
            log.rotate()
    log.close()
    for num_files in (1, 5, 6):
        shipper = _start(SHIPPER, str(folder), f"{bucket}/log")
        _wait_for_files(s3_server, len(s3_server.requests), num_files)
        shipper.kill()
        shipper.wait(timeout=60)
        shipper.stdout.close()
    assert sealed_segments(folder), "the kills came too late to show anything"
    Shipper(folder, f"{bucket}/log").ship_once()
    assert sealed_segments(folder) == []
    assert sorted(_shipped(f"{bucket}/log")) == [f"e-{number:06d}" for number in range(120)]


def _wait_for_files(server: S3Server, first: int, num_files: int) -> None:
    deadline = time.monotonic() + 60
    while sum(method == "PUT" for method, _ in server.requests[first:]) < num_files:
        assert time.monotonic() < deadline, "nothing is shipped"
        time.sleep(0.005)


@pytest.mark.usefixtures("quick_storage")
def test_a_storage_that_is_down_costs_disk_only_and_gets_everything_once_it_is_back(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    output = f"{bucket}/log"
    log = DecisionLog(tmp_path, DecisionLogSettings(max_bytes=20_000))
    shipper = Shipper(tmp_path, output, ShipperSettings(backoff_seconds=0.01, max_backoff_seconds=0.05))
    stop = threading.Event()
    with s3_server.fail("PUT", r"parquet", status=503, times=float("inf")) as down:
        for number in range(60):
            log.append(decision_record(number))
            if number % 20 == 19:
                log.rotate()
                assert shipper.ship_once() == 0
        assert down.reached.is_set()
        assert shipper.last_failure is not None
        log.measure()
        assert log.over_limit
        assert sum(len(read_segment(path).records) for path in sealed_segments(tmp_path)) == 60
    again = Shipper(tmp_path, output)

    def ship() -> None:
        last = False
        while not last:
            last = stop.wait(0.05)
            again.ship_once()

    runner = threading.Thread(target=ship)
    runner.start()
    deadline = time.monotonic() + 60
    while sealed_segments(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    log.append(decision_record(60))
    log.close()
    stop.set()
    runner.join(timeout=60)
    assert log.measure() == 0
    assert not log.over_limit
    assert sorted(_shipped(output)) == [f"e-{number:06d}" for number in range(61)]


@pytest.mark.usefixtures("quick_storage")
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_answer_of_the_storage_that_is_lost_makes_nothing_twice(
    tmp_path: Path, bucket: str, s3_server: S3Server, at: int
) -> None:
    log = DecisionLog(tmp_path)
    for number in range(30):
        log.append(decision_record(number, market=("BR", "TH", "MX")[number % 3]))
    log.close()
    market = ("BR", "MX", "TH")[at - 1]
    shipper = Shipper(tmp_path, f"{bucket}/log", ShipperSettings(backoff_seconds=0.01))
    with s3_server.fail("PUT", rf"market(=|%3D){market}", status=500, times=float("inf"), apply=True):
        shipper.ship_once()
    assert shipper.num_failures == 1
    time.sleep(0.05)  # the back-off
    shipper.ship_once()
    assert sealed_segments(tmp_path) == []
    assert sorted(_shipped(f"{bucket}/log")) == [f"e-{number:06d}" for number in range(30)]


def test_a_replica_that_ends_in_order_leaves_nothing_on_its_disk(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "log", str(tmp_path / "out"), DecisionLogSettings(), ShipperSettings())
    for number in range(40):
        archive.decisions.append(decision_record(number))
    archive.close()
    assert sealed_segments(tmp_path / "log" / "decisions") == []
    assert sorted(_shipped(str(tmp_path / "out" / "decisions"))) == [f"e-{number:06d}" for number in range(40)]


def test_a_log_that_cannot_be_sealed_keeps_no_other_from_being_sealed_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = Archive(tmp_path / "log", None, DecisionLogSettings(), ShipperSettings())
    for log in (archive.decisions, archive.shadow):
        log.append(decision_record(1))
    (tmp_path / "log" / "decisions").rename(tmp_path / "elsewhere")
    (tmp_path / "log" / "decisions").touch()  # no folder can be made there
    archive.close()
    assert "log/decisions: cannot be sealed" in caplog.text
    (sealed,) = sealed_segments(tmp_path / "log" / "shadow")
    assert len(read_segment(sealed).records) == 1
    assert len(read_segment(next((tmp_path / "elsewhere").glob("*.open"))).records) == 1


def test_where_nothing_is_left_nothing_is_said_to_be_left_whatever_failed_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    settings = ShipperSettings(interval_seconds=0.1)
    archive = Archive(tmp_path / "log", str(tmp_path / "file" / "out"), DecisionLogSettings(), settings)
    archive.decisions.append(decision_record(1))
    archive.decisions.rotate()
    deadline = time.monotonic() + 60
    while archive.shipping is None or not archive.shipping.num_failures:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sealed_segments(tmp_path / "log" / "decisions")[0].unlink()
    archive.close()
    assert "not shipped" not in caplog.text


def test_a_log_survives_its_process_without_being_closed(tmp_path: Path) -> None:
    """Neither an exit in order nor a fork that lives on may hide the last segment."""
    script = WRITER.replace("while True", "while number < 5") + "\nimport os; os._exit(3)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "log"), "0"], cwd=PROJECT, capture_output=True)
    assert done.returncode == 3
    assert os.listdir(tmp_path / "log")  # noqa: PTH208
    Shipper(tmp_path / "log", str(tmp_path / "out")).ship_once()
    assert len(_shipped(str(tmp_path / "out"))) == 5


def _shipper(folder: Path, output: str, clock: Callable[[], float] = time.monotonic) -> Shipper:
    """A shipper with one segment to ship."""
    log = DecisionLog(folder)
    log.append(decision_record())
    log.close()
    return Shipper(folder, output, clock=clock)


def test_a_page_of_a_proxy_is_not_taken_for_the_archive(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    shipper = _shipper(tmp_path, bucket)
    with s3_server.fail("PUT", "parquet", status=200, times=9):
        assert shipper.ship_once() == 0
    assert len(sealed_segments(tmp_path)) == 1
    assert shipper.ship_once(patient=False) == 1
    assert read_log(bucket).num_rows == 1


def test_credentials_that_are_renewed_in_their_file_let_the_log_go_on(
    tmp_path: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\n")
    s3fs.S3FileSystem.clear_instance_cache()
    shipper = _shipper(tmp_path / "log", bucket)
    try:
        monkeypatch.setattr(s3_server, "revoked_key", "old")
        assert shipper.ship_once() == 0
        assert "the storage refused (injected): give, or renew, credentials" in caplog.text
        file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = x\n")
        assert shipper.ship_once(patient=False) == 1
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_file_that_does_not_get_through_is_no_shipper_that_runs(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    seconds = [0.0]
    shipper = _shipper(tmp_path, bucket, lambda: seconds[0])
    with s3_server.hold("PUT", "parquet") as held:
        shipping = threading.Thread(target=shipper.ship_once)
        shipping.start()
        assert held.reached.wait(60)
        assert not shipper.failing
        seconds[0] = 61.0
        assert shipper.failing
        held.released.set()
        shipping.join(60)
    assert not shipper.failing
    assert shipper.num_shipped == 1


def test_whoever_asks_for_readiness_is_told_that_nothing_is_shipped(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_text("a file where a folder should be")
    quick = {"decision_log": {"segment_seconds": 0.5}, "shipper": {"interval_seconds": 0.2, "max_backoff_seconds": 1.0}}
    with listening(tmp_path / "data", output=str(archive), **quick) as http:

        def until(said: str) -> None:
            deadline = time.monotonic() + 60
            while http.get("/readyz").json()["shipper"] != said:
                assert time.monotonic() < deadline, http.get("/readyz").text
                time.sleep(0.1)

        until("runs")
        assert http.post("/v1/verdicts", json=simulated_event(1)).status_code == 200
        until("fails: decisions stay on this disk")
        archive.unlink()
        until("runs")
    assert read_log(str(archive / "decisions")).num_rows == 1
