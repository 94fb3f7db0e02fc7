"""Measure the endpoint, whole and with its model apart, beside a plain FastAPI server: one model, one open-loop load.

Starts each server in processes of its own, the load in another, all on this machine, and prints what it does;
the last line is one JSON object. Twenty minutes; `seconds=10` for a look.

    python -m tests.benchmarks.serving [seconds=60] [step=15] [limit=75] [settings for jobs.cancellation_serve …]

`limit` is the p99 in milliseconds that a rate has to keep. A machine that does other things stalls everybody for longer
than 75 ms now and then: a higher limit still compares the two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.serving.processes import holds, load, server

RATES = (25, 50, 75, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 500)
PORT, PEER_PORT, APART_PORT = 8411, 8412, 8413


def highest_rate(port: int, tokens: Path, seconds: float, limit_ms: float) -> int:
    """Find the highest of the rates that holds, or one half-way to the next; each has two tries, as machines hiccup."""

    def kept(rate: float) -> bool:
        time.sleep(1)
        return any(holds(load(port, tokens, rate, seconds), limit_ms) for _ in range(2))

    best = 0
    for rate in RATES:
        if not kept(rate):
            half_way = (best + rate) // 2
            return half_way if kept(half_way) else best
        best = rate
    return best


def stages(port: int, tokens: Path) -> dict[str, float]:
    """Median time by stage of requests one after the other, as the server says, and as the client sees it."""
    from cancellation.serving.demo.traffic import draw_samples, first_token

    seen: dict[str, list[float]] = {}
    for number, sample in enumerate(draw_samples(60, seed=4)):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/verdicts",
            sample.body(f"stage-{uuid.uuid4().hex}"),
            {"Authorization": f"Bearer {first_token(tokens)}", "Content-Type": "application/json"},
        )
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
            whole = (time.perf_counter() - started) * 1e3
            timing = answer.headers["Server-Timing"]
        if number >= 10:
            seen.setdefault("client", []).append(whole)
            for part in timing.split(", "):
                name, _, value = part.partition(";dur=")
                seen.setdefault(name, []).append(float(value))
        time.sleep(0.05)
    return {name: round(sorted(values)[len(values) // 2], 2) for name, values in seen.items()}


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Memory of the gateway replicas of this run (proportional set size)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"ServeReplica" in (folder / "cmdline").read_bytes() and os.getsid(int(folder.name)):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
        except (OSError, StopIteration):
            continue
    return round(total / 1024, 1)


def overload(port: int, tokens: Path, rate: float, seconds: float, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Send three times what holds, then what holds, and see how soon all is well again."""
    before = memory_mb(process)
    during = load(port, tokens, 3 * rate, seconds)
    after_memory = memory_mb(process)
    after = load(port, tokens, 0.7 * rate, 15)
    return {
        "admitted_p99_ms": during["p99_ms"],
        "admitted_per_second": during["answered_per_second"],
        "refused_p50_ms": during["refused_p50_ms"],
        "refused_p99_ms": during["refused_p99_ms"],
        "statuses": during["statuses"],
        "sources": during["sources"],
        "recovered_after_s": after["last_bad_second"],
        "memory_mb": [before, after_memory],
    }


def main(arguments: list[str]) -> None:
    """Measure both and print the comparison."""
    given = dict(argument.split("=", 1) for argument in arguments)
    seconds, step = float(given.pop("seconds", 60)), float(given.pop("step", 15))
    limit_ms = float(given.pop("limit", 75))
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("benchmark-token-benchmark verdict feedback policy\n")
        tokens.chmod(0o600)

        def ours(program: str, port: int) -> list[str]:
            return [
                program,
                f"service.port={port}",
                f"serving.data_dir={folder}/{port}/data",
                f"serving.output={folder}/{port}/archive",
                f"serving.tokens_file={tokens}",
                *(f"{name}={value}" for name, value in given.items()),
            ]

        os.environ.pop("VERDICTS_TOKENS_FILE", None)
        result: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "limit_ms": limit_ms,
            **given,
        }

        def measured(port: int) -> dict[str, Any]:
            load(port, tokens, 20, 5)
            at_100 = load(port, tokens, 100, seconds)
            return {"at_100": at_100, "highest_rate": highest_rate(port, tokens, step, limit_ms)}

        with server(ours("jobs.cancellation_serve", PORT), PORT) as process:
            result["endpoint"] = measured(PORT) | {"stages_ms": stages(PORT, tokens)}
            rate = max(result["endpoint"]["highest_rate"], 25)
            result["overload"] = overload(PORT, tokens, rate, seconds, process)
        with server(["tests.benchmarks.serving.peer", str(PEER_PORT)], PEER_PORT):
            result["peer"] = measured(PEER_PORT)
        with server(ours("tests.benchmarks.serving.apart", APART_PORT), APART_PORT):
            result["apart"] = measured(APART_PORT) | {"stages_ms": stages(APART_PORT, tokens)}
        if peer := result["peer"]["highest_rate"]:
            result["ratio"] = round(result["endpoint"]["highest_rate"] / peer, 2)
            result["ratio_apart"] = round(result["apart"]["highest_rate"] / peer, 2)
        result["load_average"] = os.getloadavg()[0]
        print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
