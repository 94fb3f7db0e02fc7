"""A clock that jumps: the one that Python reads, in the processes of a cluster and of its driver alone."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

from tests.slow.faults.scoring import Campaign, ray_processes
from tests.slow.faults.tally import Tally

SOURCE = Path(__file__).with_name("jumping_clock.c")
NO_COMPILER = "not tried: no C compiler on this machine"
_HOURS = (-1, 0, 1)


def jumping_clock(folder: Path) -> dict[str, str] | None:
    """Environment of processes whose Python is to see the clock jump; None without a compiler."""
    library, stamp = folder / f"{SOURCE.stem}.so", folder / "clock"
    if not (compiler := shutil.which("cc")):
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", SOURCE, "-o", library, "-ldl"], check=True)
    environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(stamp)}
    set_ahead(environment, 0)
    return environment


def set_ahead(environment: dict[str, str], seconds: int) -> None:
    """Let the clock jump to so far from the true time."""
    # Never cut to nothing between: processes have the file mapped.
    with os.fdopen(os.open(environment["CLOCK_FILE"], os.O_RDWR | os.O_CREAT), "r+b") as file:
        file.write(struct.pack("q", seconds))


def clock_jumps(campaign: Campaign, tally: Tally, kills: int) -> None:
    """The clock of all nodes and of the driver jumps while a day is worked on, an hour or two forth or back."""
    environment = jumping_clock(campaign.folder)
    if environment is None:
        tally.untried = NO_COMPILER
        return
    campaign.nodes.stop()
    os.environ |= environment
    campaign.fresh_drivers = True
    now = 0
    try:
        campaign.nodes.start()
        while tally.kills < kills:
            with campaign.timed(tally):
                day = campaign.new_day()
                driver = campaign.start(day)
                driver.join(campaign.chance.uniform(2.0, campaign.calm_seconds))
                found = [driver, *ray_processes("ray::")]
                now = campaign.chance.choice([hour for hour in _HOURS if hour != now])
                set_ahead(environment, 3600 * now)
                tally.struck(driver.exitcode is None and all(_has(environment["LD_PRELOAD"], one) for one in found))
                campaign.finish(day, tally, process=driver)
                campaign.check(day, tally)
    finally:
        campaign.nodes.stop()
        for name in environment:
            del os.environ[name]
        campaign.fresh_drivers = False
        campaign.nodes.start()


def _has(library: str, process: Any) -> bool:
    """Whether a process lives with the library in it, or has ended."""
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return True
