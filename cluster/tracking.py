"""MLflow runs behind a small surface: settings, figures, files, and how it ended.

Tracking never decides whether a job's work counts. A server that is briefly away is waited for (a minute
per request, by MLflow's own retries); one that stays away costs a warning. What could not be delivered is
kept in memory and tried once more when the run ends, so an outage in mid-job loses nothing, and whatever
is then still undelivered stands in the files beside the job's output.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.logs import job_run_id
from cluster.provenance import collect_provenance, hide_credentials, public_settings
from cluster.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///var/mlflow.db"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The one retry policy for the tracking server: pauses of 0, 4, 8, 16 and 32 s, about a minute in all.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_LAST_DELIVERY_SECONDS = 60
_MAX_PARAM_CHARACTERS, _MAX_TAG_CHARACTERS, _MAX_BATCH = 6000, 8000, 100
"""Limits of MLflow's own validation (mlflow.utils.validation)."""


class TrackingSettings(Settings):
    """Where runs are recorded."""

    uri: str | None = Field(default=None, pattern=r"^(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://")
    """Address of the tracking server or database. None: MLFLOW_TRACKING_URI, else a SQLite file in the working
    directory (`var/mlflow.db`, files in `var/mlartifacts` beside it)."""

    experiment: str | None = Field(default=None, min_length=1, max_length=500)
    """Name under which runs are grouped. None: the job's name."""

    off: bool = False
    """Record nothing."""


@dataclass(frozen=True)
class RunAddress:
    """Where a run is, for another process that adds to it."""

    name: str
    experiment: str
    uri: str
    run_id: str | None
    off: bool = False

    def open(self) -> TrackedRun:
        """Add to the run from here; what it was given and how it ends is said where it was begun."""
        return TrackedRun(self.name, self.experiment, self.uri, run_id=self.run_id, off=self.off)


class TrackedRun:
    """A run in MLflow. Every method returns whether or not the server can be reached."""

    def __init__(self, name: str, experiment: str, uri: str, *, run_id: str | None = None, off: bool = False) -> None:
        self.run_id = run_id
        """MLflow's id; None until the server has given one."""
        self._name, self._experiment, self._uri = name, experiment, uri
        self._experiment_id: str | None = None
        self._client: MlflowClient | None = None
        self._started = _now_ms()
        self._pending: deque[Callable[[MlflowClient, str], None]] = deque()
        self._off = off
        self._failure: str | None = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Record what the run was given; sections become dotted names, long values are cut."""
        from mlflow.entities import Param

        rows = [Param(name, _text(value)[:_MAX_PARAM_CHARACTERS]) for name, value in _flatten(values)]
        self._send_batches("params", rows)

    def metrics(self, values: Mapping[str, float | None], *, step: int | None = None) -> None:
        """Record numbers; a None is not measured and left out."""
        from mlflow.entities import Metric

        now = _now_ms()
        rows = [Metric(name, float(value), now, step or 0) for name, value in values.items() if value is not None]
        self._send_batches("metrics", rows)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record how to find the run again; `mlflow.runName` renames it."""
        from mlflow.entities import RunTag

        rows = [RunTag(name, _text(value)[:_MAX_TAG_CHARACTERS]) for name, value in _flatten(values)]
        self._send_batches("tags", rows)

    def artifact(self, path: str, content: bytes) -> None:
        """Keep a file with the run, at a relative path."""
        self._send(partial(_upload, path, content))

    def figure(self, path: str, figure: Figure) -> None:
        """Keep a matplotlib figure with the run; the path's suffix decides the format."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format=PurePosixPath(path).suffix.lstrip("."))
        self.artifact(path, buffer.getvalue())

    @property
    def address(self) -> RunAddress:
        """How another process finds the run."""
        return RunAddress(self._name, self._experiment, self._uri, self.run_id, self._off)

    @property
    def where(self) -> str:
        """How to look at the run, for people."""
        if self._off:
            return "not tracked: tracking.off=true"
        if self.run_id is None or self._experiment_id is None:
            return f"not tracked so far: {self._failure or 'nothing was sent'}"
        page = f"#/experiments/{self._experiment_id}/runs/{self.run_id}"
        if self._uri.startswith("http"):
            return f"{hide_credentials(self._uri).rstrip('/')}/{page}"
        if self._uri == _absolute(DEFAULT_URI):
            return f"make mlflow, then http://127.0.0.1:5000/{page}"
        return f"mlflow ui --backend-store-uri {hide_credentials(self._uri)}, then http://127.0.0.1:5000/{page}"

    def end(self, status: str) -> None:
        """Close the run (FINISHED, FAILED, KILLED) and deliver what had to wait, for a bounded time."""
        if self._off:
            return
        ended = _now_ms()
        # First, because a run without its figures is a smaller lie than one that seems to go on for ever.
        self._pending.appendleft(lambda client, run_id: client.set_terminated(run_id, status, ended))
        deadline = time.monotonic() + _LAST_DELIVERY_SECONDS
        undelivered = 0
        while self._pending:
            if undelivered and time.monotonic() > deadline:
                undelivered += len(self._pending)
                break
            if not self._deliver():
                self._pending.popleft()
                undelivered += 1
        if undelivered:
            logger.warning(
                "MLflow at %s: %d records of this run were not delivered (%s); the files beside the job's output "
                "have them all",
                hide_credentials(self._uri),
                undelivered,
                self._failure,
            )

    def _send_batches(self, kind: str, rows: list[Any]) -> None:
        for start in range(0, len(rows), _MAX_BATCH):
            self._send(partial(_log_batch, {kind: rows[start : start + _MAX_BATCH]}))

    def _send(self, record: Callable[[MlflowClient, str], None]) -> None:
        """Deliver at once, or keep for the end if the server was away before: one outage is waited for once."""
        if self._off:
            return
        self._pending.append(record)
        if self._failure is None and not self._deliver():
            logger.warning(
                "MLflow at %s cannot be reached (%s): going on without it; a last attempt follows when the job ends",
                hide_credentials(self._uri),
                self._failure,
            )

    def _deliver(self) -> bool:
        """Deliver what is pending, in order, up to the first failure; True if nothing is left."""
        try:
            client, run_id = self._connect()
            while self._pending:
                self._pending[0](client, run_id)
                self._pending.popleft()
        except Exception as error:  # MLflow, SQLAlchemy, requests and boto have no common base
            self._failure = explain_failure(error)
            logger.debug("MLflow failed", exc_info=error)
            return False
        return True

    def _connect(self) -> tuple[MlflowClient, str]:
        if self._client is None:
            self._client = open_client(self._uri)
        if self._experiment_id is None:
            self._experiment_id = _experiment_id(self._client, self._experiment, self._uri)
        if self.run_id is None:
            run = self._client.create_run(self._experiment_id, start_time=self._started, run_name=self._name)
            self.run_id = run.info.run_id
        return self._client, self.run_id


def tracking_uri(uri: str | None = None) -> str:
    """Return the address that a job uses: the given one, MLFLOW_TRACKING_URI, or the working directory's SQLite."""
    return _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


@contextmanager
def tracked_run(
    name: str, job: Settings, settings: TrackingSettings, *, parent: TrackedRun | None = None, title: str | None = None
) -> Iterator[TrackedRun]:
    """Record what happens in a `with` block as a run, with the job's settings, its code, packages and machine.

    `parent` shows it below another run, `title` names it; a name with the time is given where there is none.
    An exception marks the run as failed and goes on. Only its type is recorded: messages of other
    people's libraries may quote what they were reading.
    """
    _set_environment()
    for noisy in ("alembic", "mlflow.store.db", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    experiment, uri = settings.experiment or name, tracking_uri(settings.uri)
    run = TrackedRun(title or f"{name} {started}", experiment, uri, off=settings.off)
    _describe(run, name, job)
    if parent is not None and parent.run_id:
        run.tags({"mlflow.parentRunId": parent.run_id})
    try:
        yield run
    except BaseException as error:
        run.tags({"error": type(error).__name__})
        run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.end("FINISHED")


def _describe(run: TrackedRun, name: str, job: Settings) -> None:
    provenance = collect_provenance()
    run.params(public_settings(job))
    source = {"mlflow.source.name": name, "mlflow.source.type": "JOB"}
    if provenance.commit:
        source["mlflow.source.git.commit"] = provenance.commit
    run.tags({**source, "job_run_id": job_run_id(), "version": provenance.versions, "hardware": provenance.hardware})


def open_client(uri: str) -> MlflowClient:
    """Connect to a tracking server and registry, creating a SQLite file's folder and tables where they are missing."""
    _set_environment()
    from mlflow import MlflowClient  # after the environment is set: telemetry starts with the import

    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri)
    folder = _sqlite_folder(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two jobs that create the tables at once break each other's
        return MlflowClient(tracking_uri=uri)


def _set_environment() -> None:
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    if (found := client.get_experiment_by_name(name)) is not None:
        return found.experiment_id
    from mlflow.exceptions import MlflowException

    location = (_sqlite_folder(uri) / "mlartifacts").as_uri() if uri.startswith("sqlite:///") else None
    try:
        return client.create_experiment(name, artifact_location=location and f"{location}/{name}")
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:  # else another job was first
            raise
        return found.experiment_id


def explain_failure(error: BaseException) -> str:
    """Name the first cause: what MLflow and requests wrap around a refused connection fills a screen."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    first_line = str(error).partition("\n")[0]
    return hide_credentials(f"{type(error).__name__}: {first_line}")[:200]


def _sqlite_folder(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent


def _absolute(uri: str) -> str:
    """Pin a relative SQLite file to the working directory of now."""
    if not uri.startswith("sqlite:///"):
        return uri
    path, mark, options = uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{Path(path).absolute()}{mark}{options}"


def _log_batch(batch: Mapping[str, list[Any]], client: MlflowClient, run_id: str) -> None:
    client.log_batch(run_id, **batch)


def _upload(path: str, content: bytes, client: MlflowClient, run_id: str) -> None:
    folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / name
        local.write_bytes(content)
        client.log_artifact(run_id, str(local), None if folder == "." else folder)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
