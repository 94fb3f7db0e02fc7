"""How fast a judge is on one core, and what a day's events cost at that."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from cancellation.comparison.approaches import Judge
from cancellation.events.event import Event
from cancellation.llm.backends import BackendSettings
from cluster.settings import Settings

_WARM_UP = 10


class PriceSettings(Settings):
    """What cores cost, and how many events a day has."""

    events_per_day: int = Field(default=300_000, ge=1)
    core_hour: float = Field(default=0.05, gt=0)
    """USD per core and hour."""

    utilization: float = Field(default=0.5, gt=0, le=1)
    """Share of its time in which a paid core works; the rest waits for the peak."""


@dataclass(frozen=True)
class Speed:
    """Parsed event to verdict on one core."""

    p50_ms: float
    p99_ms: float
    """Of one event alone, as a clock shows it, neighbours included."""
    events_per_second: float
    """In batches, by the core's own time, since that is what is paid for; of a language model by the clock, as many at
    once as it is asked for."""
    cost_per_day: float
    """USD."""
    answer_p50_ms: float | None = None
    """Of a language model: to the end of its reasoning; `p50_ms` is to its verdict."""
    tokens: float | None = None
    """Of a language model: prompt and answer, mean."""


def answering_speed(taken: Sequence[Mapping[str, Any]], backend: BackendSettings, price: PriceSettings) -> Speed:
    """Sum up answers of a language model, timed as they came.

    On cores its seconds cost what those of any judge cost, on each of its threads; behind a server, or on a GPU, an
    answer has a price of its own.

    Args:
        taken: Of every answer: tokens, USD and seconds, as in `LlmJudge.taken`.
        backend: That gave them.
        price: Of a day, and of cores.
    """
    p50, p99 = np.quantile([1000 * one["seconds_to_verdict"] for one in taken], (0.5, 0.99))
    seconds = sum(one["seconds"] for one in taken)
    if backend.kind == "local" and backend.local.device == "cpu":
        per_day = _cost_per_day(len(taken) / (seconds * backend.local.num_threads), price)
    else:
        per_day = sum(one["cost_usd"] for one in taken) / len(taken) * price.events_per_day
    return Speed(
        float(p50),
        float(p99),
        len(taken) / seconds * min(backend.parallel, len(taken)),
        per_day,
        float(np.median([1000 * one["seconds"] for one in taken])),
        float(np.mean([one["prompt_tokens"] + one["completion_tokens"] for one in taken])),
    )


def measure_speed(judge: Judge, events: Sequence[Event], *, batch: int, price: PriceSettings) -> Speed:
    """Time events alone and in batches, on one thread."""
    with threadpool_limits(1):
        for event in events[:_WARM_UP]:
            judge.judge([event])
        alone = []
        for event in events:
            started = time.perf_counter()
            judge.judge([event])
            alone.append(time.perf_counter() - started)
        started = time.thread_time()
        for start in range(0, len(events), batch):
            judge.judge(events[start : start + batch])
        rate = len(events) / (time.thread_time() - started)
    p50, p99 = np.quantile(np.array(alone) * 1000, (0.5, 0.99))
    return Speed(float(p50), float(p99), rate, _cost_per_day(rate, price))


def _cost_per_day(rate: float, price: PriceSettings) -> float:
    """USD of a day's events at so many a second of a core."""
    busy_hours = price.events_per_day / rate / 3600
    return busy_hours / price.utilization * price.core_hour


def processor_name() -> str:
    """Name the processor, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    parts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in parts.items()}
    name = " ".join(named.get(key, "") for key in ("model name", "cpu family", "model", "stepping")).strip()
    return name or platform.machine()
