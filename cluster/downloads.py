"""Folders fetched to this machine: by one process at a time, and never seen half, also after a loss of power."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_STAGED = ".part"


def fetch_once(
    target: Path, download: Callable[[Path], object], *, whole: Callable[[Path], bool] = Path.is_dir
) -> Path:
    """Download a folder unless it is there; of several processes one downloads and the others wait for it.

    The lock is the kernel's: it goes with its process, and what that had staged is thrown away by the next.

    Args:
        target: Where the folder shall be; whoever sees it sees all of it.
        download: Called with an empty folder beside it, to be filled.
        whole: Says whether it is there; a folder that is not whole is thrown away.
    """
    if whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process downloads %s: waiting for it", target.name)
        lock.acquire()
    try:
        if whole(target):
            return target
        if target.is_dir():
            target.rename(_staged_for(target))
        for left in target.parent.glob(f"{target.name}.*{_STAGED}"):
            shutil.rmtree(left)
        staged = _staged_for(target)
        staged.mkdir()
        download(staged)
        # Else a loss of power may leave the name with nothing behind it. A lost name itself costs one more download.
        for path in (*staged.rglob("*"), staged):
            _bring_to_disk(path)
        staged.rename(target)
        return target
    finally:
        lock.release()


def _staged_for(target: Path) -> Path:
    return target.with_name(f"{target.name}.{uuid.uuid4().hex}{_STAGED}")


def _bring_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
