"""A byte-order mark that an editor puts in front of policy or kill switch."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cancellation.serving.rollout.test_policy_store import Files


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.kill.write_text("BR\n", encoding="utf-8-sig")
    files.put(b"\xef\xbb\xbf" + files.policy.read_bytes())
    store = files.store()
    assert (store.last_refusal, store.killed, store.market("TH").state) == (None, {"BR"}, "shadow")
