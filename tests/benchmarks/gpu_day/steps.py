"""Steps of a benchmark, each a process of its own that is ended when its time is up; what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class Step:
    """One process, whose last line of output is a JSON object."""

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: int
    """Its time: it is ended then."""


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    seconds: float
    found: dict[str, Any] | None = None
    error: str | None = None


def run_step(step: Step, *, seconds: float) -> Outcome:
    """Run a step for as long as it may, and end it with all that it started."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", step.module, *step.arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 0))
    except subprocess.TimeoutExpired:
        _end(process)
        return Outcome(step.name, _since(started), error=f"its {seconds:.0f} s were up")
    try:
        found = json.loads((output.strip().splitlines() or ["nothing"])[-1])
    except json.JSONDecodeError:
        found = None
    if process.returncode or not isinstance(found, dict):
        what = "" if isinstance(found, dict) else " and no JSON object"
        return Outcome(step.name, _since(started), error=f"it left with status {process.returncode}{what}")
    return Outcome(step.name, _since(started), found=found, error=_first_error(found))


def run_all(planned: Sequence[Step], *, whole_seconds: float) -> Iterator[list[Outcome]]:
    """Run the steps, and give all outcomes so far after each; none begins when the whole time is up."""
    deadline = time.monotonic() + whole_seconds
    outcomes: list[Outcome] = []
    for step in planned:
        left = deadline - time.monotonic()
        if left > 0:
            print(f"gpu_day: {step.name}, at most {min(step.seconds, left):.0f} s", file=sys.stderr, flush=True)
            outcomes.append(run_step(step, seconds=min(step.seconds, left)))
        else:
            outcomes.append(Outcome(step.name, 0.0, error="not begun: the whole time was up"))
        yield list(outcomes)


def shares(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Hold what the engines did against what the card can do, as measured in the same run; empty without either."""
    found = {outcome.name: outcome.found for outcome in outcomes if outcome.found}
    ceilings = found.get("ceilings", {})
    rows = []
    for name, given in found.items():
        for row in given.get("results", []):
            kind = "fp8" if "fp8" in row.get("engine", "") else "bf16"
            if (matrix := ceilings.get(f"{kind}_tflops")) and "tflops" in row:
                shown = {key: row[key] for key in ("engine", "max_forward_tokens", "pairs_per_second")}
                of_copy = row["least_gb_per_second"] / ceilings["copy_gb_per_second"]
                rows.append({"step": name, **shown, "of_matrix": row["tflops"] / matrix, "of_copy": of_copy})
    return rows


def _end(process: subprocess.Popen[str]) -> None:
    """End a step and whatever it started, also what has a session of its own, as servers and Ray have."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _first_error(found: dict[str, Any]) -> str | None:
    return next((row["error"] for row in found.get("results", []) if "error" in row), None)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
