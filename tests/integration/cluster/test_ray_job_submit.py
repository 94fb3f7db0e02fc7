"""`ray job submit` against a real `ray start --head`, as on a cluster: the code travels, driver and workers agree."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.commit import read_job_manifest
from tests.builders.pairs_data import make_pairs, read_committed, write_pairs
from tests.conftest import PROJECT
from tests.servers.ray_head import RAY, ray_head


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    with ray_head(tmp_path) as environment:
        yield environment


@pytest.mark.timeout(400)
def test_a_submitted_job_scores_with_the_code_it_brought(
    head: dict[str, str], bucket: str, tiny_model: Path, tmp_path: Path
) -> None:
    write_pairs(make_pairs(60), f"{bucket}/pairs/ds=2026-11-22")
    variables = {name: value for name, value in head.items() if name.startswith("AWS_")}
    job = [f"input={bucket}/pairs/ds=2026-11-22", f"output={bucket}/scores", f"model={tiny_model}"]
    tracking = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    submit = [RAY, "job", "submit", "--working-dir", ".", "--runtime-env-json", json.dumps({"env_vars": variables})]
    command = [sys.executable, "-m", "jobs.relevance_score", *job, tracking, "scoring.shard_rows=30"]
    done = subprocess.run(
        [*submit, "--", *command],
        cwd=PROJECT,
        env=head,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "succeeded" in done.stdout
    assert len(read_committed(f"{bucket}/scores/ds=2026-11-22")) == 60
    assert read_job_manifest(f"{bucket}/scores/ds=2026-11-22")["figures"]["counts"]["labelled"] == 60
