"""Backfills for tests: simulated events, some lines of them broken, and models that break on purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cancellation.events.table import labelled_line
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.text.encoding import EncodedEvent
from cluster import storage
from cluster.commit import read_job_manifest
from tests.builders.verdict_models import Scores, WordModel

BROKEN = {3: b'{"event_id": ', 17: b'{"event": {"event_id": "x"}, "label": "induced"}', 30: b"\xff\xfe"}


def write_backfill(url: str, num_events: int = 60, *, broken: bool = True, seed: int = 1) -> int:
    """Write labelled events as JSONL, with broken lines between them; return the number of lines."""
    events = simulate(SimulationSettings(num_events=num_events), seed)
    lines = [labelled_line(labelled).encode() for labelled in events]
    if broken:
        for place, content in BROKEN.items():
            lines.insert(place, content)
    storage.write_bytes(url, b"\n".join(lines) + b"\n")
    return len(lines)


def model_folder(folder: Path) -> str:
    """A folder that stands for a model whose loader needs none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"name": "words"}))
    return str(folder)


def read_rows(url: str) -> list[dict[str, Any]]:
    """All rows that `_SUCCESS` names, in the order of the input."""
    manifest = read_job_manifest(url)
    assert manifest is not None, f"{url} is not committed"
    files = [storage.read_bytes(storage.join_url(url, name)) for name in manifest["files"]]
    return [row for content in files for row in pq.read_table(pa.BufferReader(content)).to_pylist()]


class BreakingModel(WordModel):
    """Fails as told on one event, and scores every other."""

    event_id: str = ""
    how: str = "dies"

    def score(self, events: Sequence[EncodedEvent]) -> Scores:
        scores = super().score(events)
        for row, event in enumerate(events):
            if event.event_id == self.event_id:
                if self.how == "dies":
                    raise RuntimeError("engine out of memory at 'secret text of the event'")
                scores.logits[row] = np.nan
        return scores


class BreakingLoader:
    """Loads a `BreakingModel`; cheap to send to workers."""

    def __init__(self, event_id: str, how: str) -> None:
        self.event_id, self.how = event_id, how

    def __call__(
        self, folder: Path, *, num_threads: int = 1, device: str = "cpu", dtype: str = "float16"
    ) -> BreakingModel:
        model = BreakingModel()
        model.event_id, model.how = self.event_id, self.how
        return model
