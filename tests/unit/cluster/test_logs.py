"""Log lines: an id of the run in each, and what is written where."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest

from cluster.logs import RUN_VARIABLE, LastingFault
from tests.conftest import PROJECT

SCRIPT = """
import logging, sys
from cluster import logs
getattr(logs, sys.argv[1])()
for name in ("cluster.commit", "somebody.else", "httpx2"):
    for level in ("INFO", "WARNING"):
        logging.getLogger(name).log(getattr(logging, level), "said")
print(logs.job_run_id())
"""


def _lines(how: str, **variables: str) -> tuple[str, set[tuple[str, str]]]:
    """The run's id, and level and logger of each line that was written with it."""
    clean = {name: value for name, value in os.environ.items() if name not in (RUN_VARIABLE, "LOG_LEVEL")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        env={**clean, **variables},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    run = done.stdout.strip()
    found = re.findall(rf"^\S+ \S+ (\w+) run={run} ([\w.]+): said$", done.stderr, re.MULTILINE)
    assert len(found) == len(done.stderr.splitlines())
    return run, set(found)


OWN_INFO, OTHER_INFO = ("INFO", "cluster.commit"), ("INFO", "somebody.else")
OF_A_REQUEST = ("INFO", "httpx2")
WARNINGS = {("WARNING", "cluster.commit"), ("WARNING", "somebody.else"), ("WARNING", "httpx2")}


@pytest.mark.parametrize(
    ("how", "variables", "more"),
    [
        ("log_as_driver", {}, {OWN_INFO, OTHER_INFO}),
        ("log_as_driver", {"LOG_LEVEL": "info"}, {OWN_INFO, OTHER_INFO, OF_A_REQUEST}),
        ("log_as_driver", {"LOG_LEVEL": "warning"}, set()),
        ("log_as_worker", {}, {OWN_INFO}),
        ("log_as_worker", {"LOG_LEVEL": "warning"}, set()),
        ("log_as_local_worker", {}, set()),
        ("log_as_local_worker", {"LOG_LEVEL": "info"}, {OWN_INFO}),
    ],
)
def test_each_process_writes_what_its_readers_want(how: str, variables: dict[str, str], more: set) -> None:
    _, written = _lines(how, **variables)
    assert written == WARNINGS | more


def test_a_run_has_an_id_of_its_own_unless_it_is_given_one() -> None:
    drawn = {_lines("log_as_driver")[0] for _ in range(2)}
    assert len(drawn) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", run) for run in drawn)
    assert _lines("log_as_worker", **{RUN_VARIABLE: "scheduled-7"})[0] == "scheduled-7"


def test_a_fault_that_lasts_is_told_of_seldom_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    fault = LastingFault(logging.getLogger("cluster.disk"), "disk", clock=lambda: now[0])

    def told(seconds: int, *, fails: bool) -> list[str]:
        caplog.clear()
        for _ in range(seconds):
            fault.failed("disk: full; make room") if fails else fault.works()
            now[0] += 1
        return caplog.messages

    assert told(60, fails=False) == []
    assert told(1, fails=True) == ["disk: full; make room"]
    assert told(9, fails=True) == []
    assert len(told(86_400, fails=True)) in range(24, 34), "of a day once an hour"
    assert told(60, fails=False) == ["disk: works again"]
    assert len(told(9, fails=True)) == 1, "what had worked for a minute fails anew"


def test_what_fails_every_other_time_is_told_of_seldom(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    fault = LastingFault(logging.getLogger("cluster.disk"), "disk", clock=lambda: now[0])
    for _ in range(3600):
        fault.failed("disk: full; make room")
        fault.works()
        now[0] += 1
    assert len(caplog.messages) < 24
