"""A labelling process of its own, to be killed: `python -m tests.servers.label_driver SERVER LEDGER EVENTS`.

Labels the events of a JSONL file through an endpoint with four threads, without Ray, and prints one JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cancellation.decision.policy import load_policy
from cancellation.events.files import read_event_line
from cancellation.llm.endpoint_backend import EndpointBackend
from cancellation.llm.labelling import Labeller, LabellingSettings, count_rows, label_rows
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.settings import EndpointSettings


def main() -> None:
    server, ledger, events = sys.argv[1:4]
    rows = [read_event_line(line, f"e:{n}") for n, line in enumerate(Path(events).read_bytes().splitlines(), 1)]
    backend = EndpointBackend(EndpointSettings(base_url=server, timeout_seconds=60, concurrency=4))
    table = label_rows(rows, Labeller(backend, LabellingSettings(), load_policy()), RequestLedger(ledger), parallel=4)
    print(json.dumps(count_rows(table).as_dict()))


if __name__ == "__main__":
    main()
