"""What is installed is what is tracked: every file of the four packages, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGES = ("jobs", "relevance", "cancellation", "cluster")
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_USES_DATA = """
import cancellation, relevance
from cancellation.decision.policy import load_policy
from cancellation.events.event import parse_event
from cancellation.serving.inference.example_events import example_events
from relevance.prompting.guidelines import load_guidelines
load_policy(), load_guidelines(), [parse_event(event) for event in example_events()]
print(relevance.__file__, cancellation.__file__, sep="\\n")
"""


def _tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKAGES, *BUILT_FROM], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (PROJECT / name).is_file()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy, installed into an empty folder; without network."""
    root = tmp_path_factory.mktemp("packaging")
    for name in _tracked():
        (root / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, root / "copy" / name)
    offline = ("--no-deps", "--no-index")
    subprocess.run([*_PIP, "wheel", *offline, "--no-build-isolation", "-w", root, root / "copy"], check=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([*_PIP, "install", *offline, "--no-compile", "--target", root / "installed", wheel], check=True)
    return root / "installed"


def test_every_tracked_file_of_the_packages_is_installed_and_no_other(installed: Path) -> None:
    """No kind is left out: settings files, templates, schemas, fixtures and both small models are data of packages."""
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    found = {name for name in found if ".dist-info/" not in name}
    tracked = set(_tracked()) - set(BUILT_FROM)
    assert sorted(tracked - found) == [], "the wheel lacks these: see [tool.setuptools] in pyproject.toml"
    assert sorted(found - tracked) == [], "the wheel has these, which are not tracked below the packages"


def test_what_is_installed_finds_its_data(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _USES_DATA], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert all(Path(line).is_relative_to(installed) for line in done.stdout.split())
