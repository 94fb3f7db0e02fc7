"""Units of work on Ray Data: one block each, through a pool of actors that Ray replaces when they die."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.data


def configure_ray_data() -> None:
    """Set this driver's Ray Data up for jobs that report their own progress and errors."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns that progress bars are off, as they should be
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a damaged file is a ValueError here too


def one_block_each(items: Sequence[Mapping[str, Any]]) -> ray.data.Dataset:
    """Make a dataset in which every item is a block, so that each can be worked on, and retried, alone."""
    return ray.data.from_items(list(items), override_num_blocks=len(items))


@ray.remote
class Deaths:
    """Counts how often a worker was given each unit: every time but the first, one died on it before."""

    def __init__(self) -> None:
        self._starts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def start(self, unit: str) -> tuple[int, str]:
        """Say how often workers died on a unit so far, and of what last."""
        self._starts[unit] += 1
        return self._starts[unit] - 1, self._reasons.get(unit, "its process was killed")

    def explain(self, unit: str, reason: str) -> None:
        """Note what a worker is about to die of."""
        self._reasons[unit] = reason
