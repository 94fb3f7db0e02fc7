"""Folders fetched to this machine: by one process at a time, and never seen half."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_STAGED = ".part"


def fetch_once(target: Path, download: Callable[[Path], None]) -> Path:
    """Download a folder unless it is there; of several processes one downloads and the others wait for it.

    The lock is the kernel's: it goes with its process, and what that had staged is thrown away by the next.

    Args:
        target: Where the folder shall be; whoever sees it sees all of it.
        download: Called with an empty folder beside it, to be filled.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process downloads %s: waiting for it", target.name)
        lock.acquire()
    try:
        if target.is_dir():
            return target
        for left in target.parent.glob(f"{target.name}.*{_STAGED}"):
            shutil.rmtree(left)
        staged = target.with_name(f"{target.name}.{uuid.uuid4().hex}{_STAGED}")
        staged.mkdir()
        download(staged)
        staged.rename(target)
        return target
    finally:
        lock.release()
