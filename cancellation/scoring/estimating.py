"""What judging a backfill will take, from a sample judged here: nothing is written, and no Ray is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cancellation.events.files import EventShard, find_event_shards, read_event_rows
from cancellation.model.verdict_model import load_verdict_model
from cancellation.scoring.run import ModelLoader, VerdictRun, explaining
from cancellation.scoring.shard_steps import count_rows, score_rows
from cluster.models.files import fetch_model
from cluster.progress import format_seconds

_SHARDS, _EVENTS = 4, 1000
"""What is read of an input at most, and judged of that."""


@dataclass(frozen=True)
class BackfillEstimate:
    """Figures of a whole input, scaled up from a sample."""

    shards: int
    events: int
    """Rows of the input; exact where no more than four shards are there."""
    failed_fraction: float
    events_per_second: float
    """Of one actor."""
    load_seconds: float
    max_actors: int

    def seconds(self, actors: int) -> float:
        """Wall-clock time with so many actors, each with a core of its own."""
        most = min(actors, self.shards)
        return self.load_seconds + self.events / self.events_per_second / most

    def lines(self) -> list[str]:
        """For people."""
        counts = sorted({1, min(self.max_actors, self.shards)})
        return [
            f"about {self.events:,} events in {self.shards:,} shards; {self.failed_fraction:.1%} cannot be read",
            f"one actor: {self.events_per_second:,.0f} events/s after {self.load_seconds:.1f} s of loading",
            *(f"{n} actor{'s' if n > 1 else ''}: {format_seconds(self.seconds(n))}" for n in counts),
            "measured here; nothing was written",
        ]


def estimate_backfill(run: VerdictRun, *, load: ModelLoader = load_verdict_model) -> BackfillEstimate:
    """Judge some events of shards that lie evenly in the input, and scale up.

    Raises:
        ValueError: If the input cannot be read, or holds no event that could be.
    """
    shards = find_event_shards(run.input, shard_bytes=run.settings.shard_bytes)
    sampled = _sample(shards)
    rows = [list(read_event_rows(shard)) for shard in sampled]
    some = [row for part in rows for row in part[: -(-_EVENTS // len(sampled))]]
    if not any(row.event for row in some):
        raise ValueError(f"{run.input}: expected events, found none that could be read")
    started = time.perf_counter()
    model = load(fetch_model(run.model, cache_dir=run.cache_dir), num_threads=run.settings.num_threads)
    score_rows([row for row in some if row.event][:1], model, run.policy)  # the first call takes longer
    loaded = time.perf_counter()
    explain = explaining(run.settings, model)
    counts = count_rows(score_rows(some, model, run.policy, explain=explain))
    return BackfillEstimate(
        shards=len(shards),
        events=round(sum(map(len, rows)) / len(sampled) * len(shards)),
        failed_fraction=counts.failed / counts.read,
        events_per_second=len(some) / (time.perf_counter() - loaded),
        load_seconds=loaded - started,
        max_actors=max(run.settings.min_actors, run.settings.max_actors),
    )


def _sample(shards: Sequence[EventShard]) -> list[EventShard]:
    places = np.linspace(0, len(shards) - 1, num=min(_SHARDS, len(shards)))
    return [shards[round(place)] for place in places]
