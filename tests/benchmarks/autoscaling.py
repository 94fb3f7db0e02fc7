"""How fast the scoring pool grows with the work, how well engines are fed, and how it shrinks, on Ray's autoscaler.

Ray's own `AutoscalingCluster` (fake multi-node provider: every node is a raylet on this machine) with the speed of
`ray_cluster.yaml`, pretend GPUs, and an engine that sleeps as long as a real one would compute. Everything else of the
job is real. It runs in namespaces of its own, since the cluster of Ray's tests stops every Ray that it sees.

    python -m tests.benchmarks.autoscaling [actors, default 8] [shards per actor, default 8]

Prints seconds from the work being there (shards cut) to all nodes asked for, all there and all engines loaded; the
share of time that engines waited; wall-clock efficiency while the pool was full; shares of the cores that were used
meanwhile, by all processes and by those of this command; seconds until all GPU nodes were gone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from relevance.engines.interface import LabelScores, TokenBatch
from relevance.engines.label_model import LabelModel
from relevance.engines.settings import EngineSettings
from tests.builders.fakes import SleepingEngine
from tests.servers import namespace

PROJECT = Path(__file__).resolve().parents[2]
SHARD_ROWS = 5_000
"""Six seconds of an engine; a day's own shards are ten times as long."""
PAIRS_PER_SECOND = 850.0
"""Of an 8B model on one H100 (docs/benchmarks.md)."""
IDLE_SECONDS = 20
CORES = 3
"""Of a pretended node."""


class WatchedEngine(SleepingEngine):
    """Notes when it worked."""

    def __init__(self, mark: Path) -> None:
        super().__init__(PAIRS_PER_SECOND)
        self._mark = mark

    def label_logprobs(self, batch: TokenBatch) -> LabelScores:
        began = time.time()
        scores = super().label_logprobs(batch)
        with self._mark.open("a") as file:
            file.write(json.dumps([began, time.time()]) + "\n")
        return scores


@dataclass(frozen=True)
class WatchedLoader:
    """Loads an engine and notes when."""

    marks: str

    def __call__(self, settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> WatchedEngine:
        path = Path(self.marks) / f"{os.getpid()}.jsonl"
        path.write_text(json.dumps([time.time(), time.time()]) + "\n")
        return WatchedEngine(path)


@dataclass
class Growth:
    """Seconds since the work was there."""

    asked: float = 0.0
    """All nodes with a GPU asked for."""
    nodes: float = 0.0
    """All of them there."""
    engines: float = 0.0
    """All engines loaded."""


class Watch:
    """Looks at the autoscaler's own report and at the nodes, several times a second."""

    def __init__(self, gcs_address: str, wanted: int) -> None:
        from ray._raylet import GcsClient

        self._gcs = GcsClient(address=gcs_address)
        self.wanted, self.growth, self.since = wanted, Growth(), 0.0
        self.launched: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        """The work is there."""
        self.since = time.time()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def gpu_nodes(self) -> int:
        import ray

        return sum(node["Alive"] and node["Resources"].get("GPU", 0) > 0 for node in ray.nodes())

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            now, asked, there = time.time() - self.since, self._asked(), self.gpu_nodes()
            if not self.launched or self.launched[-1][1] != asked:
                self.launched.append((round(now, 1), asked))
            if not self.growth.asked and asked >= self.wanted:
                self.growth.asked = now
            if not self.growth.nodes and there >= self.wanted:
                self.growth.nodes = now

    def _asked(self) -> int:
        """Nodes that the autoscaler has launched or is launching."""
        raw = self._gcs.internal_kv_get(b"__autoscaling_status", None)
        report = json.loads(raw)["autoscaler_report"] if raw else {}
        active, launching = report.get("active_nodes") or {}, report.get("pending_launches") or {}
        starting = sum(kind == "gpu_worker" for _, kind, *_ in report.get("pending_nodes") or ())
        return active.get("gpu_worker", 0) + launching.get("gpu_worker", 0) + starting


class Cores:
    """What the machine's cores did, once a second: of all processes, and of those that this command has started."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float, float]] = []
        self._own: dict[int, float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def shares(self, began: float, ended: float) -> tuple[float, float]:
        """Shares of the cores' time between two moments that all processes had, and that those of this command had."""
        first, *_, last = [seen for seen in self._seen if began - 1 <= seen[0] <= ended + 1]
        seconds = (last[0] - first[0]) * (os.cpu_count() or 1)
        return (last[1] - first[1]) / seconds, (last[2] - first[2]) / seconds

    def _look(self) -> None:
        while True:
            times = psutil.cpu_times()
            for process in psutil.process_iter():  # in a namespace of its own there are no others
                with suppress(psutil.Error):
                    self._own[process.pid] = sum(process.cpu_times()[:2])
            busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal
            self._seen.append((time.time(), busy, sum(self._own.values())))
            time.sleep(1)


def start_cluster(actors: int) -> Any:
    """A head without work, and the worker kinds of `ray_cluster.yaml` in pretence."""
    import yaml
    from ray.cluster_utils import AutoscalingCluster

    shipped = yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text())
    memory = {"object_store_memory": 150 * 2**20}
    most = {"cpu_worker": 2, "gpu_worker": actors}
    kinds = {
        name: {
            # Ray starts a process for each core that a node says it has.
            "resources": {**shipped["available_node_types"][name]["resources"], "CPU": CORES, **memory},
            "node_config": {},
            "min_workers": 0,
            "max_workers": number,
        }
        for name, number in most.items()
    }
    empty_lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")

    class Fake(AutoscalingCluster):
        def _generate_config(self, head_resources: dict, worker_node_types: dict, **more: Any) -> dict[str, Any]:
            # Ray's own begins with a file that its wheels lack.
            head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
            return {
                "cluster_name": "fake",
                "provider": {
                    "type": "fake_multinode",
                    "use_node_id_as_ip": True,
                    "disable_node_updaters": True,
                    "disable_launch_config_check": True,
                },
                "available_node_types": {**worker_node_types, "ray.head.default": head},
                "head_node_type": "ray.head.default",
                "max_workers": sum(most.values()),
                "upscaling_speed": shipped["upscaling_speed"],
                "idle_timeout_minutes": IDLE_SECONDS / 60,
                **{f"{name}_commands": [] for name in empty_lists},
                **{name: {} for name in ("auth", "docker", "file_mounts")},
                **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
                "file_mounts_sync_continuously": False,
            }

    cluster = Fake({"CPU": 0, **memory}, kinds)
    # A real monitor looks every five seconds; Ray's tests would make it one. A real node has its cores to itself.
    cluster.start(
        override_env={"PYTHONPATH": str(PROJECT), "AUTOSCALER_UPDATE_INTERVAL_S": "5", "RAY_worker_niceness": "0"}
    )
    return cluster


def measure(actors: int, shards_per_actor: int, folder: Path) -> dict[str, Any]:
    """Score a day on a cluster that begins without any GPU."""
    import ray

    from relevance.engines.label_model import open_label_model
    from relevance.pairs.files import find_splits
    from relevance.scoring.day import score_day
    from relevance.scoring.planning import count_shards
    from relevance.scoring.run import ScoringSettings, open_run, partition_input
    from tests.benchmarks.data_path import write_input

    pairs = actors * shards_per_actor * SHARD_ROWS
    write_input(folder / "pairs", pairs)
    marks = folder / "marks"
    marks.mkdir()
    ray.init("auto", log_to_driver=False)
    watch = Watch(ray.get_runtime_context().gcs_address, actors)
    model = open_label_model("relevance/small_model", None, quantization="none", cache_dir=str(folder))
    settings = ScoringSettings(
        shard_rows=SHARD_ROWS, max_actors=actors, gpus_per_actor=1, cpus_per_actor=1, dtype="float32"
    )
    run = open_run(str(folder / "pairs"), str(folder / "scores"), model, settings)
    splits = find_splits(run.input)
    partition_input(run, splits, count_shards(splits, shard_rows=SHARD_ROWS))  # what `score_day` finds done
    watch.start()
    cores = Cores()
    started = time.time()
    figures = score_day(run, load=WatchedLoader(str(marks))).figures
    seconds = time.time() - started
    watch.stop()
    print(f"to a full pool: {watch.growth}, over time: {watch.launched}", file=sys.stderr, flush=True)
    worked = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(marks.iterdir())]
    loaded = sorted(calls[0][0] for calls in worked)
    assert len(loaded) == actors, f"{len(loaded)} engines, {actors} wanted"
    full, last = loaded[-1], max(call[1] for calls in worked for call in calls)
    watch.growth.engines = full - watch.since
    # Of calls that began before the pool was full only what lies behind that moment counts.
    busy = sum(max(0.0, end - max(full, began)) for calls in worked for began, end in calls)
    first = sum(calls[1][0] - calls[0][1] for calls in worked if len(calls) > 1)
    ended = time.time()
    while watch.gpu_nodes():
        assert time.time() - ended < 180, "nodes that are idle do not go"
        time.sleep(0.5)
    return {
        "actors": actors,
        "pairs": pairs,
        "labelled": figures["counts"]["labelled"] + figures["counts"]["repeated"] + figures["counts"]["reused"],
        "seconds_to_full_pool": {name: round(value, 1) for name, value in asdict(watch.growth).items()},
        "asked_over_time": watch.launched,
        "engine_wait_fraction": round(
            figures["waiting_seconds"] / (figures["waiting_seconds"] + figures["engine_seconds"]), 4
        ),
        "of_it_before_an_engine_s_first_shard": round(first / max(1e-9, figures["waiting_seconds"]), 4),
        "efficiency_of_full_pool": round(busy / (actors * (last - full)), 4),
        "cores_used_by_all_and_by_this": [round(share, 3) for share in cores.shares(full, last)],
        "seconds": round(seconds, 1),
        "seconds_until_gpus_gone": round(time.time() - ended, 1),
        "idle_timeout_seconds": IDLE_SECONDS,
    }


def main() -> None:
    """Measure and print one JSON line."""
    actors = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    shards = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    if not namespace.is_inside():
        if not namespace.available():
            sys.exit("error: no namespaces on this machine (unshare), and Ray's test cluster stops every Ray it sees")
        own = namespace.command(sys.executable, "-m", "tests.benchmarks.autoscaling", str(actors), str(shards))
        os.execvp(own[0], own)
    with tempfile.TemporaryDirectory(prefix="as-", dir="/tmp") as folder:
        os.environ |= {
            "RAY_TMPDIR": folder,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        cluster = start_cluster(actors)
        try:
            print(json.dumps(measure(actors, shards, Path(folder) / "day")), flush=True)
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
