"""A connection to Ray: the cluster that is there, or one of this machine's own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.daemons import left_if_lost
from cluster.logs import RUN_VARIABLE, job_run_id, log_as_local_worker, log_as_worker
from cluster.settings import Settings

logger = logging.getLogger(__name__)

_PROJECT = Path(__file__).resolve().parent.parent
_SHARED_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "LOG_LEVEL",
    RUN_VARIABLE,
)
"""Addresses that workers need too. Secrets are not sent: a runtime environment is shown in the dashboard."""

_OWN_MACHINE = "own_machine"
"""A resource by which a local Ray is known: it has what this machine has, and nothing will be added."""

_ROOM_BYTES = 16 * 2**20

_STATUS_SECONDS = 10.0
"""A head that has just started needs some to report what it is."""

_QUIET_TRAIN = (
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
)
"""What Ray Train does for clusters and a laptop's terminal need not show."""


class SessionSettings(Settings):
    """Which Ray to use."""

    address: str | None = None
    """Address of a cluster. None: RAY_ADDRESS, as `ray job submit` sets it, or a local Ray for this run."""

    num_cpus: int | None = Field(default=None, ge=1)
    """CPU cores of a local Ray; None: all of this machine's."""

    object_store_gib: float = Field(default=1.0, gt=0)
    """GiB of shared memory of a local Ray for blocks on their way between steps."""


def quiet_worker() -> None:
    """Keep a worker's complaints about a missing dashboard, and other people's warnings, out of the driver's output."""
    log_as_local_worker()
    for name in ("controller.placement_group_cleaner", "scaling_policy.autoscaling_coordinator_client"):
        # They tell, with tracebacks, of a Ray that ends and of an autoscaler that a busy machine's own Ray has not.
        logging.getLogger(f"ray.train.v2._internal.execution.{name}").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    threading.excepthook = _tell_of_thread


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Report what a thread died of, but for the one of Ray Train's that asks after a cluster that is being ended."""
    if failed.thread is None or failed.thread.name != "PlacementGroupCleanerMonitor":
        threading.__excepthook__(failed)


@contextmanager
def ray_session(settings: SessionSettings, *, outlives_ray: bool = False) -> Iterator[None]:
    """Connect to Ray for the length of a `with` block; a Ray that was connected before is left as it was.

    Driver and workers run in one environment: the cluster's image holds the pinned packages, the code
    comes with the job's working directory, addresses come with the driver's variables. A Ray of this process's own that
    dies takes the process along, unless that `outlives_ray`.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "null"))
    job_run_id()
    # Ray refuses a variable that the submission has set for the workers already.
    given = ((submitted or {}).get("runtime_env") or {}).get("env_vars") or {}
    names = [name for name in _SHARED_VARIABLES if name in os.environ and name not in given]
    environment: dict = {"env_vars": {name: os.environ[name] for name in names}}
    local: dict = {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        _check_room()
        local = {
            "num_cpus": settings.num_cpus,
            "object_store_memory": int(settings.object_store_gib * 2**30),
            "include_dashboard": False,
            "resources": {_OWN_MACHINE: 1.0},
        }
        environment["worker_process_setup_hook"] = quiet_worker
        for variable in _QUIET_TRAIN:
            os.environ.setdefault(variable, "0")
    else:
        environment["worker_process_setup_hook"] = log_as_worker
    if address and submitted is None:
        # Not submitted as a job, which would bring the code along: send it.
        environment |= {"working_dir": str(_PROJECT), "excludes": [".git", ".venv*", "var", "docs"]}
        # It advises against files above 10 MB, a line for each: the models that ship are meant to go along.
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    _init(address or "local", runtime_env=environment, logging_level=logging.WARNING, log_to_driver=True, **local)
    if callable(at_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)  # Ray has put its own in the place
    if address:
        _tell_if_taken("CPU", 1.0)
    try:
        with nullcontext() if address or outlives_ray else left_if_lost():
            yield
    finally:
        ray.shutdown()


def require_gpus(wanted: float, *, asked_by: str | None = None) -> None:
    """Refuse to wait for GPUs that will never come, and say at once where they are waited for.

    Args:
        wanted: By one task or actor, or by all workers that have to be there together.
        asked_by: The setting, with its value; None: `gpus_per_actor`.

    Raises:
        ValueError: If there are fewer and nothing adds machines: a local Ray, a cluster without an autoscaler.
    """
    import ray

    resources = ray.cluster_resources()
    found = resources.get("GPU", 0)
    if found >= wanted:
        _tell_if_taken("GPU", wanted)
        return
    asked = asked_by or f"gpus_per_actor={wanted:g}"
    if _OWN_MACHINE in resources:
        raise ValueError(
            f"{asked}, but this machine has {found:g} GPUs: set it to 0, or give session.address of a cluster"
        )
    nodes = sum(node["Alive"] for node in ray.nodes())
    has = f"{asked}, but the cluster has {found:g} GPUs ({nodes} nodes, {resources.get('CPU', 0):g} CPUs)"
    if _adds_machines():
        logger.warning("%s so far: waiting for its autoscaler to add some", has)
        return
    raise ValueError(f"{has} and no autoscaler that would add any: start nodes with GPUs, or set it to 0")


def require_cores(wanted: float, *, gpus: float = 0.0, asked_by: str | None = None) -> None:
    """Refuse to wait for a node of so many cores that will never come, with so many GPUs beside them.

    Args:
        wanted: By one task, actor or worker.
        gpus: By the same.
        asked_by: The setting, with its value; None: `cpus_per_actor`.

    Raises:
        ValueError: If no node has them and nothing adds machines.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    able = [node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= gpus]
    if any(cores >= wanted for cores in able):
        return
    most = max(able, default=0.0)
    beside = f" beside {gpus:g} GPUs" if gpus else ""
    asked = asked_by or f"cpus_per_actor={wanted:g}"
    has = f"{asked}, but no node has more than {most:g} cores{beside}"
    if _OWN_MACHINE not in ray.cluster_resources() and _adds_machines():
        logger.warning("%s so far: waiting for its autoscaler to add some", has)
        return
    raise ValueError(f"{has}: set it to {most:g} or less, or start larger nodes")


def _tell_if_taken(resource: str, wanted: float) -> None:
    """Say what a job waits for that begins on a full cluster: Ray lets it wait without a word."""
    import ray

    free, found = ray.available_resources().get(resource, 0.0), ray.cluster_resources().get(resource, 0.0)
    if found and free < wanted:
        logger.warning(
            "%g of the cluster's %g %ss are free just now: waiting until other jobs let some go, or its autoscaler "
            "adds some (the dashboard says whose they are)",
            *(free, found, resource),
        )


def _adds_machines() -> bool:
    """Whether an autoscaler runs on the cluster; True also where none has said so within some seconds.

    Ray reports nodes of clusters without one under names made of their ids, an autoscaler by its kinds of nodes.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    deadline = time.monotonic() + _STATUS_SECONDS
    while True:
        report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}").get("autoscaler_report") or {}
        kinds = {**(report.get("active_nodes") or {}), **(report.get("idle_nodes") or {})}
        if kinds or time.monotonic() > deadline:
            return not kinds or any(not name.startswith("node_") for name in kinds)
        time.sleep(0.2)


def _check_room() -> None:
    """Refuse a full disk: Ray would wait half a minute for a file there, and not say why it does not come.

    Raises:
        RuntimeError: If there is no room for its logs and sockets.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir())  # as Ray chooses
    if folder.is_dir() and (free := shutil.disk_usage(folder).free) < _ROOM_BYTES:
        raise RuntimeError(
            f"{folder}: expected room for Ray's files, {_ROOM_BYTES >> 20} MiB at least, found {free >> 20}; make "
            "some, or name another folder in RAY_TMPDIR"
        )


def _init(address: str, **options: Any) -> None:
    """Start or join Ray.

    Raises:
        RuntimeError: If it does not start, as on a machine that is too busy: Ray itself raises a bare `Exception`.
    """
    import ray

    try:
        ray.init(address, **options)
    except Exception as error:
        if type(error) is not Exception:
            raise
        ray.shutdown()
        line = (str(error).splitlines() or ["no reason given"])[0]
        raise RuntimeError(f"Ray does not start on this machine ({line}): run it again when it is less busy") from None
