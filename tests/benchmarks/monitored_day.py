"""A large day of verdicts through the monitoring job: how long, and does memory grow with the day?

Days of 30,000 and of 300,000 decisions in nine markets, with the event in each record as the endpoint keeps it, each in
files of two minutes and, a second time, as `jobs.cancellation_compact` puts them together; eight small days before
them are counted already, so that the day itself is what is measured. Each run is the whole job in a process of its own:
a Ray of its own, report, MLflow, 1 % of the day reviewed, 2,000 texts read by the model that ships. Memory is the peak
of the job's resident set, and of what it and all of Ray's processes have between them (PSS, looked at twice a second).

    python -m tests.benchmarks.monitored_day [decisions of the large day, default 300000]
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from cancellation.events.event import event_mapping
from cancellation.serving.records.compaction import compact
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.tracking import TrackingSettings
from jobs.cancellation_monitor import MonitorJob, main
from tests.builders.monitored_days import DAY, decisions, feedback, ship, ship_feedback
from tests.conftest import PROJECT

MARKETS = ("BR", "CO", "ID", "MX", "MY", "PH", "SG", "TH", "VN")
_PARTS = 10
"""A day is made in parts, so that the one who makes it is no larger than the one who reads it."""


def _texts(number: int = 3000) -> pa.Array:
    events = simulate(SimulationSettings(num_events=number), 5)
    return pa.array([json.dumps(event_mapping(one.event), ensure_ascii=False) for one in events])


def write_day(archive: Path, num_events: int) -> tuple[int, int]:
    """Write a day in files of two minutes; give the number of files and bytes."""
    texts, random = _texts(), np.random.default_rng(0)
    place = decisions(DAY, 1).schema.get_field_index("event")
    reviews = []
    for part in range(_PARTS):
        table = decisions(DAY, num_events // _PARTS, seed=part, markets=MARKETS, prefix=f"p{part}")
        told = texts.take(pa.array(random.integers(len(texts), size=len(table))))
        table = table.set_column(place, table.schema.field(place), told)
        reviews += feedback(table, DAY, num_events // _PARTS // 100)
        for minute, piece in _by_minutes(table):
            ship(archive, piece, name=f"{minute:04d}-{part}")
    ship_feedback(archive, sorted(reviews, key=lambda one: one["received_at"]))
    files = list((archive / "decisions").rglob("*.parquet"))
    return len(files), sum(path.stat().st_size for path in files)


def _by_minutes(table: pa.Table, minutes: int = 2 * _PARTS) -> Iterator[tuple[int, pa.Table]]:
    """Cut a tenth of a day so that all parts together have the files of ten gateways or of two minutes."""
    instants = table["received_at"]
    number = np.asarray(pc.add(pc.multiply(pc.hour(instants), 60), pc.minute(instants))) // minutes
    for one in np.unique(number):
        yield int(one), table.filter(pa.array(number == one))


def _job(archive: Path, out: Path) -> MonitorJob:
    tracking = TrackingSettings(uri=f"sqlite:///{out}/mlflow.db")
    model = PROJECT / "cancellation" / "small_model"
    return MonitorJob(archive=str(archive), output=str(out / "out"), model=str(model), day=DAY, tracking=tracking)


def run_child(archive: Path, out: Path) -> None:
    """Monitor the day; print seconds, peak and what was counted."""
    started = time.monotonic()
    with _all_processes() as together:
        main(_job(archive, out))
    record = json.loads((out / "out" / str(DAY) / "report.json").read_text())
    figures = {"seconds": round(time.monotonic() - started, 1), "peak_mib": _peak_mib(), "with_ray_mib": max(together)}
    print(json.dumps({**figures, "decisions": record["figures"]["decisions"]}))


@contextmanager
def _all_processes() -> Iterator[list[int]]:
    """Note what this process and those below it hold, in MiB, for the length of a block."""
    found, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            here = psutil.Process()
            sizes = []
            for one in (here, *here.children(recursive=True)):
                with suppress(psutil.Error):
                    sizes.append(one.memory_full_info().pss)
            found.append(sum(sizes) // 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _peak_mib() -> int:
    """Read this process's own peak: `getrusage` would give that of the larger one that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def measure(folder: Path, num_events: int) -> list[dict[str, float]]:
    """Measure one size, first in small files, then in one file a market."""
    archive, out = folder / "archive", folder / "out"
    out.mkdir()
    for back in range(8, 0, -1):
        ship(archive, decisions(DAY - timedelta(days=back), 900, markets=MARKETS), num_hours=1)
    main(_job(archive, out))
    found = []
    for shape in ("segments", "compacted"):
        if shape == "segments":
            files, size = write_day(archive, num_events)
        else:
            compact(str(archive), before=DAY + timedelta(days=1))
            compacted = list((archive / "decisions").rglob(f"day={DAY}/*.parquet"))
            files, size = len(compacted), sum(path.stat().st_size for path in compacted)
        figures = _in_a_process(archive, out)
        found.append({"shape": shape, "files": files, "mib": round(size / 2**20), **figures})
        print(found[-1], flush=True)
    return found


def measure_month(folder: Path) -> dict[str, float]:
    """Measure a first run: 29 small days, nothing counted yet."""
    archive, out = folder / "archive", folder / "out"
    out.mkdir()
    for back in range(29):
        ship(archive, decisions(DAY - timedelta(days=back), 200, markets=MARKETS), num_hours=1)
    found = {"shape": "29 days of 200", "files": len(list((archive / "decisions").rglob("*.parquet")))}
    return {**found, **_in_a_process(archive, out)}


def _in_a_process(archive: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.monitored_day", "--child", str(archive), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(num_events: int) -> None:
    """Measure a month of small days and both sizes; the last line is one JSON object."""
    with tempfile.TemporaryDirectory(prefix="monitored-month-") as folder:
        results = [measure_month(Path(folder))]
    print(results[0], flush=True)
    for size in (num_events // 10, num_events):
        with tempfile.TemporaryDirectory(prefix="monitored-day-") as folder:
            results += measure(Path(folder), size)
    print(json.dumps({"machine": platform.processor() or platform.machine(), "results": results}))


if __name__ == "__main__":
    if "--child" in sys.argv:
        run_child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        run(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)
