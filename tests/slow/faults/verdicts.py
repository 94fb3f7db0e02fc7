"""The endpoint behind HAProxy under a stream of requests while one of its processes after the other is killed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from random import Random

import psutil

from tests.servers.serving_process import Served, served
from tests.slow.faults.scoring import kill, own_processes
from tests.slow.faults.tally import Tally

KINDS = ("controller", "HAProxy", "gateway", "model", "shipper")
RATE = 10.0
SETTINGS = [
    "serving.colocated=false",
    # Processes share this machine: nothing is refused for being slow.
    *(f"serving.admission.{name}=60000" for name in ("max_loop_lag_ms", "max_queue_age_ms", "standing_ms")),
    "serving.admission.max_ongoing=1000",
    "serving.deadlines.model_ms=1000",
    "serving.decision_log.segment_seconds=2",
    "serving.shipper.interval_seconds=0.5",
    "serving.models.num_cpus=0.5",
    "serving.gateways.num_cpus=0.5",
]


def victims(endpoint: Served, kind: str) -> list[psutil.Process]:
    """Living processes of a kind."""
    found = []
    for process in own_processes():
        with suppress(psutil.Error, IndexError):
            words = process.cmdline()
            name = {
                "controller": words[0].startswith("ray::ServeController"),
                "HAProxy": words[0].endswith("haproxy"),
                "gateway": words[0].startswith("ray::ServeReplica:cancellation:gateway"),
                "model": words[0].startswith("ray::ServeReplica:cancellation:model"),
                "shipper": "cancellation.serving.records.archive" in words,
            }[kind]
            if name:
                found.append(process)
    return found


def strike_all(folder: Path, chance: Random, tallies: dict[str, Tally], kills: Mapping[str, int]) -> None:
    """Kill processes of the kinds in turn, each once the one before is back."""
    with served(folder, output=str(folder / "archive"), environment={}, settings=SETTINGS) as endpoint:
        for number, kind in product(range(max(kills.values())), tallies):
            if tallies[kind].kills < kills[kind]:
                strike(endpoint, kind, chance, tallies[kind], f"{kind}-{number}")


def strike(endpoint: Served, kind: str, chance: Random, tally: Tally, name: str) -> None:
    """One kill under a stream; requests after it that failed are remarked on, since no promise is made for them."""
    endpoint.until(lambda: victims(endpoint, kind) != [])
    with endpoint.stream(name, RATE) as stream:
        endpoint.until_answered(stream, 5)
        time.sleep(chance.uniform(0.0, 1.0))
        before = victims(endpoint, kind)
        victim = max(before, key=lambda one: one.create_time())  # an older HAProxy only ends what it has begun
        began = time.monotonic()
        tally.struck(kill(victim))
        with suppress(psutil.TimeoutExpired):
            victim.wait(10)
        endpoint.until(lambda: {one.pid for one in victims(endpoint, kind)} - {one.pid for one in before})
        endpoint.until_answered(stream, 5)
        tally.seconds.append(time.monotonic() - began)
        time.sleep(1)
    tally.rounds += 1
    answered = stream.answered()
    archived: list[str] = []

    def all_there() -> bool:
        archived[:] = endpoint.archived()
        return answered <= set(archived)

    with suppress(AssertionError):
        endpoint.until(all_there, 60)
    tally.compare_records(answered, [event for event in archived if event in answered])
    failed = sum(one.status != 200 for one in stream.sent)
    total = int(tally.remark.split()[0]) + failed if tally.remark else failed
    tally.remark = f"{total} requests without an answer; the time is that until it was back"
