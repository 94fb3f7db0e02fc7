"""What one event costs before the model: parsing, features, timeline, rules; and a table of them.

    python -m tests.benchmarks.cancellation_features

A table on standard error, one JSON object as the last line. Every figure is the median over rounds of the mean
per event in microseconds, on one core; rounds of all contenders take turns, so that a neighbour's load falls on
all alike. The median event has 12 chat messages; features of it may take 300 µs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

from cancellation.decision.rules import judge
from cancellation.events.event import event_mapping, parse_event
from cancellation.features.vector import feature_table, features
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.text.timeline import timeline
from cancellation.text.token_budget import fit_timeline

_ROUNDS = 15
_EVENTS = 400
_MEDIAN_MESSAGES = 12


def main() -> None:
    """Measure and print."""
    drawn = list(simulate(SimulationSettings(num_events=20 * _EVENTS), 7))
    median = [item for item in drawn if len(item.event.chat) == _MEDIAN_MESSAGES][:50]
    mixed = [item.event for item in drawn[:_EVENTS]]
    events = [item.event for item in median]
    bodies = [json.dumps(event_mapping(item.event, item.utc_offset_hours)).encode() for item in median]
    mappings = [json.loads(body) for body in bodies]
    timelines = [timeline(event) for event in events]
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "parse_json": (lambda: [parse_event(body) for body in bodies], len(bodies)),
        "parse_mapping": (lambda: [parse_event(mapping) for mapping in mappings], len(mappings)),
        "features_single": (lambda: [features(event) for event in events], len(events)),
        "features_table_median": (lambda: feature_table(events * 8), 8 * len(events)),
        "features_single_mixed": (lambda: [features(event) for event in mixed], len(mixed)),
        "features_table_mixed": (lambda: feature_table(mixed), len(mixed)),
        "timeline": (lambda: [timeline(event) for event in events], len(events)),
        "fit_timeline": (lambda: [fit_timeline(item, _words, _token_id, max_tokens=192) for item in timelines], 50),
        "rules": (lambda: [judge(event) for event in events], len(events)),
        "simulate": (lambda: list(simulate(SimulationSettings(num_events=100), 3)), 100),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run, _ in contenders.values():
        run()
    for _ in range(_ROUNDS):
        for name, (run, count) in contenders.items():
            start = time.process_time()
            run()
            seconds[name].append((time.process_time() - start) / count)
    figures = {f"{name}_us": round(1e6 * statistics.median(values), 1) for name, values in seconds.items()}
    for name, figure in figures.items():
        print(f"{name:28} {figure:10.1f}", file=sys.stderr)
    figures["simulated_events_per_second"] = round(1e6 / figures["simulate_us"])
    print(
        json.dumps(
            {
                **figures,
                "body_bytes": _median_size(bodies),
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            }
        )
    )


def _median_size(bodies: list[bytes]) -> int:
    return int(statistics.median(len(body) for body in bodies))


def _words(texts: list[str]) -> list[list[int]]:
    """Stand in for a tokeniser, whose cost is the model's: four characters are a token."""
    return [list(range(-(-len(text) // 4))) for text in texts]


def _token_id(token: str) -> int:
    return hash(token)


if __name__ == "__main__":
    main()
