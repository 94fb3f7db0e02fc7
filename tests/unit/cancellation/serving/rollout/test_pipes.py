"""Places that hold no file, or nothing any more: whoever looks there must not lose sight of the kill switch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("by", ["a line", "a link to nothing"])
def test_a_kill_switch_that_goes_together_with_the_policy_stays_thrown_until_the_policy_is_back(
    tmp_path: Path, by: str
) -> None:
    (folder := tmp_path / "here").mkdir()
    files = Files(folder)
    files.ledger = tmp_path / "ledger.jsonl"
    store = files.store()
    files.throw("BR") if by == "a line" else files.kill.symlink_to("all")
    assert store.reload_if_changed()
    killed = {"BR"} if by == "a line" else {"*"}
    folder.rename(tmp_path / "elsewhere")  # as a volume that is taken away
    for one in (store, files.store()):
        one.reload_if_changed()
        assert (one.killed, one.market("BR").state) == (killed, "off")
        assert one.last_refusal is not None
    (tmp_path / "elsewhere").rename(folder)
    files.take_back()
    assert store.reload_if_changed()
    assert (store.killed, store.market("BR").state) == (frozenset(), "live")
