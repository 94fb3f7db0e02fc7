"""Run the fault campaign and print its table; status 1 if a promise was broken.

    python -m tests.slow.faults [kills=1000] [seed=1] [faults=driver,actor:20,…] [out=FILE.md]

`kills` are shared out over the faults by what one costs, but for those with a number of their own. In namespaces of its
own where the machine allows (`unshare`): without, it ends only what it has started, and cuts no node off. With a C
compiler clocks jump too. A strike counts if it met what it was meant for: a fault without any proves nothing, and is
status 1 too, as are checks that do not see a spoilt day.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from tests.builders.pairs_data import make_pairs, write_pairs
from tests.builders.tiny_models import save_tiny_model
from tests.servers import namespace
from tests.servers.s3 import S3Server
from tests.slow.faults import clock, partition, records, scoring_faults, verdicts
from tests.slow.faults.sabotage import require_days_checked
from tests.slow.faults.scoring import NUM_PAIRS, Campaign, RayNodes
from tests.slow.faults.tally import Tally, table

SHARES = {
    "driver": 60,
    "worker": 120,
    "actor": 120,
    "helper actor": 20,
    "raylet": 30,
    "head": 15,
    "preempted node": 20,
    "poisoned shard": 9,
    "cut-off node": 10,
    "store slow": 10,
    "store 500": 15,
    "store 503": 15,
    "store 409": 15,
    "store lists late": 10,
    "credentials expired": 10,
    "disk full": 10,
    "clock jump": 6,
    **dict.fromkeys(verdicts.KINDS, 15),
    "log writer": 250,
    "log shipper": 150,
    "log disk full": 20,
}
"""Kills of each of about a thousand in all: the dear ones are few."""


def main() -> int:
    """Give the exit status."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if unknown := given.keys() - {"kills", "seed", "faults", "out"}:
        sys.exit(f"error: unknown settings {', '.join(sorted(unknown))}: expected kills, seed, faults, out")
    seed = int(given.get("seed", time.time_ns() % 10**6))
    shares = shared_out(int(given.get("kills", "1000")), given.get("faults", ",".join(SHARES)).split(","))
    if unknown := shares.keys() - SHARES:
        sys.exit(f"error: unknown faults {', '.join(sorted(unknown))}: expected some of {', '.join(SHARES)}")
    if namespace.available() and not namespace.is_inside():
        own = namespace.command(sys.executable, "-m", "tests.slow.faults", *sys.argv[1:], f"seed={seed}")
        os.execvp(own[0], own)
    print(f"seed {seed}", file=sys.stderr, flush=True)
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        for tally in run(Path(folder), shares, seed):
            tallies.append(tally)
            print(f"{tally.fault}: {tally}", file=sys.stderr, flush=True)
            if out := given.get("out"):  # a night's results outlive its end
                Path(out).write_text(told(tallies, seed) + "\n")
    print(told(tallies, seed))
    return int(any(tally.broken or tally.proves_nothing for tally in tallies))


def told(tallies: Sequence[Tally], seed: int) -> str:
    """What is to be said of a campaign, or of its first faults."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), seed {seed}: "
        f"{sum(tally.kills for tally in tallies):,} strikes, {sum(tally.broken for tally in tallies)} promises broken"
        f"\n\n{table(tallies)}"
    )


def shared_out(kills: int, faults: Sequence[str]) -> dict[str, int]:
    """How often each fault strikes: as often as is said behind its name, the others by `SHARES`."""
    said = {name: int(number) for name, _, number in (fault.partition(":") for fault in faults) if number}
    open_ones = [fault for fault in faults if ":" not in fault]
    wanted = sum(SHARES.get(fault, 0) for fault in open_ones) or 1
    return said | {fault: max(1, round(kills * SHARES.get(fault, 0) / wanted)) for fault in open_ones}


def run(folder: Path, shares: dict[str, int], seed: int) -> Iterator[Tally]:
    """Run the faults in turn, each so often, and give what each did."""
    log = {"log writer": records.writers, "log shipper": records.shippers, "log disk full": records.full_disks}
    if shares.keys() & log.keys():
        records.spoilt(folder)
    for fault in [fault for fault in log if fault in shares]:
        with _told_of(Tally(fault)) as tally:
            log[fault](folder, Random(f"{seed} {fault}"), tally, shares[fault])
        yield tally
    if serving := {fault: Tally(fault) for fault in verdicts.KINDS if fault in shares}:
        place = folder / "endpoint"
        place.mkdir()
        with _told_of(*serving.values()):
            verdicts.strike_all(place, Random(f"{seed} verdicts"), serving, shares)
        yield from serving.values()
    if days := {fault: shares[fault] for fault in shares if fault not in log and fault not in serving}:
        yield from score(folder, days, seed)


@contextmanager
def _told_of(*tallies: Tally) -> Iterator[Tally]:
    """A night's other faults are worth more than this one's end."""
    try:
        yield tallies[0]
    except Exception as error:
        logging.getLogger(__name__).exception("%s", tallies[0].fault)
        for tally in tallies:
            tally.unfinished += 1
            tally.remark = f"stopped: {type(error).__name__}: {str(error)[:200]}"


def score(folder: Path, shares: dict[str, int], seed: int) -> Iterator[Tally]:
    """The faults of days of pairs: one store, and one cluster as long as it lives."""
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request to the store
    if namespace.is_inside():
        partition.give_address()
    server = S3Server(partition.STORE if namespace.is_inside() else "127.0.0.1")
    os.environ |= {
        **server.environment(),
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # how long a driver waits for a head that is gone
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    s3fs.S3FileSystem(endpoint_url=server.url).mkdir("faults")
    model = save_tiny_model(folder / "model")
    write_pairs(make_pairs(NUM_PAIRS), "s3://faults/pairs")
    nodes = RayNodes(folder)
    campaign = Campaign(folder, "s3://faults/pairs", "s3://faults/scores", str(model), Random(0), nodes)
    try:
        require_days_checked(campaign, campaign.run_calm())
        print(f"a calm day takes {campaign.calm_seconds:.1f} s", file=sys.stderr, flush=True)
        strike = of_days(server)
        for fault, kills in shares.items():
            campaign.chance = Random(f"{seed} {fault}")
            with _told_of(Tally(fault)) as tally:
                strike[fault](campaign, tally, kills)
            yield tally
    finally:
        campaign.nodes.stop()
        server.stop()


def of_days(server: S3Server) -> dict[str, Callable[[Campaign, Tally, int], None]]:
    """What does each fault of days of pairs so many times; what cannot be done here it remarks on."""
    at_rest = (*scoring_faults.HELPERS, *scoring_faults.AT_REST)
    return {
        "driver": scoring_faults.drivers,
        # Hardly a task takes longer.
        "worker": scoring_faults.processes(
            scoring_faults.TASK, besides=(scoring_faults.ACTOR, *at_rest), most_seconds=0.2
        ),
        "actor": scoring_faults.processes(scoring_faults.ACTOR),
        "helper actor": scoring_faults.processes(*scoring_faults.HELPERS, most_seconds=5.0),
        "raylet": scoring_faults.nodes_lost,
        "head": scoring_faults.heads_lost,
        "preempted node": scoring_faults.nodes_preempted,
        "poisoned shard": scoring_faults.poisoned_shard,
        "cut-off node": partition.partitions,
        **{f"store {how}": scoring_faults.store(server, how) for how in ("slow", "500", "503", "409", "lists late")},
        "credentials expired": scoring_faults.store(server, "credentials expired"),
        "disk full": scoring_faults.disk_full,
        "clock jump": clock.clock_jumps,
    }


if __name__ == "__main__":
    sys.exit(main())
