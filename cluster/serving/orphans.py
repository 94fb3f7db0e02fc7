"""HAProxy left behind: when the process that serves is killed its proxy lives on, and holds the port."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_PROCESSES = Path("/proc")
_END_SECONDS = 5.0


def proxies_of(place: Path) -> dict[int, bool]:
    """Find this user's HAProxy processes configured below a folder; by number, whether the Ray that began it lives.

    None are found where there is no /proc.
    """
    found = {}
    for folder in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it ends at this moment
            command = _command(folder)
            ours = folder.stat().st_uid == os.getuid() and Path(command[0]).name.startswith("haproxy")
            if ours and any(word.startswith(f"{place}{os.sep}") for word in command):
                # The name in front may hold spaces and brackets; behind it come state and parent.
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                found[int(folder.name)] = _is_ray(_PROCESSES / parent)
    return found


def end_orphans(place: Path) -> list[int]:
    """End the HAProxy processes whose configuration lies below a folder and whose Ray is gone; give their numbers.

    One whose Ray lives is another service's, and stays.
    """
    orphans = [number for number, has_parent in proxies_of(place).items() if not has_parent]
    for number in orphans:
        logger.warning("HAProxy %d, left by a service that was killed, is ended", number)
        _end(number)
    return orphans


def let_finish(place: Path, seconds: float) -> None:
    """Let HAProxy processes configured below a folder take no new call, and wait until they have ended the others."""
    until = time.monotonic() + seconds
    for number in proxies_of(place):
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(number)
            try:
                signal.pidfd_send_signal(handle, signal.SIGUSR1)
                select.select([handle], [], [], max(0.0, until - time.monotonic()))
            finally:
                os.close(handle)


def _end(number: int) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(number)
        try:
            for how in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(handle, how)
                if select.select([handle], [], [], _END_SECONDS)[0]:
                    return
        finally:
            os.close(handle)


def _is_ray(folder: Path) -> bool:
    """Ray names its workers by what they run: ray::ProxyActor."""
    try:
        return _command(folder)[0].startswith("ray::")
    except OSError:
        return False


def _command(folder: Path) -> list[str]:
    return (folder / "cmdline").read_text(errors="replace").split("\0")
