"""What is done to days of pairs: processes killed at random times, and a store that misbehaves."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from relevance.engines.label_model import LabelModel
from relevance.engines.settings import EngineSettings
from tests.builders.fakes import DyingEngine
from tests.builders.pairs_data import make_pairs, read_committed
from tests.servers.s3 import S3Server
from tests.slow.faults.scoring import NUM_PAIRS, Campaign, Day, kill, ray_processes
from tests.slow.faults.small_disk import NO_DISK, small_disk
from tests.slow.faults.tally import Tally

ACTOR, TASK, GCS, RAYLET = "ray::MapWorker", "ray::", "gcs_server", "raylet"
LEFT_ALONE = (ACTOR, "ray::RuntimeEnvAgent", "ray::DashboardAgent", "ray::IDLE")
"""By who kills tasks: the first has a row of its own, a node ends with the next two, and the last does nothing."""
FATAL = "q7"


def drivers(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The driver is killed at any moment of its day, up to three times a day."""
    while tally.kills < kills:
        with campaign.timed(tally):
            day = campaign.new_day()
            for _ in range(min(kills - tally.kills, campaign.chance.randint(1, 3))):
                process = campaign.start(day)
                process.join(campaign.chance.uniform(0.5, campaign.calm_seconds))
                tally.kills += process.exitcode is None and kill(process)
                process.join()
                campaign.look(day, tally)
            campaign.finish(day, tally)
            campaign.check(day, tally)


def processes(*names: str, besides: tuple[str, ...] = ()) -> Callable[[Campaign, Tally, int], None]:
    """Processes of Ray are killed one after the other while a day is worked on."""

    def strike(campaign: Campaign, tally: Tally, kills: int) -> None:
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                # Whoever kills without end is never done: five a day, and then it is left alone.
                for _ in range(min(kills - tally.kills, 5)):
                    driver.join(campaign.chance.uniform(0.1, 3.0))
                    left_alone = {one.pid for one in ray_processes(*besides)} if besides else set()
                    found = [one for one in ray_processes(*names) if one.pid not in left_alone]
                    if found and driver.exitcode is None:
                        tally.kills += kill(campaign.chance.choice(found))
                    campaign.look(day, tally)
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)

    return strike


def nodes_lost(campaign: Campaign, tally: Tally, kills: int) -> None:
    """A node's raylet is killed, and all its workers with it; another node comes."""
    _each_day(campaign, tally, kills, lambda: _lose_node(campaign))


def nodes_preempted(campaign: Campaign, tally: Tally, kills: int) -> None:
    """A node is drained with a notice of two seconds, as a cloud gives it before it takes a machine away."""
    _each_day(campaign, tally, kills, lambda: _lose_node(campaign, notice=2.0))


def heads_lost(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The head is killed: the cluster begins anew without any memory, and the job is begun again on it."""

    def strike() -> None:
        for process in ray_processes(GCS, RAYLET):
            kill(process)
        campaign.nodes.stop()
        campaign.nodes.start()

    _each_day(campaign, tally, kills, strike)


def _each_day(campaign: Campaign, tally: Tally, kills: int, strike: Callable[[], None]) -> None:
    while tally.kills < kills:
        with campaign.timed(tally):
            day = campaign.new_day()
            driver = campaign.start(day)
            driver.join(campaign.chance.uniform(1.0, campaign.calm_seconds))
            strike()
            tally.kills += 1
            campaign.look(day, tally)
            campaign.finish(day, tally, process=driver)
            campaign.check(day, tally)


def _lose_node(campaign: Campaign, notice: float = 0.0) -> None:
    cluster = campaign.nodes.cluster
    node = campaign.chance.choice(sorted(cluster.worker_nodes, key=lambda one: one.node_id))
    if notice:
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline = int((time.time() + notice) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        GcsClient(address=campaign.nodes.address).drain_node(node.node_id, reason, "taken away", deadline)
        time.sleep(notice)
    cluster.remove_node(node, allow_graceful=False)
    campaign.nodes.add()


@dataclass(frozen=True)
class FatalLoader:
    """Loads an engine that is killed by the query of one pair."""

    marks: str
    text: str

    def __call__(self, settings: EngineSettings, model: LabelModel, label_ids: tuple[int, ...]) -> DyingEngine:
        (tokens,) = model.encoder().encode_queries([f"\n\nQuery: {self.text}"])
        return DyingEngine(tuple(tokens), Path(self.marks), 10**6, kill=True)


def poisoned_shard(campaign: Campaign, tally: Tally, kills: int) -> None:
    """A pair kills every engine that reads it: its shard is given up after three, with errors; the rest is as it is."""
    text = next(row["query"] for row in make_pairs(NUM_PAIRS).to_pylist() if row["query_id"] == FATAL)
    for number in range(max(1, kills // 3)):
        with campaign.timed(tally):
            marks = campaign.folder / f"marks-{number}"
            marks.mkdir()
            day = campaign.new_day(load=FatalLoader(str(marks), text), max_deaths=3)
            campaign.finish(day, tally)
            tally.kills += len(list(marks.iterdir()))
            if day.committed:
                _check_poisoned(campaign, day, tally)


def _check_poisoned(campaign: Campaign, day: Day, tally: Tally) -> None:
    rows = read_committed(day.output)
    failed = {(row["query_id"], row["product_id"]) for row in rows if row["error"]}
    tally.different += not any(query == FATAL for query, _ in failed) or len(failed) > NUM_PAIRS // 4
    tally.compare([row for row in rows if not row["error"]], [row for row in campaign.calm if _key(row) not in failed])


def _key(row: dict) -> tuple[str, str]:
    return row["query_id"], row["product_id"]


def store(server: S3Server, how: str) -> Callable[[Campaign, Tally, int], None]:
    """A store that misbehaves from a random moment of a day on, for a while."""

    def strike(campaign: Campaign, tally: Tally, kills: int) -> None:
        for _ in range(kills):
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(0.0, 0.7 * campaign.calm_seconds))
                with _misbehaving(server, how, campaign):
                    driver.join(campaign.chance.uniform(1.0, 4.0))
                tally.kills += 1
                campaign.look(day, tally)
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)

    return strike


@contextmanager
def _misbehaving(server: S3Server, how: str, campaign: Campaign) -> Iterator[None]:
    with ExitStack() as stack:
        if how == "slow":
            for method in ("GET", "PUT"):
                stack.enter_context(server.slow(method, "/", campaign.chance.uniform(0.1, 0.5)))
        elif how == "lists late":
            server.listing_delay = 3.0
            stack.callback(setattr, server, "listing_delay", 0.0)
        elif how == "409":
            stack.enter_context(server.fail("PUT", r"_staging/(shards|partitions)/|_SUCCESS", status=409, times=2))
        elif how == "credentials expired":
            for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
                stack.enter_context(server.fail(method, "/", status=403, times=float("inf")))
        else:
            status, times = int(how), campaign.chance.randint(1, 4)
            for method in ("GET", "PUT"):
                applied = campaign.chance.random() < 0.5
                stack.enter_context(server.fail(method, "/", status=status, times=times, apply=applied))
        yield


def disk_full(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The output's disk is full from a random moment of a day on, and has room again when the job is begun anew."""
    with small_disk(campaign.folder / "disk", "8m") as disk:
        if disk is None:
            tally.remark = NO_DISK
            return
        for _ in range(kills):
            with campaign.timed(tally):
                day = campaign.new_day(outputs=str(disk))
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(0.0, 0.7 * campaign.calm_seconds))
                ballast = disk / "ballast"
                _fill(ballast)
                driver.join(campaign.chance.uniform(2.0, 6.0))
                campaign.look(day, tally)
                ballast.unlink()
                tally.kills += 1
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)
                shutil.rmtree(day.output, ignore_errors=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


def clock_jumps(library: str, folder: Path) -> Callable[[Campaign, Tally, int], None]:
    """The clock of all nodes and of the driver jumps while a day is worked on, an hour forth or back."""
    stamp = folder / "clock"

    def strike(campaign: Campaign, tally: Tally, kills: int) -> None:
        stamp.write_text("+0\n")
        given = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        campaign.nodes.stop()
        os.environ |= given
        campaign.fresh_drivers = True
        try:
            campaign.nodes.start()
            for _ in range(kills):
                with campaign.timed(tally):
                    day = campaign.new_day()
                    driver = campaign.start(day)
                    driver.join(campaign.chance.uniform(2.0, campaign.calm_seconds))
                    stamp.write_text(campaign.chance.choice(["+3600\n", "-3600\n"]))
                    tally.kills += 1
                    campaign.finish(day, tally, process=driver)
                    campaign.check(day, tally)
        finally:
            campaign.nodes.stop()
            for name in given:
                del os.environ[name]
            campaign.fresh_drivers = False
            campaign.nodes.start()

    return strike
