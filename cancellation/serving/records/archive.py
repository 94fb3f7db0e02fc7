"""The archive: a replica's logs on the local disk, and the process that ships them to object storage."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cancellation.serving.records.appeal_record import appeal_table, reversal_table
from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from cancellation.serving.records.decision_record import decision_table
from cancellation.serving.records.explanation_record import explanation_table
from cancellation.serving.records.feedback import feedback_table
from cancellation.serving.records.log_shipping import Shipper, ShipperSettings
from cancellation.serving.records.segments import OPEN, SEALED
from cancellation.serving.records.shipping_process import ShippingProcess, ShippingStatus
from cluster.storage import absolute_url, join_url

TABLES = {
    "decisions": decision_table,
    "shadow": decision_table,
    "feedback": feedback_table,
    "explanations": explanation_table,
    "appeals": appeal_table,
    "reversals": reversal_table,
}
"""The logs: each a folder below `FOLDER`, and below `OUTPUT`."""

_NICENESS = 15
LAST_SHIPMENT_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unshipped:
    """What lies on a machine's disk and not yet in the archive."""

    folder: Path
    segments: int
    num_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.segments} segment{'s' * (self.segments != 1)} ({self.num_bytes} bytes) not shipped, in "
            f"{self.folder}; the next start with this data_dir ships them"
        )


def unshipped(folder: Path) -> Unshipped:
    """Count the segments below a folder of logs: sealed ones, and open ones whose writer may have died."""
    sizes = []
    for name in TABLES:
        for path in (folder / name).glob("*-*"):
            try:
                size = path.stat().st_size if path.suffix in (OPEN, SEALED) else 0
            except FileNotFoundError:  # shipped at this moment
                continue
            sizes += [size] if size else []
    return Unshipped(folder, len(sizes), sum(sizes))


class Archive:
    """A replica's logs and the process that empties them."""

    def __init__(self, folder: Path, output: str | None, log: DecisionLogSettings, shipper: ShipperSettings) -> None:
        self.folder = folder
        self.logs = tuple(DecisionLog(folder / name, log) for name in TABLES)
        """All of them, in the order of `TABLES`."""
        self.decisions, self.shadow, self.feedback, self.explanations, self.appeals, self.reversals = self.logs
        self.shipping: ShippingProcess | None = None
        """None where another process ships."""
        if output is not None:
            command = [sys.executable, "-m", __name__, str(folder), absolute_url(output), shipper.model_dump_json()]
            self.shipping = ShippingProcess(command)

    def close(self) -> None:
        """Seal the logs and let the process ship them; wait for that, as a machine that is no longer needed goes away.

        What is not shipped in time stays on the disk, for the next replica of this machine.
        """
        for log in self.logs:
            try:
                log.close()
            except OSError as error:  # the others are sealed and shipped all the same
                logger.error("decision log %s: cannot be sealed (%s)", log.folder, error.strerror)
        if self.shipping is None or self.shipping.finish(LAST_SHIPMENT_SECONDS):
            return
        if (left := unshipped(self.folder)).segments:
            logger.warning("decision log: %s", left)


def ship(folder: Path, output: str, settings: ShipperSettings) -> None:
    """Ship all logs until standard input ends, and once more then."""
    os.nice(_NICENESS)
    shippers = [
        Shipper(folder / name, join_url(output, name), settings, table_of=table) for name, table in TABLES.items()
    ]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    # Beside the shipping: what lay there for hours, or a storage that hangs, takes long.
    threading.Thread(target=_go_on_saying, args=(shippers, settings.interval_seconds), daemon=True).start()
    while True:
        last = ended.wait(settings.interval_seconds)
        for shipper in shippers:
            shipper.ship_once(patient=not last)
        if last:
            _say(shippers)
            sys.exit(any(shipper.last_failure for shipper in shippers))


def _go_on_saying(shippers: Sequence[Shipper], interval_seconds: float) -> None:
    while True:
        time.sleep(interval_seconds)
        _say(shippers)


def _say(shippers: Sequence[Shipper]) -> None:
    with suppress(BrokenPipeError):  # who started it has died: what is sealed is shipped all the same
        sys.stdout.write(f"{json.dumps(asdict(_status(shippers)))}\n")
        sys.stdout.flush()


def _status(shippers: Sequence[Shipper]) -> ShippingStatus:
    return ShippingStatus(
        sum(shipper.num_shipped for shipper in shippers),
        sum(shipper.num_failures for shipper in shippers),
        any(shipper.failing for shipper in shippers),
    )


if __name__ == "__main__":
    ship(Path(sys.argv[1]), sys.argv[2], ShipperSettings.model_validate_json(sys.argv[3]))
