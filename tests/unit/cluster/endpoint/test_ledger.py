"""Requests written down around their sending: answered ones are found, unsure ones are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.endpoint.ledger import RequestLedger, UnsureRequestError


def test_an_answer_is_found_by_the_next_process(tmp_path: Path) -> None:
    first = RequestLedger(f"{tmp_path}/requests")
    assert first.begin("000001") is None
    first.finish("000001", {"verdict": "induced"})
    assert first.begin("000001") == {"verdict": "induced"}
    second = RequestLedger(f"{tmp_path}/requests")
    assert second.begin("000001") == {"verdict": "induced"}
    assert second.num_unsure == 0


def test_what_was_on_its_way_is_not_sent_again_unless_asked_for(tmp_path: Path) -> None:
    RequestLedger(str(tmp_path)).begin("a")
    after = RequestLedger(str(tmp_path))
    assert after.num_unsure == 1
    with pytest.raises(UnsureRequestError, match="may have been paid"):
        after.begin("a")
    assert RequestLedger(str(tmp_path), ask_again=True).begin("a") is None


def test_what_was_paid_in_vain_is_known_to_whoever_sends_again(tmp_path: Path) -> None:
    first = RequestLedger(str(tmp_path))
    first.begin("a")
    first.abandon("a", paid={"cost_usd": 0.5})
    second = RequestLedger(str(tmp_path))
    assert (second.paid, second.num_unsure) == ({"a": {"cost_usd": 0.5}}, 0)
    assert second.begin("a") is None
    assert RequestLedger(str(tmp_path)).num_unsure == 1
    second.finish("a", {"cost_usd": 0.8})
    third = RequestLedger(str(tmp_path))
    assert (third.records, third.paid) == ({"a": {"cost_usd": 0.8}}, {})
    third.abandon("a", paid=third.records["a"])
    assert RequestLedger(str(tmp_path)).begin("a") is None


def test_what_was_not_sent_is_forgotten(tmp_path: Path) -> None:
    ledger = RequestLedger(str(tmp_path))
    ledger.begin("a")
    ledger.abandon("a")
    assert RequestLedger(str(tmp_path)).begin("a") is None
