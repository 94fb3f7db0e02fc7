"""Ray Serve's switches, and how a server waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.serving.service import (
    ServiceSettings,
    Signals,
    prepare_environment,
    rollout_progress,
    secret_path,
)


def test_switches_are_turned_before_ray_is_imported_and_what_is_set_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    turned = {"RAY_SERVE_HAPROXY_RETRIES": "7"}
    prepare_environment(ServiceSettings(port=8099), turned)
    assert turned["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert turned["RAY_AUTH_MODE"] == "token"
    assert len(turned["RAY_AUTH_TOKEN"]) == 64
    assert "8099" in turned["RAY_SERVE_HAPROXY_SOCKET_PATH"]
    assert turned["RAY_SERVE_HAPROXY_RETRIES"] == "7"


def test_a_port_is_meant_for_one_thing() -> None:
    with pytest.raises(ValueError, match=r"expected different ports in service\.port, service\.stats_port"):
        ServiceSettings(port=8404)
    assert ServiceSettings(port=8404, haproxy=False).places == {"service.port": ("127.0.0.1", 8404)}


def test_a_secrets_file_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERDICTS_TOKENS_FILE", "/run/secrets/tokens")
    assert secret_path("VERDICTS_TOKENS_FILE") == "/run/secrets/tokens"
    monkeypatch.setenv("VERDICTS_TOKENS_FILE", "")
    assert secret_path("VERDICTS_TOKENS_FILE") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_wait_also_when_another_thread_takes_it(number: signal.Signals) -> None:
    script = """
import threading, time
from cluster.serving.service import Signals

with Signals() as signals:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    print("waiting", flush=True)
    while not (found := signals.wait()):
        pass
    print(found, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert int(out) == number


def test_signals_that_come_while_nobody_waits_are_kept_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        for number in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert [signals.wait(), signals.wait()] == [signal.SIGHUP, signal.SIGTERM]
        assert signals.wait() is None
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("application", "deployments", "finished", "failed"),
    [
        ("RUNNING", {"gateway": "HEALTHY", "spare": "HEALTHY"}, True, set()),
        ("DEPLOY_FAILED", {"gateway": "HEALTHY", "spare": "DEPLOY_FAILED"}, True, {"spare"}),
        ("DEPLOY_FAILED", {"gateway": "UPDATING", "spare": "DEPLOY_FAILED"}, False, {"spare"}),
        # What others still wait for may never come: a failure is told at once.
        ("DEPLOY_FAILED", {"gateway": "UPDATING", "model": "DEPLOY_FAILED"}, False, {"model"}),
        ("UNHEALTHY", {"gateway": "HEALTHY", "spare": "UNHEALTHY"}, True, set()),
        ("UNHEALTHY", {"gateway": "UNHEALTHY", "spare": "HEALTHY"}, False, set()),
        # Serve has not looked at the new target yet: this is the end of the one before.
        ("DEPLOYING", {"gateway": "HEALTHY", "model": "DEPLOY_FAILED"}, False, set()),
    ],
)
def test_a_rollout_is_judged_by_what_cannot_be_done_without(
    application: str, deployments: dict[str, str], finished: bool, failed: set[str]
) -> None:
    states = {
        deployment: SimpleNamespace(
            status=state, message="" if state == "HEALTHY" else "Retrying. Error:\nno network\n"
        )
        for deployment, state in deployments.items()
    }
    status = SimpleNamespace(status=application, deployments=states)
    assert rollout_progress(status, lambda name: name == "spare") == (finished, dict.fromkeys(failed, "no network"))
