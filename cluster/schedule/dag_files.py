"""A schedule as files for Airflow's folder of DAGs: two that are the same for all products, and its own as JSON."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from cluster import storage
from cluster.schedule.plan import Flow, Schedule, Step

_CODE = ("airflow_dags.py", "ray_jobs.py")


def render_airflow(schedule: Schedule, output: str) -> list[str]:
    """Write a product's files; those of other products that lie there stay. Gives where they are."""
    content = {"product": schedule.product, "flows": [_flow(schedule, flow) for flow in schedule.flows]}
    files = {name: Path(__file__).with_name(name).read_bytes() for name in _CODE}
    files[f"{schedule.product}.schedule.json"] = json.dumps(content, indent=2).encode()
    for name, data in files.items():
        storage.write_bytes(storage.join_url(output, name), data)
    return [storage.join_url(output, name) for name in files]


def _flow(schedule: Schedule, flow: Flow) -> dict[str, Any]:
    return {
        "name": flow.name,
        "at": flow.at,
        "steps": [_step(f"{schedule.product}-{flow.name}", step) for step in flow.steps],
    }


def _step(prefix: str, step: Step) -> dict[str, Any]:
    words = ["python", "-m", f"jobs.{step.job}", *step.arguments]  # {day} and its neighbours are filled in by each run
    return {
        "name": step.name,
        "why": step.why,
        "after": step.after,
        "submission_id": f"{prefix}-{step.name}-{{day}}",
        "entrypoint": shlex.join(words),
    }
