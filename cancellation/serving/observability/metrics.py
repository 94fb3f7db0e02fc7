"""What the endpoint counts, in one place: names, meanings and tags of every metric, and what records them.

A recorder adds up in this process and never waits; `RayMetrics` hands the sums to Ray's metrics ten times a
second, in one go, since a metric of Ray costs more than the counting. Ray puts `ray_` before each name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0, 2500.0, 10000.0)
_SCORES = tuple(step / 20 for step in range(1, 20))
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TOKENS = (64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


@dataclass(frozen=True, eq=False)  # each is itself: a hash over its boundaries took longer than the counting
class Metric:
    """One metric: what it is called, what it means, by what it is split."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name that Prometheus sees; a histogram's series add _bucket, _sum and _count."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


REQUESTS = Metric("cancellation_requests", "counter", "Requests answered, health apart", ("route", "status"))
LATENCY = Metric("cancellation_latency_ms", "histogram", "From request to answer", ("route",), _MS)
STAGE = Metric("cancellation_stage_ms", "histogram", "Stages of one verdict", ("stage",), _MS)
VERDICTS = Metric(
    "cancellation_verdicts", "counter", "Verdicts given, repeats apart", ("market", "verdict", "action", "source")
)
SCORE = Metric("cancellation_score", "histogram", "Induced probability of the verdicts given", ("market",), _SCORES)
SHED = Metric("cancellation_shed", "counter", "Requests refused with 429, by what was full", ("reason",))
FALLBACKS = Metric("cancellation_fallbacks", "counter", "Verdicts of the rules for want of the model", ("reason",))
RETRIES = Metric("cancellation_retries", "counter", "Second attempts at the model: tried or over_budget", ("outcome",))
EXPIRED = Metric("cancellation_expired", "counter", "Events dropped before the model, their deadline over")
POISONED = Metric("cancellation_poisoned", "counter", "Events that the model could not score")
BATCH_EVENTS = Metric("cancellation_batch_events", "histogram", "Events of one call of the model", (), _SIZES)
BATCH_TOKENS = Metric("cancellation_batch_tokens", "histogram", "Padded tokens of one call", (), _TOKENS)
QUEUE_AGE = Metric("cancellation_queue_age_ms", "gauge", "Wait of the oldest event before the model")
LOOP_LAG = Metric("cancellation_loop_lag_ms", "gauge", "Wait of work that is ready to run in the gateway")
DUPLICATES = Metric("cancellation_duplicates", "counter", "Events sent again: replayed or conflict", ("outcome",))
REFUSED_CALLERS = Metric("cancellation_refused_callers", "counter", "Calls without a token or a scope", ("status",))
FEEDBACK = Metric("cancellation_feedback", "counter", "What operations and sellers said", ("market", "outcome"))
APPEALS = Metric("cancellation_appeals", "counter", "Entries of appeals, by the state they led to", ("market", "state"))
APPEALS_WAITING = Metric("cancellation_appeals_waiting", "gauge", "Appeals that are not decided", ("market", "state"))
APPEALS_OVERDUE = Metric("cancellation_appeals_overdue", "gauge", "Of those, beyond their deadline", ("market",))
EXPLANATIONS = Metric("cancellation_explanations", "counter", "Explanations: made, late or impossible", ("outcome",))
LLM_EXPLANATIONS = Metric(
    "cancellation_llm_explanations",
    "counter",
    "Explanations by a language model: whole, gone, late, failed or budget",
    ("outcome",),
)
SHADOW_COPIES = Metric(
    "cancellation_shadow_copies",
    "counter",
    "Copies for a shadow: scored, dropped, late or failed",
    ("shadow", "outcome"),
)
SHADOW_DISAGREEMENTS = Metric(
    "cancellation_shadow_disagreements", "counter", "Shadow verdicts other than the live one", ("shadow", "market")
)
SHADOW_QUEUE = Metric("cancellation_shadow_queue", "gauge", "Copies that wait for a shadow", ("shadow",))
SHADOW_HELD = Metric(
    "cancellation_shadow_held_seconds",
    "gauge",
    "How long the last start of a shadow's replica was held back because those before it died",
    ("shadow",),
)
POLICY_STATE = Metric("cancellation_policy_state", "gauge", "0 off, 1 shadow, 2 live", ("market",))
POLICY_CHANGES = Metric("cancellation_policy_changes", "counter", "Policies and kill switches taken over")
POLICY_REFUSED = Metric("cancellation_policy_refused", "gauge", "1 while a changed policy file is refused")
PENALTY_REFUSED = Metric(
    "cancellation_penalty_refused",
    "gauge",
    "1 while a live market's penalty threshold is not used, as its proof is not of this model or of real sellers",
    ("market",),
)
PENALTIES_WITHHELD = Metric(
    "cancellation_penalties_withheld",
    "counter",
    "Verdicts above a penalty threshold that was not used, by what its proof lacks, or overturned on appeal before",
    ("market", "reason"),
)
DATABASE_FAILS = Metric(
    "cancellation_database_fails", "gauge", "1 while a database fails at some work, such as to read", ("work",)
)
LOG_FAILURES = Metric("cancellation_log_failures", "counter", "Decisions that could not be written ahead")
LOG_BYTES = Metric("cancellation_log_bytes", "gauge", "Local disk taken by decisions not shipped yet")
LOG_OVER_LIMIT = Metric("cancellation_log_over_limit", "gauge", "1 while that is more than the limit")
LOG_SHIPPED = Metric("cancellation_log_shipped", "counter", "Decisions shipped to object storage")
LOG_SHIP_FAILURES = Metric("cancellation_log_ship_failures", "counter", "Failed attempts at shipping")
LOG_SHIPPER_UP = Metric("cancellation_log_shipper_up", "gauge", "1 while the process that ships decisions is alive")
LOG_SHIPPER_RESTARTS = Metric("cancellation_log_shipper_restarts", "counter", "Shipping processes started again")
TOKENS_REFUSED = Metric("cancellation_tokens_refused", "gauge", "1 while the tokens file is refused")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them; dashboards and alerts may name no other."""

_Tags = tuple[str, ...]


class Metrics:
    """Adds up in memory; renders this process's sums in Prometheus' form."""

    def __init__(self) -> None:
        self.sums: dict[tuple[Metric, _Tags], float] = defaultdict(float)
        self._histograms: dict[tuple[Metric, _Tags], list[float]] = {}

    def count(self, metric: Metric, *tags: str, value: float = 1.0) -> None:
        """Add to a counter; tags in the metric's order."""
        self.sums[metric, tags] += value

    def set(self, metric: Metric, value: float, *tags: str) -> None:
        """Set a gauge."""
        self.sums[metric, tags] = value

    def observe(self, metric: Metric, value: float, *tags: str) -> None:
        """Add a value to a histogram."""
        counts = self._histograms.get((metric, tags))
        if counts is None:
            counts = self._histograms[metric, tags] = [0.0] * (len(metric.boundaries) + 2)
        counts[bisect_left(metric.boundaries, value)] += 1.0
        counts[-1] += value

    def total(self, metric: Metric, **tags: str) -> float:
        """Sum a counter over everything that carries the given tags."""
        wanted = [(metric.tags.index(name), value) for name, value in tags.items()]
        return sum(
            value
            for (found, values), value in self.sums.items()
            if found is metric and all(values[place] == expected for place, expected in wanted)
        )

    def flush(self) -> None:
        """Hand on what was recorded, where there is somebody to hand it to."""

    def render(self) -> str:
        """Write this process's sums as Prometheus' text."""
        lines: list[str] = []
        for metric in METRICS:
            lines += [f"# HELP {metric.exported} {metric.meaning}", f"# TYPE {metric.exported} {metric.kind}"]
            for (found, tags), value in sorted(self.sums.items(), key=lambda item: item[0][1]):
                if found is metric:
                    lines.append(f"{_sample(metric, tags)} {value:g}")
            for (found, tags), counts in self._histograms.items():
                if found is metric:
                    lines += _buckets(metric, tags, counts)
        return "\n".join(lines) + "\n"


def _sample(metric: Metric, tags: _Tags, suffix: str = "", **more: str) -> str:
    pairs = {**dict(zip(metric.tags, tags, strict=True)), **more}
    labels = ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items())
    return f"{metric.exported}{suffix}{'{' + labels + '}' if labels else ''}"


def _buckets(metric: Metric, tags: _Tags, counts: list[float]) -> list[str]:
    lines, seen = [], 0.0
    for boundary, count in zip((*metric.boundaries, float("inf")), counts, strict=False):
        seen += count
        lines.append(
            f"{_sample(metric, tags, '_bucket', le='+Inf' if boundary == float('inf') else f'{boundary:g}')} {seen:g}"
        )
    return [*lines, f"{_sample(metric, tags, '_sum')} {counts[-1]:g}", f"{_sample(metric, tags, '_count')} {seen:g}"]


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class RayMetrics(Metrics):
    """Hands everything to Ray's metrics at each `flush`; call it from one thread."""

    def __init__(self) -> None:
        super().__init__()
        from ray.serve import metrics as ray_metrics

        kinds: Mapping[str, Any] = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}
        self._ray = {
            metric: ray_metrics.Histogram(metric.name, metric.meaning, list(metric.boundaries), metric.tags)
            if metric.kind == "histogram"
            else kinds[metric.kind](metric.name, metric.meaning, metric.tags)
            for metric in METRICS
        }
        self._sent: dict[tuple[Metric, _Tags], float] = {}
        self._observed: list[tuple[Metric, float, _Tags]] = []

    def observe(self, metric: Metric, value: float, *tags: str) -> None:
        super().observe(metric, value, *tags)
        self._observed.append((metric, value, tags))

    def flush(self) -> None:
        observed, self._observed = self._observed, []
        for metric, value, tags in observed:
            self._ray[metric].observe(value, dict(zip(metric.tags, tags, strict=True)))
        for key, value in list(self.sums.items()):
            sent = self._sent.get(key)
            metric, tags = key
            if value == (sent if metric.kind == "gauge" else sent or 0.0):  # Ray refuses to count nothing
                continue
            named = dict(zip(metric.tags, tags, strict=True))
            if metric.kind == "gauge":
                self._ray[metric].set(value, named)
            else:
                self._ray[metric].inc(value - (sent or 0.0), named)
            self._sent[key] = value
