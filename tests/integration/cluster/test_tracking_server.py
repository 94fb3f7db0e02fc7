"""Tracking across processes: a real MLflow server that comes late and goes early, and two jobs at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
from tests.measures.pages import rendered
from tests.servers.mlflow import MlflowServer

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    yield server
    server.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_server_that_comes_late_is_waited_for_and_one_that_goes_early_is_not_missed(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")  # a loaded machine starts the server slowly
    starter = threading.Timer(2, server.start)
    starter.start()
    with tracked_run("late", Settings(), TrackingSettings(uri=server.url)) as run:
        run.artifact("report.html", b"a report")
    starter.join()
    client = MlflowClient(tracking_uri=server.url)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["report.html"]
    assert run.where == f"{server.url}/#/experiments/{found.info.experiment_id}/runs/{run.run_id}"
    assert not [record for record in caplog.records if record.name == "cluster.tracking"]

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with tracked_run("early", Settings(), TrackingSettings(uri=server.url)) as run:
        run.metrics({"rows": 1})
        server.stop()
        wait_until(lambda: not server.listens())
        run.metrics({"rows": 2})
        run.artifact("report.html", b"a report")
    warnings = [record.getMessage() for record in caplog.records if record.name == "cluster.tracking"]
    assert [("cannot be reached" in text, "3 records of this run" in text) for text in warnings] == [
        (True, False),
        (False, True),
    ]


_JOB = """
import sys, time
from cluster.settings import Settings
from cluster.tracking import TrackingSettings, tracked_run
import mlflow.tracking
print("ready", flush=True)
sys.stdin.readline()
with tracked_run("some_job", Settings(), TrackingSettings()) as run:
    run.metrics({"rows": 1})
print(run.where, flush=True)
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client(), flush=True)
"""


def test_two_jobs_that_find_no_database_both_get_a_run_quietly(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "CI")}
    environment |= {"PYTHONPATH": str(PROJECT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", _JOB],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    for job in jobs:
        out, err = job.communicate(timeout=120)
        where, telemetry = out.splitlines()
        assert where.startswith("make mlflow, then http://127.0.0.1:5000/#/experiments/1/runs/")
        assert telemetry == "None"
        assert err == ""


@pytest.mark.slow
@pytest.mark.timeout(600)  # a busy machine starts the server slowly
def test_two_runs_are_compared_in_the_mlflow_page(server: MlflowServer, browser: str, tmp_path: Path) -> None:
    server.start()
    server.wait()
    ids = []
    for title, alpha in (("without adapter", 0.4421), ("with adapter", 0.5307)):
        with tracked_run("compared", Settings(), TrackingSettings(uri=server.url), title=title) as run:
            for step in range(3):
                run.metrics({"loss": 1.0 - 0.1 * step}, step=step)
            run.metrics({"alpha": alpha})
            ids.append(run.run_id)
            experiment = run.where.partition("/experiments/")[2].partition("/")[0]
    runs, experiments = quote(json.dumps(ids)), quote(json.dumps([experiment]))
    page = rendered(browser, f"{server.url}/#/compare-runs?runs={runs}&experiments={experiments}", tmp_path)
    for text in ("Comparing 2 Runs from 1 Experiment", "Parallel Coordinates Plot", "without adapter", "with adapter"):
        assert text in page, text
