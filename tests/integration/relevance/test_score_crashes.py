"""Drivers killed at every step of the commit, rivals and late attempts: the rows are those of a calm run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import storage
from cluster.commit import read_job_manifest
from tests.builders.pairs_data import make_pairs, read_committed, read_visible, write_pairs
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server

SHARD_ROWS = 100
STEPS = {
    "plan": ("PUT", r"_staging/plan\.json"),
    "partition data": ("PUT", r"_staging/data/partition-"),
    "partition manifest": ("PUT", r"_staging/partitions/"),
    "label store": ("PUT", r"_label_store/"),
    "shard data": ("PUT", r"_staging/data/shard-"),
    "shard manifest": ("PUT", r"_staging/shards/00001"),
    "publishing": ("PUT", r"/part-00001"),
    "report": ("PUT", r"report\.html"),
    "success": ("PUT", r"_SUCCESS"),
    "clean-up": ("DELETE", r"_staging/"),
}


class Drivers:
    """Starts driver processes on the session's Ray and waits for them."""

    def __init__(self, address: str, bucket: str, model: Path) -> None:
        self.input, self.output = f"{bucket}/pairs/ds=2026-11-22", f"{bucket}/scores"
        self.day = f"{self.output}/ds=2026-11-22"
        self._environment = {**os.environ, "RAY_ADDRESS": address}
        self._model = model
        self.started: list[subprocess.Popen] = []

    def start(self, *more: str) -> subprocess.Popen:
        arguments = [self.input, self.output, str(self._model), str(SHARD_ROWS), *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.score_driver", *arguments],
            cwd=PROJECT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen | None = None) -> dict:
        process = process or self.start()
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err[-3000:]
        return json.loads(out.splitlines()[-1])


@pytest.fixture
def drivers(local_ray: str, bucket: str, tiny_model: Path):
    drivers = Drivers(local_ray, bucket, tiny_model)
    write_pairs(make_pairs(200), drivers.input)
    yield drivers
    for process in drivers.started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def calm_rows(local_ray: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    drivers = Drivers(local_ray, str(tmp_path_factory.mktemp("calm")), tiny_model)
    write_pairs(make_pairs(200), drivers.input)
    assert drivers.finish()["counts"]["labelled"] == 200
    return read_committed(drivers.day)


@pytest.mark.slow  # the other tests of this file kill drivers too, two at once or one
@pytest.mark.timeout(900)  # eleven drivers one after the other
def test_drivers_killed_at_every_step_in_turn(drivers: Drivers, s3_server: S3Server, calm_rows: list[dict]) -> None:
    for step, (method, pattern) in STEPS.items():
        with s3_server.hold(method, pattern) as fault:
            killed = drivers.start()
            assert fault.reached.wait(timeout=280), f"{step}: {killed.communicate(timeout=5)[1][-3000:]}"
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert (read_job_manifest(drivers.day) is not None) == (step == "clean-up")
            if step not in ("publishing", "report", "success", "clean-up"):
                assert read_visible(drivers.day) == []
    last = drivers.finish()
    assert last["already_done"]
    assert last["counts"]["read"] == 200
    assert read_committed(drivers.day) == read_visible(drivers.day) == calm_rows


SWAP = {
    "scoring": ("PUT", r"_staging/shards/00000"),
    "publishing": ("PUT", r"/part-00001-"),
    "removing": ("DELETE", r"/part-00001\.parquet"),
    "success": ("PUT", r"_SUCCESS"),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_while_a_day_is_replaced_leaves_the_old_day_or_the_new(
    drivers: Drivers, s3_server: S3Server, calm_rows: list[dict]
) -> None:
    drivers.finish()
    write_pairs(make_pairs(20, first=900), f"{drivers.input}/late")
    for step, (method, pattern) in SWAP.items():
        with s3_server.hold(method, pattern) as fault:
            killed = drivers.start("replace")
            assert fault.reached.wait(timeout=280), f"{step}: {killed.communicate(timeout=5)[1][-3000:]}"
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            rows = read_committed(drivers.day)
            assert rows == calm_rows if step in ("scoring", "publishing") else len(rows) == 220
            assert storage.exists(f"{drivers.day}/_SUCCESS") == (step == "scoring")
    assert drivers.finish(drivers.start("replace"))["counts"]["read"] == 220
    rows = read_committed(drivers.day)
    assert rows == read_visible(drivers.day)
    assert [row for row in rows if row in calm_rows] == calm_rows


def test_two_drivers_at_once_leave_one_days_rows(drivers: Drivers, calm_rows: list[dict]) -> None:
    rivals = [drivers.start(), drivers.start()]
    for rival in rivals:
        assert drivers.finish(rival)["counts"]["read"] == 200
    assert read_committed(drivers.day) == read_visible(drivers.day) == calm_rows


@pytest.mark.slow
def test_an_attempt_that_wakes_up_late_overwrites_nothing(
    drivers: Drivers, s3_server: S3Server, calm_rows: list[dict]
) -> None:
    with s3_server.hold(*STEPS["shard manifest"]) as fault:
        late = drivers.start()
        assert fault.reached.wait(timeout=280)
        assert drivers.finish()["counts"]["read"] == 200
        before = storage.read_bytes(f"{drivers.day}/_SUCCESS")
        fault.released.set()
        assert drivers.finish(late)["already_done"]
    assert storage.read_bytes(f"{drivers.day}/_SUCCESS") == before
    assert read_committed(drivers.day) == read_visible(drivers.day) == calm_rows


def test_a_store_that_fails_for_a_while_costs_only_time(
    drivers: Drivers, s3_server: S3Server, calm_rows: list[dict]
) -> None:
    with (
        s3_server.fail("PUT", r"_staging/data", status=503, times=3) as writes,
        s3_server.fail("PUT", r"_staging/shards", status=500, times=2, apply=True) as lost_answers,
        s3_server.fail("GET", r"pairs-|_staging", status=500, times=3) as reads,
        s3_server.fail("PUT", r"/part-", status=503, times=2) as copies,
    ):
        assert drivers.finish()["counts"]["read"] == 200
    assert [fault.times for fault in (writes, lost_answers, reads, copies)] == [0, 0, 0, 0]
    assert read_committed(drivers.day) == read_visible(drivers.day) == calm_rows


@pytest.mark.slow
def test_a_store_that_stays_away_fails_the_run_and_the_rerun_finishes(
    drivers: Drivers, s3_server: S3Server, calm_rows: list[dict]
) -> None:
    with s3_server.fail("PUT", r"_staging/shards/00001", status=403, times=float("inf")):
        failed = drivers.start()
        failed.communicate(timeout=280)
        assert failed.returncode != 0
    assert read_job_manifest(drivers.day) is None
    assert read_visible(drivers.day) == []
    drivers.finish()
    assert read_committed(drivers.day) == read_visible(drivers.day) == calm_rows


def test_relative_paths_mean_the_drivers_folder(
    local_ray: str, tiny_model: Path, tmp_path: Path, calm_rows: list[dict]
) -> None:
    write_pairs(make_pairs(200), str(tmp_path / "pairs"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.servers.score_driver", "pairs", "scores", str(tiny_model), str(SHARD_ROWS)],
        cwd=tmp_path,  # the workers' folder is another: the one that the code was unpacked in
        env={**os.environ, "RAY_ADDRESS": local_ray, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_committed(str(tmp_path / "scores")) == calm_rows
