"""The processes of a Ray of this process's own: without them nothing is started or replaced any more."""

from __future__ import annotations

import psutil

_NAMES = ("gcs_server", "raylet")


class RayDaemons:
    """Those that this process has begun; to be made once Ray has started."""

    def __init__(self) -> None:
        found = [(child, child.name()) for child in psutil.Process().children()]
        self._names = {child: name for child, name in found if name in _NAMES}

    def lost(self) -> str | None:
        """Name one that has died, None while all live. Behind that most calls of Ray's and Serve's never return."""
        for daemon, name in self._names.items():
            try:
                if daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE:
                    continue
            except psutil.NoSuchProcess:
                pass
            return name
        return None
