"""The runner of the day on which a GPU is lent: a step that fails or takes too long costs no other step its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu_day.__main__ import WHOLE_SECONDS, steps
from tests.benchmarks.gpu_day.steps import Outcome, Step, run_all, shares
from tests.conftest import PROJECT

WORKS = Step("works", "tests.benchmarks.gpu_day.ceilings", ("--tiny",), 100)
FAILS = Step("fails", "json.tool", ("/no/such/file",), 60)
SAYS_NOTHING = Step("says nothing", "this", (), 60)
HANGS = Step("hangs", "http.server", ("0", "--bind", "127.0.0.1"), 2)


def test_every_step_is_named_with_what_became_of_it_and_the_next_goes_on() -> None:
    *before, outcomes = run_all([FAILS, SAYS_NOTHING, HANGS, WORKS], whole_seconds=280)
    assert [len(some) for some in before] == [1, 2, 3], "there is something to write after each"
    errors = {outcome.name: outcome.error for outcome in outcomes}
    assert errors["hangs"] == "its 2 s were up"
    assert errors["fails"].startswith("it left with status ")
    assert errors["says nothing"] == "it left with status 0 and no JSON object"
    assert errors["works"] is None
    assert outcomes[-1].found["copy_gb_per_second"] > 0


def test_no_step_begins_when_the_whole_time_is_up() -> None:
    *_, outcomes = run_all([HANGS, WORKS], whole_seconds=1)
    assert [outcome.error for outcome in outcomes] == ["its 1 s were up", "not begun: the whole time was up"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_steps_fit_into_the_time_and_take_what_their_modules_take(dry_run: bool, tmp_path: Path) -> None:
    planned = steps(tmp_path, dry_run=dry_run)
    assert sum(step.seconds for step in planned) <= WHOLE_SECONDS
    names = [step.name for step in planned]
    assert names == ["ceilings", "model", "transformers", "vllm", "vllm, its defaults", "vllm, query first", "serving"]


def test_engines_are_held_against_what_the_card_can_do() -> None:
    row = {"engine": "fp8", "max_forward_tokens": 16384, "pairs_per_second": 1492.0, "tflops": 521.0}
    ceilings = Outcome("ceilings", 5.0, {"fp8_tflops": 1302.5, "bf16_tflops": 700.0, "copy_gb_per_second": 2000.0})
    engines = Outcome("transformers", 60.0, {"results": [{**row, "least_gb_per_second": 500.0}, {"error": "lost"}]})
    (found,) = shares([ceilings, engines])
    assert (found["step"], found["of_matrix"], found["of_copy"]) == ("transformers", 0.4, 0.25)
    assert shares([engines]) == []


def test_a_dry_run_that_has_no_time_says_so_in_its_json(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.gpu_day",
        str(tmp_path / "day.json"),
        "--dry-run",
        "--seconds",
        "0",
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "day.json").read_text())
    assert {step["error"] for step in written["steps"]} == {"not begun: the whole time was up"}
    assert written["dry_run"]
