"""Large bodies work in a lane of their own, one after the other, so that they delay no one but their own kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from cancellation.serving.answering.admission import Overloaded

_MAX_WAITING = 4
"""Large bodies that may wait for each other."""

_ResultT = TypeVar("_ResultT")


class LargeLane:
    """One thread for whatever a large body needs computed."""

    def __init__(self, retry_after_seconds: int) -> None:
        self._retry_after_seconds = retry_after_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")
        self._inside = 0

    @contextmanager
    def place(self, large: bool) -> Iterator[None]:
        """Hold a place for the whole of an event's way: whoever is let in is not turned away after half the work.

        Raises:
            Overloaded: If too many are inside.
        """
        if large and self._inside >= _MAX_WAITING:
            raise Overloaded(self._retry_after_seconds)
        self._inside += large
        try:
            yield
        finally:
            self._inside -= large

    async def run(self, large: bool, work: Callable[..., _ResultT], *arguments: Any) -> _ResultT:
        """Work on a small body at once, on a large one in the lane."""
        if not large:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        """Drop what waits."""
        self._thread.shutdown(wait=False, cancel_futures=True)
