"""A command in network and process namespaces of its own: its ports are free, and what it stops is its own."""

from __future__ import annotations

import os
import subprocess
from functools import cache

_INSIDE = "INSIDE_NAMESPACES"


def is_inside() -> bool:
    """Whether this process was started by `command`."""
    return _INSIDE in os.environ


@cache
def _unshare() -> list[str]:
    """The program and its switches; others than root need a user namespace too, which some machines refuse."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_user, "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


@cache
def available() -> bool:
    """Whether this machine lets this user make them."""
    try:
        done = subprocess.run([*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True, timeout=30)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def command(*arguments: str) -> list[str]:
    """Wrap a command; it finds the loopback interface up and everything that it leaves is ended with it."""
    return [*_unshare(), "env", f"{_INSIDE}=1", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *arguments]
