"""A pipe in the place of a file is no file: whoever waited for its writer would see no kill switch any more."""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.cancellation.serving.rollout.test_policy_store import Files


def test_a_pipe_as_the_policy_is_refused_and_the_kill_switch_goes_on(tmp_path: Path) -> None:
    files = Files(tmp_path)
    store = files.store()
    files.policy.unlink()
    os.mkfifo(files.policy)
    files.throw("BR")
    assert store.reload_if_changed()
    assert (store.market("BR").state, store.killed) == ("off", {"BR"})
    assert store.last_refusal is not None


def test_a_pipe_as_the_kill_switch_turns_everything_off_until_it_is_gone(tmp_path: Path) -> None:
    files = Files(tmp_path)
    store = files.store()
    os.mkfifo(files.kill)
    assert store.reload_if_changed()
    assert store.market("BR").state == store.market("TH").state == "off"
    files.take_back()
    assert store.reload_if_changed()
    assert store.market("BR").state == "live"
