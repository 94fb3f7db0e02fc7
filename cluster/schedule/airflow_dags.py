"""Airflow DAGs: one per flow of each `*.schedule.json` that lies beside this file. Runs inside Airflow 3 alone.

`python -m jobs.schedule render=airflow` puts it, `ray_jobs.py` and a schedule into Airflow's folder of DAGs. A task is
a Ray job: Airflow waits for it and shows the end of its log. The cluster is the connection `marketplace_ray`: host,
port, and as password the cluster's RAY_AUTH_TOKEN, where it asks for one.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.sdk import DAG, BaseOperator, Connection, Param
from airflow.timetables.trigger import CronTriggerTimetable

sys.path.insert(0, str(Path(__file__).parent))  # the DAG processor does so by itself, commands that load a DAG do not

from ray_jobs import FAILS_AGAIN, RayJobError, RayJobs

CONNECTION = "marketplace_ray"


class RayJobOperator(BaseOperator):
    """Runs one step of one day as a Ray job. A second attempt joins the job of the first if it still runs."""

    ui_color = "#dbeafe"

    def __init__(self, *, name: str, command: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.name, self.command = name, command

    def execute(self, context: Any) -> None:
        """Submit and wait."""
        for placeholder, text in _days(context).items():
            self.command = self.command.replace(f"{{{placeholder}}}", text)
            self.name = self.name.replace(f"{{{placeholder}}}", text)
        try:
            _cluster().run(self.name, self.command, say=self.log.info)
        except RayJobError as error:
            again = error.exit_code not in FAILS_AGAIN
            raise (AirflowException if again else AirflowFailException)(str(error)) from None

    def on_kill(self) -> None:
        """Stop the job too, when somebody stops the task."""
        _cluster().stop(self.name, self.command)


def _cluster() -> RayJobs:
    found = Connection.get(CONNECTION)
    return RayJobs(f"{found.schema or 'http'}://{found.host}:{found.port or 8265}", found.password)


def _days(context: Any) -> dict[str, str]:
    """The day that a run looks at: the one that it was triggered with, or the one before it, in UTC."""
    given = context["params"].get("day")
    run = context["dag_run"]
    morning = (run.logical_date or run.run_after).astimezone(UTC).date()
    day = date.fromisoformat(given) if given else morning - timedelta(days=1)
    earlier, later = (str(day + timedelta(days=days)) for days in (-2, 1))
    return {"day": str(day), "next_day": later, "two_days_before": earlier}


def _dag(product: str, flow: dict[str, Any]) -> DAG:
    dag = DAG(
        f"{product}_{flow['name']}",
        schedule=CronTriggerTimetable(flow["at"], timezone="UTC"),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        params={"day": Param(None, type=["null", "string"], format="date", description="UTC; null: the day before")},
        default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
        doc_md="\n".join(f"- **{step['name']}**: {step['why']}" for step in flow["steps"]),
        tags=[product],
    )
    tasks = {
        step["name"]: RayJobOperator(
            task_id=step["name"], dag=dag, name=step["submission_id"], command=step["entrypoint"], doc=step["why"]
        )
        for step in flow["steps"]
    }
    for step in flow["steps"]:
        for before in step["after"]:
            tasks[before] >> tasks[step["name"]]
    return dag


for _path in sorted(Path(__file__).parent.glob("*.schedule.json")):
    _schedule = json.loads(_path.read_text(encoding="utf-8"))
    for _flow in _schedule["flows"]:
        globals()[f"{_schedule['product']}_{_flow['name']}"] = _dag(_schedule["product"], _flow)
