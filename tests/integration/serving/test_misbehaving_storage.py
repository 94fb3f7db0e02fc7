"""An object storage that refuses, hangs or is somebody else: that is said, and nothing of the log is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.log_shipping import Shipper
from cancellation.serving.records.segments import sealed_segments
from cancellation.serving.records.shipped_log import read_log
from tests.builders.decision_records import decision_record
from tests.servers.s3 import S3Server
from tests.servers.serving_replicas import listening, simulated_event


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
