"""Programs that do not fit beside this project's packages, each in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def own_environment(name: str, *requirements: str, variable: str) -> Path:
    """Give the `bin` folder of an environment with a package; make it below `var/` once, or skip and say why.

    Args:
        name: Of the folder.
        requirements: What is installed, such as nannyml==0.13.1; the first stands for all.
        variable: Of the environment; names the `bin` folder of one that is there.
    """
    if variable in os.environ:
        return Path(os.environ[variable])
    folder = PROJECT / "var" / "environments" / name
    ready = folder / f".{requirements[0]}"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=1200)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"no environment with {requirements[0]}, and {variable} names none: {last}")
        ready.touch()
    return folder / "bin"
