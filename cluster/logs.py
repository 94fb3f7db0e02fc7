"""Log lines of a job's driver and workers, joined by one id that its MLflow run and `run.json` have too.

And what is said of a fault that lasts: a line for each attempt would fill the disk, or hide everything else.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections.abc import Callable

RUN_VARIABLE = "MARKETPLACE_RUN_ID"
"""Given from outside (a scheduler's own id of the run), or drawn by the driver; workers have it from the driver."""

_OWN = ("jobs", "relevance", "cancellation", "cluster")
_PER_REQUEST = ("httpx", "httpx2")
"""Clients that write a line at INFO for each request: a job that asks a model thousands of times says how far it is."""


_AGAIN_SECONDS, _SELDOM_SECONDS = 10.0, 3600.0
_HEALTHY_SECONDS = 60.0
"""What has worked for so long fails anew, and says so at once."""


class LastingFault:
    """Says what fails at once, seldom for as long as it does, and once when it works again.

    Seldom: after 10 s, and twice as long each time, up to an hour. What fails, works and fails within such a wait is
    silent until the wait is over, so that one attempt in two that fails is no flood either. With
    several threads a line may come twice.
    """

    def __init__(self, logger: logging.Logger, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take where to say it, and what works again as that line names it."""
        self._logger, self._name, self._clock = logger, name, clock
        self._failing = self._told = False
        self._wait, self._due_at = _AGAIN_SECONDS, -math.inf
        self._works_since = -math.inf

    def failed(self, message: str) -> None:
        """Tell that an attempt failed; the message says the place, why, and what to do."""
        now, lasting, self._failing = self._clock(), self._failing, True
        if not lasting and now - self._works_since >= _HEALTHY_SECONDS:
            self._wait, self._due_at = _AGAIN_SECONDS, -math.inf
        if now < self._due_at:
            return
        lasting |= now < self._due_at + self._wait
        self._wait = min(2 * self._wait, _SELDOM_SECONDS) if lasting else _AGAIN_SECONDS
        self._due_at, self._told = now + self._wait, True
        self._logger.error("%s", message)

    def works(self) -> None:
        """Tell that an attempt did not fail."""
        if self._failing:
            self._failing, self._works_since = False, self._clock()
        if self._told:
            self._told = False
            self._logger.warning("%s: works again", self._name)


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
