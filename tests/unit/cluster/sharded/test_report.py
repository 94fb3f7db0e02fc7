"""A run's record: whole, and without credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.provenance import collect_provenance
from cluster.sharded.report import RUN, run_record, shown_url, track_report


class Tracked:
    """Keeps what MLflow would be sent."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def tags(self, values: dict[str, Any]) -> None:
        self.sent |= values

    metrics = tags

    def artifact(self, path: str, content: bytes) -> None:
        self.sent[path] = content


def test_a_record_names_what_made_the_output_and_is_what_mlflow_gets() -> None:
    record = run_record({"input": "in"}, {"size": 3}, {"counts": {"read": 5}}, collect_provenance())
    content = json.loads(record)
    assert (content["input"], content["settings"], content["counts"]) == ("in", {"size": 3}, {"read": 5})
    assert {"finished_at", "commit", "versions", "hardware"} <= content.keys()
    tracked = Tracked()
    track_report(tracked, {"input": "in"}, {"read": 5.0}, {RUN: record})
    assert tracked.sent == {"input": "in", "read": 5.0, RUN: record}


def test_locations_are_short_and_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_url(str(tmp_path / "var" / "out")) == "var/out"
    assert "secret" not in shown_url("s3://key:secret@bucket/out")  # pragma: allowlist secret
