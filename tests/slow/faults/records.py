"""The decision log alone, where kills are cheap: a writer and its shipper killed at any instant, and a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from cancellation.serving.records.log_shipping import Shipper
from cancellation.serving.records.segments import DAMAGED, sealed_segments
from cancellation.serving.records.shipped_log import read_log
from tests.slow.faults.sabotage import require_records_checked
from tests.slow.faults.scoring import kill
from tests.slow.faults.small_disk import NO_DISK, small_disk
from tests.slow.faults.tally import Tally

_PROJECT = Path(__file__).resolve().parents[3]
REFUSED = 3
"""Status of a writer whose disk took no more."""
_HERD = f"""
import os, sys
from pathlib import Path
from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from cancellation.serving.records.log_shipping import Shipper
from tests.builders.decision_records import decision_record

def write(folder, first):
    log = DecisionLog(Path(folder), DecisionLogSettings(segment_bytes=100_000, fsync_seconds=0.05))
    for number in range(first, first + 10**6):
        log.append(decision_record(number, market=("BR", "TH")[number % 2]))
        os.write(1, b"%d\\n" % number)  # the answer: whoever reads it may count on the record

def ship(folder, output):
    Shipper(Path(folder), output).ship_once()

for line in sys.stdin:
    what, *arguments = line.split()
    child = os.fork()
    if not child:
        os.write(1, b"pid %d\\n" % os.getpid())
        try:
            write(arguments[0], int(arguments[1])) if what == "write" else ship(*arguments)
        except OSError:
            os._exit({REFUSED})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("ended", status, flush=True)
"""
"""A process that has imported everything, and forks one child after the other: a start costs milliseconds."""


class Herd:
    """Starts processes with everything imported, to be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HERD], cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, *words: str, seconds: float | None) -> tuple[list[int], int]:
        """Start one, and kill it after a time or wait for its end; what it answered, and how it ended (`os.wait`)."""

        class Child:
            pid = 0

        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        stdin.write((" ".join(words) + "\n").encode())
        stdin.flush()
        Child.pid = int(stdout.readline().split()[1])
        if seconds is not None:
            time.sleep(seconds)
            kill(Child)
        answered = []
        for line in stdout:
            if b"ended" in line:
                # The last number may be cut off by the kill, and then stands before the word.
                return answered, int(line.split()[-1])
            answered.append(int(line))
        raise RuntimeError("the process that starts the others has ended")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def writers(folder: Path, chance: Random, tally: Tally, kills: int) -> None:
    """A writer is killed at any instant: what it answered is shipped, once."""
    herd = Herd()
    number = 0
    while tally.kills < kills:
        number += 1
        log, output = folder / f"writers-{number}", folder / f"writers-out-{number}"
        answered, status = herd.run("write", str(log), "0", seconds=chance.uniform(0.002, 0.06))
        tally.struck(status == signal.SIGKILL)
        Shipper(log, str(output)).ship_once()
        _check(answered, log, output, tally)
    herd.end()


def shippers(folder: Path, chance: Random, tally: Tally, kills: int) -> None:
    """A shipper is killed at any instant, again and again: all is shipped, once."""
    herd, number = Herd(), 0
    while tally.kills < kills:
        log, output = folder / f"shippers-{number}", folder / f"shippers-out-{number}"
        answered, _ = herd.run("write", str(log), "0", seconds=0.15)
        for _ in range(8):
            _, status = herd.run("ship", str(log), str(output), seconds=chance.uniform(0.0, 0.04))
            # One that has ended by itself had nothing left to ship: of this log there is nothing more to strike.
            if status != signal.SIGKILL:
                tally.missed += 1
                break
            tally.struck(True)
            _shipped(output, tally)
        Shipper(log, str(output)).ship_once()
        tally.lost += len(sealed_segments(log))
        _check(answered, log, output, tally)
        number += 1
    herd.end()


def full_disks(folder: Path, chance: Random, tally: Tally, kills: int) -> None:
    """The log's disk fills up under a writer: nothing is answered that is not on record."""
    herd = Herd()
    with small_disk(folder / "log-disk", f"{chance.randint(150, 400)}k") as disk:
        tally.untried = "" if disk else NO_DISK
        number = 0
        while disk and tally.kills < kills:
            number += 1
            log, output = disk / "log", folder / f"full-out-{number}"
            answered, status = herd.run("write", str(log), "0", seconds=None)
            tally.struck(os.waitstatus_to_exitcode(status) == REFUSED)
            Shipper(log, str(output)).ship_once()
            _check(answered, log, output, tally)
    herd.end()


def spoilt(folder: Path) -> None:
    """See that the check finds what is wrong, in a log that is spoilt on purpose."""
    herd, log, output = Herd(), folder / "spoilt", folder / "spoilt-out"
    answered, _ = herd.run("write", str(log), "0", seconds=0.3)
    Shipper(log, str(output)).ship_once()
    require_records_checked(output, lambda tally: _check(answered, log, output, tally))
    herd.end()


def _shipped(output: Path, tally: Tally) -> list[str]:
    """What a reader of the archive finds, at any time."""
    try:
        return read_log(str(output))["event_id"].to_pylist()
    except Exception:
        tally.half_written += 1
        return []


def _check(answered: list[int], log: Path, output: Path, tally: Tally) -> None:
    tally.rounds += 1
    tally.half_written += len(list(log.glob(f"*{DAMAGED}")))
    tally.compare_records((f"e-{number:06d}" for number in answered), _shipped(output, tally))
