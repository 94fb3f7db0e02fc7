"""What one verdict costs: encoding an event and scoring it with the shipped model, alone and in batches.

    taskset -c 0 python -m tests.benchmarks.cancellation_model [MODEL_FOLDER]

A table on standard error, one JSON object as the last line: milliseconds per event on one core, median and 99th
percentile over rounds, for the median event (12 chat messages). Wall time and, because a neighbour's load makes
that worthless, the process's own CPU time; rounds of all contenders take turns.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cancellation.model.verdict_model import load_verdict_model
from cancellation.simulation.simulator import SimulationSettings, simulate

_ROUNDS = 60
_MEDIAN_MESSAGES = 12
_EVENTS = 32
_SHIPPED = Path(__file__).resolve().parents[2] / "cancellation" / "small_model"


def main(folder: Path) -> None:
    """Measure and print."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model = load_verdict_model(folder, num_threads=1)
    drawn = simulate(SimulationSettings(num_events=6000), 7)
    events = [item.event for item in drawn if len(item.event.chat) == _MEDIAN_MESSAGES][:_EVENTS]
    encoded = [model.encoder.encode(event) for event in events]

    def whole(count: int) -> Callable[[], object]:
        return lambda: model.score([model.encoder.encode(event) for event in events[:count]])

    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "encode": (lambda: [model.encoder.encode(event) for event in events[:16]], 16),
        "score_1": (lambda: model.score(encoded[:1]), 1),
        "score_16": (lambda: model.score(encoded[:16]), 16),
        "score_32": (lambda: model.score(encoded[:32]), 32),
        "whole_1": (whole(1), 1),
        "whole_16": (whole(16), 16),
        "whole_32": (whole(32), 32),
    }
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    own: dict[str, list[float]] = {name: [] for name in contenders}
    for run, _ in contenders.values():
        run()
    for _ in range(_ROUNDS):
        for name, (run, count) in contenders.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            wall[name].append((time.perf_counter() - started) / count * 1e3)
            own[name].append((time.process_time() - used) / count * 1e3)
    figures: dict[str, object] = {"model": model.version, "cpu": platform.processor() or platform.machine()}
    figures["tokens"] = int(np.median([len(event.token_ids) for event in encoded]))
    figures["megabytes"] = round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 2)
    for name in contenders:
        p50, p99 = np.quantile(wall[name], [0.5, 0.99])
        figures[name] = {"p50": round(p50, 3), "p99": round(p99, 3), "cpu_p50": round(float(np.median(own[name])), 3)}
        print(f"{name:10} p50 {p50:7.3f} ms  p99 {p99:7.3f} ms  cpu {np.median(own[name]):7.3f} ms", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _SHIPPED)
