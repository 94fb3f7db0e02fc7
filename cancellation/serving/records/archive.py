"""The archive: a replica's three logs on the local disk, and the process that ships them to object storage.

Shipping is a process of its own with a low priority: it turns records into parquet with all the CPU it can get,
which would stand in the way of answers. It ends with the replica that started it, whatever ended that, because
its standard input ends; where several replicas share a disk, one ships and the others wait for the lock.

    python -m cancellation.serving.records.archive FOLDER OUTPUT SETTINGS_JSON
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cancellation.serving.records.decision_log import DecisionLog, DecisionLogSettings
from cancellation.serving.records.decision_record import decision_table
from cancellation.serving.records.feedback import feedback_table
from cancellation.serving.records.log_shipping import Shipper, ShipperSettings
from cluster.storage import absolute_url, join_url, write_bytes

TABLES = {"decisions": decision_table, "shadow": decision_table, "feedback": feedback_table}
"""The logs: each a folder below `FOLDER`, and below `OUTPUT`."""

STATUS_FILE = "shipping.json"
_NICENESS = 15
_LAST_SHIPMENT_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Archive:
    """Three logs and the process that empties them."""

    def __init__(self, folder: Path, output: str | None, log: DecisionLogSettings, shipper: ShipperSettings) -> None:
        self.folder = folder
        self.decisions, self.shadow, self.feedback = (DecisionLog(folder / name, log) for name in TABLES)
        self._process: subprocess.Popen[bytes] | None = None
        if output is not None:
            command = [sys.executable, "-m", __name__, str(folder), absolute_url(output), shipper.model_dump_json()]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    @property
    def logs(self) -> tuple[DecisionLog, ...]:
        """All three."""
        return self.decisions, self.shadow, self.feedback

    def shipping_status(self) -> Mapping[str, Any]:
        """What the shipping process last said: records shipped, failures; nothing if it has not begun."""
        try:
            return json.loads((self.folder / STATUS_FILE).read_bytes())
        except (OSError, ValueError):
            return {}

    def close(self) -> None:
        """Seal the logs and let the process ship them; wait for that, as a machine that is no longer needed goes away.

        What is not shipped in time stays on the disk, for the next replica of this machine.
        """
        for log in self.logs:
            log.close()
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(_LAST_SHIPMENT_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("decision log %s: not all shipped within %g s", self.folder, _LAST_SHIPMENT_SECONDS)


def ship(folder: Path, output: str, settings: ShipperSettings) -> None:
    """Ship all logs until standard input ends, and once more then."""
    os.nice(_NICENESS)
    shippers = [
        Shipper(folder / name, join_url(output, name), settings, table_of=table) for name, table in TABLES.items()
    ]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), ended.set()), daemon=True).start()
    while True:
        last = ended.wait(settings.interval_seconds)
        for shipper in shippers:
            shipper.ship_once()
        status = {
            "shipped": sum(shipper.num_shipped for shipper in shippers),
            "failures": sum(shipper.num_failures for shipper in shippers),
            "failing": any(shipper.last_failure for shipper in shippers),
        }
        write_bytes(str(folder / STATUS_FILE), json.dumps(status).encode())
        if last:
            return


if __name__ == "__main__":
    ship(Path(sys.argv[1]), sys.argv[2], ShipperSettings.model_validate_json(sys.argv[3]))
