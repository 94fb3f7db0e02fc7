"""The scoring job's data path without a model: how many pairs a second, and does memory grow with the input?

Everything of the job is real (parquet in, plan, partitioning, label store, tokenising, Ray Data, commit, report) but
the engine, whose answers are hashes. Two inputs, the second ten times the first, each in a process of its own; memory
is the peak of the sum of proportional set sizes (PSS) of the driver and all Ray workers, shared blocks counted once.
What the second input took more than the first is drawn on to 100 million and a billion pairs (docs/scale.md).

    python -m tests.benchmarks.data_path [pairs of the large input, default 2000000]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

PAIRS_PER_PRODUCT = 10
QUERIES = 50_000
FILE_ROWS = 100_000
SHARD_ROWS = 20_000
_STARTS = ("ba", "co", "di", "fu", "gre", "ho", "ki", "lam")
_ENDS = ("n", "rel", "sk", "tter", "ven", "wick", "mp", "ster", "lo", "ra", "th", "ble")
_WORDS = [start + end for start in _STARTS for end in _ENDS]


def write_input(folder: Path, num_pairs: int) -> None:
    """Write pairs of ten per product: title 12 words, description 40 words, query 3 words, shuffled in files."""
    random = np.random.default_rng(0)
    words = np.array(_WORDS, dtype=object)
    num_products = num_pairs // PAIRS_PER_PRODUCT
    titles = pa.array([" ".join(row) for row in words[random.integers(len(words), size=(num_products, 12))]])
    texts = pa.array([" ".join(row) for row in words[random.integers(len(words), size=(num_products, 40))]])
    queries = pa.array([" ".join(row) for row in words[random.integers(len(words), size=(QUERIES, 3))]])
    order = random.permutation(num_pairs)
    folder.mkdir(parents=True)
    for number, rows in enumerate(np.array_split(order, max(1, num_pairs // FILE_ROWS))):
        product = pa.array(rows // PAIRS_PER_PRODUCT)
        table = {
            "query_id": pa.array([f"q{row}" for row in rows]),
            "query": queries.take(pa.array(rows % QUERIES)),
            "product_id": pa.array([f"p{row}" for row in rows // PAIRS_PER_PRODUCT]),
            "title": titles.take(product),
            "description": texts.take(product),
        }
        pq.write_table(pa.table(table), folder / f"{number:04d}.parquet")


class PeakMemory:
    """Samples the memory of this process and the Ray workers below it."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(1.0):  # each look takes a twentieth of a second, which the job lacks
            total = 0
            for process in [driver, *driver.children(recursive=True)]:
                try:
                    if process == driver or process.cmdline()[0].startswith("ray::"):
                        total += process.memory_full_info().pss
                except (psutil.Error, IndexError):
                    continue
            self.peak_bytes = max(self.peak_bytes, total)

    def stop(self) -> int:
        self._stop.set()
        return self.peak_bytes


def measure(input_dir: str, output_dir: str) -> dict[str, float]:
    """Run the job over an input in this process; seconds exclude starting Ray."""
    from cluster.provenance import collect_provenance
    from cluster.session import SessionSettings, ray_session
    from relevance.engines.label_model import open_label_model
    from relevance.scoring.day import score_day
    from relevance.scoring.figures import ScoringFigures
    from relevance.scoring.report import ReportSettings, report_files
    from relevance.scoring.run import ScoringSettings, open_run
    from tests.builders.fakes import load_fake_engine

    model = open_label_model("relevance/small_model", None, quantization="none", cache_dir=output_dir)
    run = open_run(input_dir, output_dir, model, ScoringSettings(shard_rows=SHARD_ROWS))

    def report(figures: ScoringFigures, seconds: float) -> Mapping[str, bytes]:
        found = {**figures.as_dict(), "seconds": seconds}
        return report_files(run, found, None, ReportSettings(), collect_provenance())

    with ray_session(SessionSettings(object_store_gib=0.5)):
        memory, started = PeakMemory(), time.perf_counter()
        day = score_day(run, extras=report, load=load_fake_engine)
        seconds = time.perf_counter() - started
    pairs = day.figures["counts"]["read"]
    return {
        "pairs": pairs,
        "seconds": seconds,
        "pairs_per_second": pairs / seconds,
        "peak_memory_mib": memory.stop() / 2**20,
        "engine_wait_fraction": day.figures["waiting_seconds"]
        / (day.figures["waiting_seconds"] + day.figures["engine_seconds"]),
        **_on_disk("scores", Path(run.output.url)),
        **_on_disk("store", Path(run.store.url)),
    }


def _on_disk(name: str, folder: Path) -> dict[str, float]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{name}_objects": len(files), f"{name}_bytes": sum(path.stat().st_size for path in files)}


def drawn_on(small: Mapping[str, float], big: Mapping[str, float], pairs: int) -> dict[str, float]:
    """Draw the line through two measurements on to another number of pairs: hours, objects and GB."""
    ratio = (pairs - small["pairs"]) / (big["pairs"] - small["pairs"])

    def at(name: str) -> float:
        return small[name] + ratio * (big[name] - small[name])

    return {
        "pairs": pairs,
        "hours": at("seconds") / 3600,
        "scores_objects": at("scores_objects"),
        "scores_gb": at("scores_bytes") / 1e9,
        "store_objects": at("store_objects"),
        "store_gb": at("store_bytes") / 1e9,
    }


def main() -> None:
    """Measure both sizes and print the table and the JSON line."""
    large = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    results = []
    with tempfile.TemporaryDirectory(prefix="data-path-") as folder:
        for pairs in (large // 10, large):
            place = Path(folder) / str(pairs)
            write_input(place / "pairs", pairs)
            command = [sys.executable, "-m", "tests.benchmarks.data_path", "--child", str(place / "pairs")]
            done = subprocess.run([*command, str(place / "scores")], stdout=subprocess.PIPE, check=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result)
            figures = f"{result['seconds']:>7.1f} s {result['pairs_per_second']:>9,.0f} pairs/s"
            print(f"{pairs:>10,} pairs {figures} {result['peak_memory_mib']:>7,.0f} MiB peak", file=sys.stderr)
    small, big = results
    for pairs in (100_000_000, 1_000_000_000):
        drawn = drawn_on(small, big, pairs)
        print(
            f"{pairs:>13,} pairs, drawn on: {drawn['hours']:,.1f} h on this machine's cores; scores "
            f"{drawn['scores_gb']:,.1f} GB in {drawn['scores_objects']:,.0f} objects, label store "
            f"{drawn['store_gb']:,.1f} GB in {drawn['store_objects']:,.0f}",
            file=sys.stderr,
        )
    print(
        json.dumps(
            {
                "pairs": big["pairs"],
                "pairs_per_second": round(big["pairs_per_second"]),
                "marginal_pairs_per_second": round(
                    (big["pairs"] - small["pairs"]) / (big["seconds"] - small["seconds"])
                ),
                "peak_memory_mib": round(big["peak_memory_mib"]),
                "peak_memory_ratio": round(big["peak_memory_mib"] / small["peak_memory_mib"], 3),
                "engine_wait_fraction": round(big["engine_wait_fraction"], 3),
                "scores_bytes_per_pair": round(big["scores_bytes"] / big["pairs"], 1),
                "store_bytes_per_pair": round(big["store_bytes"] / big["pairs"], 1),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    else:
        main()
