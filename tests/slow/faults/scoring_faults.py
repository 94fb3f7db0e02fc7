"""What is done to days of pairs: processes killed at random times, and a store that misbehaves."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from relevance.engines.label_model import LabelModel
from relevance.engines.settings import EngineSettings
from tests.builders.fakes import DyingEngine
from tests.builders.pairs_data import make_pairs, read_committed
from tests.servers.s3 import S3Server
from tests.slow.faults.scoring import NUM_PAIRS, Campaign, Day, kill, ray_processes, words
from tests.slow.faults.small_disk import NO_DISK, small_disk
from tests.slow.faults.tally import Tally

ACTOR, TASK, GCS, RAYLET = "ray::MapWorker", "ray::", "gcs_server", "raylet"
HELPERS = ("ray::ActorLocationTracker", "ray::_StatsActor", "ray::_AutoscalingCoordinatorActor", "ray::DeathCounter")
"""Actors that Ray Data and the pool have beside those that work."""
AT_REST = ("ray::RuntimeEnvAgent", "ray::DashboardAgent", "ray::IDLE")
"""A node ends with the first two, and the last does nothing."""
FATAL = "q7"


def drivers(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The driver is killed at any moment of its day, up to three times a day."""
    while tally.kills < kills:
        with campaign.timed(tally):
            day = campaign.new_day()
            for _ in range(min(kills - tally.kills, campaign.chance.randint(1, 3))):
                process = campaign.start(day)
                process.join(campaign.chance.uniform(0.5, campaign.calm_seconds))
                kill(process)
                process.join()
                tally.struck(process.exitcode == -signal.SIGKILL)
                campaign.look(day, tally)
            campaign.finish(day, tally)
            campaign.check(day, tally)


def task_name(process: psutil.Process) -> str:
    """What a process of Ray is at, in a word of its title."""
    title = (words(process) or [""])[0]
    return title.removeprefix("ray::").partition(".")[0]


def processes(
    *names: str, besides: tuple[str, ...] = (), most_seconds: float = 1.0
) -> Callable[[Campaign, Tally, int], None]:
    """Processes of Ray are killed one after the other while a day is worked on."""

    def found() -> list[psutil.Process]:
        left_alone = {one.pid for one in ray_processes(*besides)} if besides else set()
        return [one for one in ray_processes(*names) if one.pid not in left_alone]

    def strike(campaign: Campaign, tally: Tally, kills: int) -> None:
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                # What is killed is done again: without this, all strikes would meet a day's first steps.
                driver.join(campaign.chance.uniform(0.0, 0.7 * campaign.calm_seconds))
                before = tally.kills + tally.missed
                # Whoever kills without end is never done: five a day, and then it is left alone.
                for _ in range(min(kills - tally.kills, 5)):
                    while driver.exitcode is None and not found():
                        driver.join(0.1)
                    driver.join(campaign.chance.uniform(0.0, most_seconds))
                    if driver.exitcode is not None:
                        break
                    victim = campaign.chance.choice(found() or [None])
                    name = task_name(victim) if victim else ""
                    tally.struck(victim is not None and name != "IDLE" and kill(victim), name)
                    campaign.look(day, tally)
                if before == tally.kills + tally.missed:
                    tally.struck(False)
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)

    return strike


def nodes_lost(campaign: Campaign, tally: Tally, kills: int) -> None:
    """A raylet is killed, and all of its node's workers end with it; another node comes."""
    _each_day(campaign, tally, kills, lambda driver: _lose_node(campaign, driver))


def nodes_preempted(campaign: Campaign, tally: Tally, kills: int) -> None:
    """A node is drained with a notice of two seconds, as a cloud gives it before it takes a machine away."""
    _each_day(campaign, tally, kills, lambda driver: _lose_node(campaign, driver, notice=2.0))


def heads_lost(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The head is killed: nodes go on for a moment, then cluster and job begin anew, without any memory."""

    def strike(driver: Any) -> bool:
        (head,) = ray_processes(GCS)
        met = driver.exitcode is None and kill(head)
        driver.join(campaign.chance.uniform(0.0, 5.0))
        campaign.nodes.stop()
        campaign.nodes.start()
        return met

    _each_day(campaign, tally, kills, strike)


def _each_day(campaign: Campaign, tally: Tally, kills: int, strike: Callable[[Any], bool]) -> None:
    while tally.kills < kills:
        with campaign.timed(tally):
            day = campaign.new_day()
            driver = campaign.start(day)
            driver.join(campaign.chance.uniform(1.0, 0.8 * campaign.calm_seconds))
            tally.struck(strike(driver))
            campaign.look(day, tally)
            campaign.finish(day, tally, process=driver)
            campaign.check(day, tally)


def _lose_node(campaign: Campaign, driver: Any, notice: float = 0.0) -> bool:
    """Whether a node was lost that worked on the driver's day; one is waited for."""
    cluster = campaign.nodes.cluster
    while driver.exitcode is None:
        nodes = sorted(cluster.worker_nodes, key=lambda one: one.node_id)
        if working := [node for node in nodes if _works(_raylet(node))]:
            break
        driver.join(0.1)
    else:
        return False
    node = campaign.chance.choice(working)
    met = True
    if notice:
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline = int((time.time() + notice) * 1000)
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = GcsClient(address=campaign.nodes.address)
        met, _ = client.drain_node(node.node_id, reason, "taken away", deadline)
        time.sleep(notice)
    else:
        met = kill(_raylet(node))
    cluster.remove_node(node, allow_graceful=False)
    campaign.nodes.add()
    return met


def _raylet(node: Any) -> Any:
    return node.all_processes["raylet"][0].process


def _works(raylet: Any) -> bool:
    """Whether one of a node's processes has a task or is an actor of the day."""
    idle = {one.pid for one in ray_processes(*AT_REST, *HELPERS)}
    children = {one.pid for one in psutil.Process(raylet.pid).children()}
    return any(one.pid in children - idle for one in ray_processes(TASK))


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
            deaths = len(list(marks.iterdir()))
            tally.kills += deaths
            tally.missed += deaths < 3
            if not day.committed:
                tally.unfinished += 1
            else:
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
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(0.0, 0.7 * campaign.calm_seconds))
                with _misbehaving(server, how, campaign) as met:
                    driver.join(campaign.chance.uniform(1.0, 4.0))
                    while driver.exitcode is None and not met():
                        driver.join(0.1)
                    tally.struck(met())
                campaign.look(day, tally)
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)

    return strike


@contextmanager
def _misbehaving(server: S3Server, how: str, campaign: Campaign) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a request has met it."""
    before, chance = server.num_listed_late, campaign.chance
    with ExitStack() as stack:
        if how == "lists late":
            server.listing_delay = 3.0
            stack.callback(setattr, server, "listing_delay", 0.0)
            yield lambda: server.num_listed_late > before
            return
        if how == "slow":
            faults = [server.slow(method, "/", chance.uniform(0.1, 0.5)) for method in ("GET", "PUT")]
        elif how == "409":
            faults = [server.fail("PUT", r"_staging/(shards|partitions)/|_SUCCESS", status=409, times=2)]
        elif how == "credentials expired":
            methods = ("GET", "PUT", "HEAD", "POST", "DELETE")
            faults = [server.fail(method, "/", status=403, times=float("inf")) for method in methods]
        else:
            # A few are asked again by the client; as many as forty end the job.
            times = chance.choice([1, 2, 4, 40])
            faults = [
                server.fail(method, "/", status=int(how), times=times, apply=chance.random() < 0.5)
                for method in ("GET", "PUT")
            ]
        installed = [stack.enter_context(fault) for fault in faults]
        yield lambda: any(fault.reached.is_set() for fault in installed)


def disk_full(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The output's disk is full from a random moment of a day on, and has room again when the job is begun anew."""
    with small_disk(campaign.folder / "disk", "8m") as disk:
        if disk is None:
            tally.untried = NO_DISK
            return
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day(outputs=str(disk))
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(0.0, 0.7 * campaign.calm_seconds))
                ballast = disk / "ballast"
                _fill(ballast)
                driver.join(30)
                campaign.look(day, tally)
                ballast.unlink()
                tally.struck(driver.exitcode not in (None, 0))
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
