"""Days of pairs on a Ray cluster of several nodes, driven by processes that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.commit import read_job_manifest
from tests.builders.fakes import SleepingLoader
from tests.builders.pairs_data import read_committed, read_visible
from tests.servers import namespace
from tests.slow.faults.tally import Tally

NUM_PAIRS, SHARD_ROWS = 240, 20
PAIRS_PER_SECOND = 60.0
"""Of the engine that sleeps: a shard takes a third of a second, so that a kill meets one under way."""
LOADER = SleepingLoader(PAIRS_PER_SECOND)
MANY = 10**6
"""Deaths that a shard survives here: the campaign kills more often than the three by which a shard is given up."""
DAY_SECONDS = 240
_SPAWN = multiprocessing.get_context("spawn")
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["relevance.scoring.day"])


@dataclass(frozen=True)
class Day:
    """One day of pairs to score; cheap to send to a driver."""

    input: str
    output: str
    model: str
    address: str
    load: Any = LOADER
    max_deaths: int = MANY

    @property
    def committed(self) -> bool:
        return read_job_manifest(self.output) is not None


def drive(day: Day, log: str) -> None:
    """Score a day, in a process of its own; status 1 and the reason in the log where that fails."""
    import ray

    from relevance.engines.label_model import open_label_model
    from relevance.scoring.day import score_day
    from relevance.scoring.run import ScoringSettings, open_run

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    host = day.address.rpartition(":")[0]
    ray.init(day.address, _node_ip_address=host, log_to_driver=False, logging_level="ERROR")
    settings = ScoringSettings(
        shard_rows=SHARD_ROWS,
        min_actors=1,
        max_actors=2,
        cpus_per_actor=0.5,
        max_deaths_per_shard=day.max_deaths,
        max_poisoned_fraction=0.2,
        max_failed_fraction=0.3,
    )
    model = open_label_model(day.model, None, quantization="none", cache_dir=f"{log}-cache")
    try:
        score_day(open_run(day.input, day.output, model, settings), load=day.load)
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:500]}", file=sys.stderr, flush=True)
        sys.exit(1)


class RayNodes:
    """A head without work and two nodes with it, all on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._size()})
        for _ in range(2):
            self.add()

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self) -> None:
        self.cluster.add_node(num_cpus=2, **self._size())

    def stop(self) -> None:
        """End it, and whatever of it has lost its parent."""
        with suppress(Exception):  # of a head that was killed there is not much to end in order
            self.cluster.shutdown()
        for process in ray_processes():
            with suppress(psutil.Error):
                process.kill()

    def _size(self) -> dict[str, Any]:
        return {"object_store_memory": 100 * 2**20, "include_dashboard": False}


def own_processes() -> list[psutil.Process]:
    """Living processes but this one: of the namespace, or without one those that are below this one."""
    found = psutil.process_iter() if namespace.is_inside() else psutil.Process().children(recursive=True)
    return [one for one in found if one.pid != os.getpid() and words(one)]


def words(process: psutil.Process) -> list[str]:
    """The command line; empty of one that has ended."""
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except psutil.Error:
        return []


def ray_processes(*names: str) -> list[psutil.Process]:
    """Own processes whose program begins or is named so; all of Ray's without any."""
    found = []
    for process in own_processes():
        program, *more = words(process) or [""]
        is_ray = program.startswith("ray::") or any("site-packages/ray/" in word for word in (program, *more))
        if is_ray and (not names or program.startswith(names) or Path(program).name in names):
            found.append(process)
    return found


@dataclass
class Campaign:
    """Days that are begun, disturbed, begun again until they are done, and compared with a calm one."""

    folder: Path
    input: str
    outputs: str
    model: str
    chance: Random
    nodes: RayNodes
    calm: list[dict] = field(default_factory=list)
    calm_seconds: float = 0.0
    fresh_drivers: bool = False
    """Whether drivers are started from nothing, and so with the environment of now."""

    def new_day(self, **changes: Any) -> Day:
        output = f"{changes.pop('outputs', self.outputs)}/{uuid.uuid4().hex[:8]}"
        return Day(self.input, output, self.model, self.nodes.address, **changes)

    def start(self, day: Day) -> Any:
        context = _SPAWN if self.fresh_drivers else _FORKED
        process = context.Process(target=drive, args=(day, str(self.folder / "drivers.log")))
        process.start()
        return process

    def finish(self, day: Day, tally: Tally, *, tries: int = 6, process: Any = None) -> Day:
        """Begin a day again and again until it is committed."""
        for _ in range(tries):
            process = process or self.start(day)
            process.join(DAY_SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join()
                break
            if process.exitcode == 0:
                return day  # whether it is committed is looked at by `check`
            process = None
            day = Day(**{**day.__dict__, "address": self.nodes.address})
        return day

    def run_calm(self) -> Day:
        """The rows, and the time, that everything else is compared with."""
        for _ in range(2):  # the first one loads what later ones find loaded
            tally, day, began = Tally("calm"), self.new_day(), time.monotonic()
            self.finish(day, tally, tries=1)
            self.calm_seconds = time.monotonic() - began
            if not day.committed:
                raise RuntimeError(f"a calm day fails: {(self.folder / 'drivers.log').read_text()[-2000:]}")
        self.calm = read_committed(day.output)
        return day

    def check(self, day: Day, tally: Tally) -> None:
        """Compare a day that should be done."""
        if not day.committed:
            tally.unfinished += 1
        elif self.look(day, tally):
            tally.compare(read_committed(day.output), self.calm)

    def look(self, day: Day, tally: Tally) -> bool:
        """See an output as a reader does who trusts its marker, or globs its files: whether its files can be read."""
        try:
            for file in storage.list_files(day.output, suffix=".parquet"):
                if "/_" not in file.url[len(day.output) :]:
                    pq.read_metadata(pa.BufferReader(storage.read_bytes(file.url)))
            if day.committed and len(read_committed(day.output)) != NUM_PAIRS:
                tally.half_written += 1
            if len(read_visible(day.output)) > NUM_PAIRS:
                tally.half_written += 1
        except FileNotFoundError:
            pass  # listed, and published anew at this moment
        except Exception:
            tally.half_written += 1
            return False
        return True

    @contextmanager
    def timed(self, tally: Tally) -> Iterator[None]:
        """A round: the time that it takes beyond a calm one is lost."""
        began = time.monotonic()
        yield
        tally.rounds += 1
        tally.seconds.append(time.monotonic() - began - self.calm_seconds)


def kill(process: psutil.Process | Any) -> bool:
    """SIGKILL; False if it was gone."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
