"""What a finished run says of itself: `run.json` beside the output, and the same in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cluster import storage
from cluster.provenance import Provenance, hide_credentials
from cluster.tracking import TrackedRun

RUN = "run.json"


def shown_url(url: str) -> str:
    """Write a location as people may see it: short, and without credentials."""
    return hide_credentials(storage.short_url(url))


def run_record(
    identity: Mapping[str, Any], settings: Mapping[str, Any], figures: Mapping[str, Any], provenance: Provenance
) -> bytes:
    """Write a run for programs.

    Args:
        identity: What was read and used, and where the output went.
        settings: As they may be shown (`public_settings`).
        figures: What was counted and found.
        provenance: Code, versions and hardware.
    """
    finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"finished_at": finished_at, **identity, **provenance.as_dict(), "settings": settings, **figures}
    return json.dumps(content, indent=1).encode()


def track_report(
    tracked: TrackedRun,
    identity: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    files: Mapping[str, bytes],
) -> None:
    """Send a run's report to MLflow: tags, figures, and the files that lie beside the output."""
    tracked.tags(identity)
    tracked.metrics(metrics)
    for name, content in files.items():
        tracked.artifact(name, content)
