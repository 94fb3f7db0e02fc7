"""Ports of a service: a range of its own for what stands behind it, and the settings whose port is somebody else's."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

_FIRST, _WIDTH, _RANGES = 10_000, 100, 200
"""Below the ports of outgoing connections."""
_GIVEN_BACK_SECONDS = 5.0
_POLL_SECONDS = 0.1
_OTHER_FILES = 260
"""HAProxy's, beside two and a half of each connection that Ray lets it have: listeners, and replicas that it checks."""
_REACHED_SECONDS = 5.0


@contextmanager
def own_ports(port: int, others: Collection[int] = ()) -> Iterator[dict[str, str]]:
    """Hold a range of ports for what stands behind an endpoint; give the switches of Ray Serve that name it.

    Serve's own are the same for everyone: of two endpoints on one machine either answers what HAProxy of the other
    sends to its fallback (8500, which both listen on) while replicas change, or to a port that was just given back.
    The range follows from the endpoint's port, or is the next that is free: its last port, held for the length of the
    `with` block and given back by the system when the process dies, shows others that it is taken.

    Args:
        port: Of the endpoint.
        others: Ports that are meant for something else.

    Raises:
        RuntimeError: If no range is free.
    """
    for number in range(_RANGES):
        first = _FIRST + (port + number) % _RANGES * _WIDTH
        *ports, last = range(first, first + _WIDTH)
        if {*ports, last} & {port, *others}:
            continue
        with socket.socket() as claim:
            try:
                claim.bind(("", last))
            except OSError:
                continue
            if not all(_is_free("", one) for one in ports):
                continue
            yield {
                "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
                "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(last - 3),
                "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(last - 2),
                "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(last - 1),
            }
            return
    raise RuntimeError(
        f"ports {_FIRST} to {_FIRST + _RANGES * _WIDTH - 1}: expected {_WIDTH} in a row for replicas on which nobody "
        "listens, found none; end what listens there"
    )


def check_free(places: Mapping[str, tuple[str, int]]) -> None:
    """Refuse ports on which somebody listens: HAProxies share one without a word, and each gets some of the calls.

    A service that has just ended gets a moment to give them back.

    Args:
        places: Interface ("" for all) and port by the setting that names them.

    Raises:
        RuntimeError: If one is still taken; names the setting.
    """
    until = time.monotonic() + _GIVEN_BACK_SECONDS
    for setting, (host, port) in places.items():
        while not _is_free(host, port):
            if time.monotonic() > until:
                raise RuntimeError(
                    f"{setting}: expected a free port, found somebody who listens on {port}; end that, or set another"
                )
            time.sleep(_POLL_SECONDS)


def check_host(host: str) -> None:
    """Refuse an interface behind which HAProxy would find no replica: it looks for them on this machine's loopback.

    Raises:
        ValueError: If whoever listens there is not reached that way, or nobody can.
    """
    loopback = "127.0.0.1" if _is_free("127.0.0.1", 0) else "::1"  # as Ray chooses
    try:
        with socket.create_server((host, 0), family=_family(host)) as server:
            socket.create_connection((loopback, server.getsockname()[1]), _REACHED_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"service.host: expected an interface on which calls to {loopback} arrive, as HAProxy finds the replicas "
            f"there, found {host} ({error.strerror or error}); set {loopback} for this machine alone, 0.0.0.0 for "
            "others too, and for callers by IPv6 put a proxy in front"
        ) from None


def check_open_files() -> None:
    """Refuse a limit with which HAProxy does not start: Ray tells of that after minutes, and not why.

    Raises:
        RuntimeError: If it is lower than what HAProxy asks for, and may not be raised.
    """
    wanted = int(float(os.environ.get("RAY_SERVE_HAPROXY_MAXCONN", "4096")) * 2.5) + _OTHER_FILES
    soft, found = resource.getrlimit(resource.RLIMIT_NOFILE)
    if found == resource.RLIM_INFINITY or found >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))
    except (ValueError, OSError):
        raise RuntimeError(
            f"open files: expected a limit of at least {wanted}, as HAProxy needs, found {found}; raise it "
            "(ulimit -n 65536, LimitNOFILE=65536 of a systemd unit, nofile of a container)"
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_free(host: str, port: int) -> bool:
    """Whether nobody listens there; connections that have ended do not count."""
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
