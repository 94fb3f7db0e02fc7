"""Log lines of a job's driver and workers, joined by one id that its MLflow run and `run.json` have too."""

from __future__ import annotations

import logging
import os
import uuid

RUN_VARIABLE = "MARKETPLACE_RUN_ID"
"""Given from outside (a scheduler's own id of the run), or drawn by the driver; workers have it from the driver."""

_OWN = ("jobs", "relevance", "cancellation", "cluster")
_PER_REQUEST = ("httpx", "httpx2")
"""Clients that write a line at INFO for each request: a job that asks a model thousands of times says how far it is."""


def job_run_id() -> str:
    """Name this run of a job, the same in all of its processes."""
    return os.environ.setdefault(RUN_VARIABLE, uuid.uuid4().hex[:12])


def log_as_driver() -> None:
    """Write everybody's lines from LOG_LEVEL (INFO) on to standard error; of single requests if it is given."""
    _write(os.environ.get("LOG_LEVEL", "INFO"))
    if "LOG_LEVEL" not in os.environ:
        for client in _PER_REQUEST:
            logging.getLogger(client).setLevel("WARNING")


def log_as_worker() -> None:
    """Write the project's own lines from LOG_LEVEL (INFO) on, other people's warnings, for Ray to collect."""
    _write("WARNING")
    _own_from("INFO")


def log_as_local_worker() -> None:
    """Write as a worker whose lines all come out on somebody's terminal: warnings, unless LOG_LEVEL says otherwise."""
    _write("WARNING")
    _own_from("WARNING")


def _write(level: str) -> None:
    form = f"%(asctime)s %(levelname)s run={job_run_id()} %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), format=form)


def _own_from(level: str) -> None:
    for package in _OWN:
        logging.getLogger(package).setLevel(os.environ.get("LOG_LEVEL", level).upper())
