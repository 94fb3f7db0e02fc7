"""How far a long piece of work is, and when it will be done: lines, for a terminal and `ray job logs` alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
_EVERY_SECONDS = 10.0


class Progress:
    """Prints a line when ten seconds have gone by since the last; what is done sooner says nothing."""

    def __init__(
        self,
        total: int,
        what: str,
        *,
        done: int = 0,
        every_seconds: float = _EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        to: TextIO | None = None,
    ) -> None:
        """Begin to count.

        Args:
            total: How much there is.
            what: In the plural: pairs, folds.
            done: What was there before this began; it says nothing of the rate.
            every_seconds: Between lines; 0: one each time.
            clock: Seconds.
            to: Where to print; standard error if None.
        """
        self._total, self._what, self._every, self._clock, self._to = total, what, every_seconds, clock, to
        self._done = self._before = done
        self._started = self._said = clock()

    def add(self, count: int = 1) -> None:
        """Note that so much more is done."""
        self._done += count
        now = self._clock()
        if now - self._said < self._every:
            return
        self._said = now
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        speed = f"{rate:,.0f} {self._what}/s  " if rate >= 10 else ""
        left = format_seconds(max(self._total - self._done, 0) / rate) if rate else "unknown"
        line = f"{self._done:>12,} of {self._total:,} {self._what}  {speed}ETA {left}"
        print(line, file=self._to or sys.stderr, flush=True)


def watched(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass items on and count them."""
    progress = Progress(total, what)
    for item in items:
        yield item
        progress.add()


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
