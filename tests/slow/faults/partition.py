"""A node that is cut off from the head and not from the store: what it does meanwhile is done elsewhere too.

The node is a raylet in a network namespace of its own with two cables, one to the head and one to the store. The first
is pulled for longer than the head waits for a sign of life.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.servers import namespace
from tests.servers.serving_process import free_port
from tests.slow.faults.scoring import Campaign, RayNodes, ray_processes, words
from tests.slow.faults.tally import Tally

STORE = "10.91.9.1"
"""Address of the store, on this side, reached over the second cable."""
HEAD, NODE = "10.91.0.1", "10.91.0.2"
PORT = 6399
_BIN = Path(sys.executable).parent
_PATIENCE = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def give_address() -> None:
    """Make the store's address one of this namespace."""
    _ip("addr", "add", f"{STORE}/32", "dev", "lo")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class CutOffNodes(RayNodes):
    """A head, and one node behind cables that can be pulled."""

    def __init__(self, folder: Path) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        time.sleep(0.5)  # the namespace is made before the program is run
        for name, here, there in (("head0", HEAD, NODE), ("store0", "10.91.1.1", "10.91.1.2")):
            peer = f"{name}p"
            _ip("link", "add", name, "type", "veth", "peer", "name", peer, "netns", str(self._holder.pid))
            _ip("addr", "add", f"{here}/24", "dev", name)
            _ip("link", "set", name, "up")
            self._inside("ip", "addr", "add", f"{there}/24", "dev", peer)
            self._inside("ip", "link", "set", peer, "up")
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "route", "add", f"{STORE}/32", "via", "10.91.1.1")
        super().__init__(folder)

    def start(self) -> None:
        self._ray("start", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--num-cpus=0")
        self.add()

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    def add(self) -> None:
        """A node on the other side, and one on this: work goes on without the first."""
        self._ray("start", f"--address={self.address}", f"--node-ip-address={HEAD}", "--num-cpus=2")
        self.add_other()

    def add_other(self) -> None:
        self._ray("start", f"--address={self.address}", f"--node-ip-address={NODE}", "--num-cpus=2", inside=True)

    def stop(self) -> None:
        for process in ray_processes():
            process.kill()
        self._holder.kill()
        self._holder.wait()

    def other_has_ended(self) -> bool:
        """Whether the node on the other side has been given up, as it learns once the cable is in again."""
        found = [one for one in ray_processes("raylet") if f"--node_ip_address={NODE}" in words(one)]
        _, living = psutil.wait_procs(found, timeout=30)
        return not living

    def pull(self) -> None:
        _ip("link", "set", "head0", "down")

    def plug_in(self) -> None:
        _ip("link", "set", "head0", "up")

    def _inside(self, *command: str) -> None:
        subprocess.run(["nsenter", "-t", str(self._holder.pid), "-n", *command], check=True, capture_output=True)

    def _ray(self, *words: str, inside: bool = False) -> None:
        command = [str(_BIN / "ray"), *words, f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
        command += ["--include-dashboard=false"] if "--head" in words else []
        enter = ["nsenter", "-t", str(self._holder.pid), "-n"] if inside else []
        done = subprocess.run([*enter, *command], capture_output=True, text=True, env=os.environ | _PATIENCE)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-500:]}")


def partitions(campaign: Campaign, tally: Tally, kills: int) -> None:
    """Pull the node's cable to the head in the middle of days; the node goes on as long as it knows what to do."""
    if not namespace.is_inside():
        tally.untried = "not tried: no network namespaces on this machine"
        return
    campaign.nodes.stop()
    campaign.nodes = nodes = CutOffNodes(campaign.folder)
    try:
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(1.0, campaign.calm_seconds))
                under_way = driver.exitcode is None
                nodes.pull()
                driver.join(campaign.chance.uniform(6.0, 10.0))
                nodes.plug_in()
                tally.struck(under_way and nodes.other_has_ended())
                campaign.look(day, tally)
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)
            nodes.add_other()  # what was cut off for so long ends itself
    finally:
        nodes.stop()
        campaign.nodes = RayNodes(campaign.folder)
