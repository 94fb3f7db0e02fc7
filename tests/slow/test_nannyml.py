"""The kept estimates of NannyML's CBPE are what NannyML says: made again in an environment of its own.

NANNYML_BIN names the `bin` folder of an environment with nannyml 0.13.1 and statsmodels, else one is made below
var/environments.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import PROJECT
from tests.servers.own_environment import own_environment
from tests.unit.cancellation.monitoring import cbpe_days
from tests.unit.cancellation.monitoring.test_estimated_precision import ESTIMATES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_nannyml_estimates_what_is_kept() -> None:
    python = own_environment("nannyml", "nannyml==0.13.1", "statsmodels", variable="NANNYML_BIN") / "python"
    done = subprocess.run([python, cbpe_days.__file__], cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    kept, found = json.loads(ESTIMATES.read_text()), json.loads(done.stdout)
    assert found["nannyml"] == kept["nannyml"]
    for ours, theirs in zip(kept["days"], found["days"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-6)
