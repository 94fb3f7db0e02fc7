"""Waits for a server that end in time: at a deadline, or when nobody wants the answer any more.

A thread that reads from a socket cannot be called back. So requests run in an event loop, one for this process in a
thread of its own, and whoever asked waits beside it and cancels.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")

_LOOK_SECONDS = 0.05
"""How often a waiting thread asks whether its result is still wanted."""


class LateError(RuntimeError):
    """Nothing came until the deadline."""


class UnwantedError(RuntimeError):
    """Nobody wants the result any more."""


def wait_for(coroutine: Coroutine[Any, Any, Result], *, deadline: float, enough: Callable[[], bool]) -> Result:
    """Run a coroutine in the process's loop; cancel it when `enough` says so or the deadline passes.

    Args:
        coroutine: What is waited for; what it raises is raised here.
        deadline: Instant of `time.monotonic`.
        enough: Asked every few hundredths of a second.

    Raises:
        LateError: At the deadline.
        UnwantedError: If `enough` was true.
    """
    running = asyncio.run_coroutine_threadsafe(coroutine, event_loop())
    over = threading.Event()
    running.add_done_callback(lambda _: over.set())
    try:
        while not over.wait(max(min(deadline - time.monotonic(), _LOOK_SECONDS), 0.0)):
            if time.monotonic() >= deadline:
                raise LateError
            if enough():
                raise UnwantedError
        return running.result()
    finally:
        running.cancel()


def rest(seconds: float, enough: Callable[[], bool]) -> None:
    """Sleep, unless `enough` says that nobody waits for what comes after.

    Raises:
        UnwantedError: If it does.
    """
    end = time.monotonic() + seconds
    while True:
        if enough():
            raise UnwantedError
        if (left := end - time.monotonic()) <= 0:
            return
        time.sleep(min(left, _LOOK_SECONDS))


_starting = threading.Lock()


def event_loop() -> asyncio.AbstractEventLoop:
    """Start the loop in its thread, once."""
    with _starting:  # a cache alone would let two threads start one each
        return _started_loop()


@cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop
