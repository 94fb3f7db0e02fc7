"""Run the fault campaign and print its table; status 1 if a promise was broken.

    python -m tests.slow.faults [kills=1000] [seed=1] [faults=driver,actor,…] [out=FILE.md]

`kills` are shared out over the faults by what one costs. In namespaces of its own where the machine allows (`unshare`):
without, it ends only what it has started, and cuts no node off. With libfaketime (Debian has it, or LIBFAKETIME=PATH
says where it is) clocks jump too.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from tests.builders.pairs_data import make_pairs, write_pairs
from tests.builders.tiny_models import save_tiny_model
from tests.servers import namespace
from tests.servers.s3 import S3Server
from tests.slow.faults import partition, records, scoring_faults, verdicts
from tests.slow.faults.scoring import NUM_PAIRS, Campaign, RayNodes
from tests.slow.faults.tally import Tally, table

FAKETIME = os.environ.get("LIBFAKETIME", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
SHARES = {
    "driver": 60,
    "worker": 120,
    "actor": 120,
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
    kills, seed = int(given.get("kills", "1000")), int(given.get("seed", time.time_ns() % 10**6))
    faults = given.get("faults", ",".join(SHARES)).split(",")
    if unknown := set(faults) - set(SHARES):
        sys.exit(f"error: unknown faults {', '.join(sorted(unknown))}: expected some of {', '.join(SHARES)}")
    if namespace.available() and not namespace.is_inside():
        own = namespace.command(sys.executable, "-m", "tests.slow.faults", *sys.argv[1:], f"seed={seed}")
        os.execvp(own[0], own)
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        tallies = run(Path(folder), faults, kills, seed)
    broken = sum(tally.broken for tally in tallies)
    said = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), seed {seed}: "
        f"{sum(tally.kills for tally in tallies):,} strikes, {broken} promises broken\n\n{table(tallies)}"
    )
    print(said)
    if out := given.get("out"):
        Path(out).write_text(said + "\n")
    return int(broken > 0)


def run(folder: Path, faults: list[str], kills: int, seed: int) -> list[Tally]:
    """Run the faults in turn, each with its share of the kills."""
    wanted = sum(SHARES[fault] for fault in faults)
    shares = {fault: max(1, round(kills * SHARES[fault] / wanted)) for fault in faults}
    tallies = {fault: Tally(fault) for fault in faults}
    log = {"log writer": records.writers, "log shipper": records.shippers, "log disk full": records.full_disks}
    for fault in log.keys() & set(faults):
        log[fault](folder, Random(f"{seed} {fault}"), tallies[fault], shares[fault])
        _tell(tallies[fault])
    if serving := {fault: tallies[fault] for fault in verdicts.KINDS if fault in faults}:
        place = folder / "endpoint"
        place.mkdir()
        verdicts.strike_all(place, Random(f"{seed} verdicts"), serving, max(shares[fault] for fault in serving))
        for tally in serving.values():
            _tell(tally)
    if days := [fault for fault in faults if fault not in log and fault not in serving]:
        score(folder, days, shares, tallies, seed)
    return list(tallies.values())


def score(folder: Path, faults: list[str], shares: dict[str, int], tallies: dict[str, Tally], seed: int) -> None:
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
        campaign.run_calm()
        print(f"a calm day takes {campaign.calm_seconds:.1f} s", file=sys.stderr, flush=True)
        for fault in faults:
            campaign.chance = Random(f"{seed} {fault}")
            try:
                strike(fault, server, campaign, tallies[fault], shares[fault])
            except Exception as error:  # a night's other faults are worth more than this one's end
                tallies[fault].unfinished += 1
                tallies[fault].remark = f"stopped: {type(error).__name__}: {str(error)[:200]}"
            _tell(tallies[fault])
    finally:
        campaign.nodes.stop()
        server.stop()


def strike(fault: str, server: S3Server, campaign: Campaign, tally: Tally, kills: int) -> None:
    """Do one fault so many times; what it cannot do here it remarks on."""
    by: dict[str, Callable[[Campaign, Tally, int], None]] = {
        "driver": scoring_faults.drivers,
        "worker": scoring_faults.processes(
            scoring_faults.TASK, besides=(scoring_faults.ACTOR, *scoring_faults.OF_NODE)
        ),
        "actor": scoring_faults.processes(scoring_faults.ACTOR),
        "raylet": scoring_faults.nodes_lost,
        "head": scoring_faults.heads_lost,
        "preempted node": scoring_faults.nodes_preempted,
        "poisoned shard": scoring_faults.poisoned_shard,
        "store slow": scoring_faults.store(server, "slow"),
        "store 500": scoring_faults.store(server, "500"),
        "store 503": scoring_faults.store(server, "503"),
        "store 409": scoring_faults.store(server, "409"),
        "store lists late": scoring_faults.store(server, "lists late"),
        "credentials expired": scoring_faults.store(server, "credentials expired"),
        "disk full": scoring_faults.disk_full,
    }
    if fault == "cut-off node":
        if not namespace.is_inside():
            tally.remark = "not tried: no network namespaces on this machine"
            return
        partition.partitions(campaign.folder, campaign, tally, kills)
    elif fault == "clock jump":
        if not Path(FAKETIME).exists():
            tally.remark = "not tried: no libfaketime on this machine"
            return
        scoring_faults.clock_jumps(FAKETIME, campaign.folder)(campaign, tally, kills)
    else:
        by[fault](campaign, tally, kills)


def _tell(tally: Tally) -> None:
    print(f"{tally.fault}: {tally}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
