"""The rendered DAGs in a real Airflow, against a real Ray head: loaded, walked, and a day of each kind run.

Airflow has packages of its own: AIRFLOW_BIN names the `bin` folder of an environment with Airflow 3, else one is made
below var/environments (800 MB from the package index).

    AIRFLOW_BIN=…/bin python -m pytest -m slow tests/slow/test_airflow.py
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.schedule.dag_files import render_airflow
from cluster.schedule.plan import load_schedule
from tests.builders.monitored_days import DAY, decisions, ship
from tests.conftest import PROJECT
from tests.servers.own_environment import own_environment
from tests.servers.ray_head import guarded_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MORNING = DAY + timedelta(days=1)
_WALK = """
import json, sys
from airflow.models import DagBag
bag = DagBag(sys.argv[1], include_examples=False)
dags = {dag.dag_id: {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} for dag in bag.dags.values()}
print(json.dumps([bag.import_errors, dags]))
"""


class Airflow:
    """One home of Airflow, with a day's archive and DAGs that look at it."""

    def __init__(self, folder: Path, head: dict[str, str]) -> None:
        self.bin = own_environment("airflow", "apache-airflow==3.1.3", variable="AIRFLOW_BIN")
        self.root, self.dags = folder / "root", folder / "airflow" / "dags"
        address, _, port = head["RAY_API_SERVER_ADDRESS"].rpartition(":")
        cluster = {"conn_type": "http", "host": address.removeprefix("http://"), "port": int(port)}
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AIRFLOW"))}
        self.environment = plain | {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_MARKETPLACE_RAY": json.dumps({**cluster, "password": head["RAY_AUTH_TOKEN"]}),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        values = {"root": str(self.root), "model": str(PROJECT / "cancellation" / "small_model")}
        for product in ("cancellation", "relevance"):
            render_airflow(load_schedule(PROJECT / product / "schedule.toml", values), str(self.dags))
        self.run("airflow", "db", "migrate")

    def run(self, *command: str, fails: bool = False) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.dags.parent, capture_output=True, text=True, timeout=900
        )
        assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("airflow")
    archive = folder / "root" / "serving" / "archive"
    for back in range(8, -1, -1):
        ship(archive, decisions(DAY - timedelta(days=back), 300, fallback=0.0), num_hours=1)
    with guarded_head(folder, {"PYTHONPATH": str(PROJECT)}) as head:
        yield Airflow(folder, head)


def test_every_dag_loads_and_its_tasks_follow_the_schedule(airflow: Airflow) -> None:
    said = airflow.run("python", "-c", _WALK, str(airflow.dags))
    errors, dags = json.loads(next(line for line in said.splitlines() if line.startswith("[{")))
    assert errors == {}
    expected = {}
    for product in ("cancellation", "relevance"):
        for flow in load_schedule(PROJECT / product / "schedule.toml").flows:
            expected[f"{product}_{flow.name}"] = {step.name: sorted(step.after) for step in flow.steps}
    assert dags == expected


def test_a_day_runs_and_may_run_again(airflow: Airflow) -> None:
    for attempt in ("", "-2"):
        said = airflow.run("airflow", "dags", "test", "cancellation_daily", str(MORNING))
        for step in ("forget", "rejudge", "evidence", "compact", "monitor"):
            assert f"cancellation-daily-{step}-{DAY}{attempt} submitted" in said
    report = json.loads((airflow.root / "cancellation" / "monitoring" / str(DAY) / "report.json").read_text())
    assert report["figures"]["decisions"] == 300
    assert len(report["compared_with"]) == 8


def test_a_day_that_is_named_is_the_one_that_is_looked_at(airflow: Airflow) -> None:
    earlier = DAY - timedelta(days=2)
    conf = json.dumps({"day": str(earlier)})
    said = airflow.run("airflow", "dags", "test", "cancellation_daily", str(MORNING), "--conf", conf)
    assert f"cancellation-daily-monitor-{earlier} submitted" in said
    assert (airflow.root / "cancellation" / "monitoring" / str(earlier) / "report.html").exists()


def test_wrong_input_is_told_and_not_tried_again(airflow: Airflow) -> None:
    """The pairs of that day have no titles: what comes behind scoring does not run."""
    pairs = airflow.root / "pairs" / f"ds={DAY}" / "pairs.csv"
    pairs.parent.mkdir(parents=True)
    pairs.write_text("query_id,product_id\nq,p\n")
    said = airflow.run("airflow", "dags", "test", "relevance_daily", str(MORNING), fails=True)
    assert f"relevance-daily-score-{DAY}: failed, status 2; its log is above" in said
    assert "error: " in said
    assert said.count(f"relevance-daily-score-{DAY} submitted") == 1
    assert f"relevance-daily-monitor-{DAY}" not in said


def test_a_week_is_backfilled_by_one_command(airflow: Airflow) -> None:
    airflow.run("airflow", "dags", "reserialize")
    days = ["--from-date", str(MORNING - timedelta(days=6)), "--to-date", f"{MORNING}T12:00"]
    said = airflow.run("airflow", "backfill", "create", "--dag-id", "cancellation_daily", *days, "--dry-run")
    assert [f"{MORNING - timedelta(days=back)}" in said for back in range(7)] == [True] * 7
