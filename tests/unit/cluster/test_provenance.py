"""The name of the code: a training that other code has begun is not gone on with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT


def _digest(project: Path, *packages: str) -> str:
    command = [
        sys.executable,
        "-c",
        "import sys; from cluster.provenance import code_digest as d; print(d(*sys.argv[1:]))",
    ]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.check_output([*command, *packages], cwd=project, env=environment, text=True).strip()


def test_changed_code_has_another_name_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("here", "there"):
        shutil.copytree(PROJECT / "cluster", tmp_path / name / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    before = _digest(tmp_path / "here", "cluster.training")
    assert _digest(tmp_path / "there", "cluster.training") == before
    with (tmp_path / "there" / "cluster" / "storage.py").open("a") as file:
        file.write("CHANGED = True\n")
    assert _digest(tmp_path / "there", "cluster.training") == before, "another room does not decide"
    with (tmp_path / "there" / "cluster" / "training" / "train.py").open("a") as file:
        file.write("CHANGED = True\n")
    assert _digest(tmp_path / "there", "cluster.training") != before
