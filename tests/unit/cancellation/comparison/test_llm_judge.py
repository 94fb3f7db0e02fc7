"""A language model's row of the table, asked for over a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cancellation.comparison.figures import Truth, compare
from cancellation.comparison.kept_answers import KeptAnswers, paid_before
from cancellation.comparison.llm_judge import LlmJudge
from cancellation.decision.policy import load_policy
from cancellation.events.event import Event, parse_event
from cancellation.llm.endpoint_backend import EndpointBackend
from cancellation.llm.labelling import Labeller, LabellingSettings
from cluster.endpoint.ledger import RequestLedger
from cluster.endpoint.settings import EndpointSettings
from tests.builders.cancellation_events import sample_event
from tests.servers.chat_endpoint import ANSWER, ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _events(count: int) -> list[Event]:
    names = [{"event_id": f"e-{n}", "order_id": f"o-{n}", "buyer_reason": f"case-{n}"} for n in range(count)]
    return [parse_event({**sample_event(), **name}) for name in names]


def _judge(server: ChatServer, folder: Path, *, ask_again: bool = False, **changes: Any) -> LlmJudge:
    endpoint = EndpointSettings(base_url=server.url, backoff_seconds=0.01, **changes)
    settings = LabellingSettings(ask_again=ask_again)
    kept = KeptAnswers(str(folder), {"model": "m"}, settings.judging, ask_again=ask_again, parallel=4)
    return LlmJudge(Labeller(EndpointBackend(endpoint), settings, load_policy()), kept, max_failed_fraction=0.2)


def test_one_bad_answer_costs_no_other(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "off" if case == "case-5" else "answer"
    found = _judge(server, tmp_path).judge(_events(6))
    assert found.num_unanswered == 1
    assert found.probabilities.argmax(axis=1).tolist() == [0, 0, 0, 0, 0, 2]
    asked = sum(server.asked.values())
    again = _judge(server, tmp_path)
    assert again.judge(_events(6)).probabilities.tolist() == found.probabilities.tolist()
    assert len(again.taken) == 5
    assert sum(server.asked.values()) == asked
    assert again.judge([*_events(2), *_events(2)]).num_unanswered == 0  # twice in one set, and in another set
    assert sum(server.asked.values()) == asked


def test_seconds_are_the_servers_and_not_the_clients_own_pace(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "refuse:500" if case == "case-5" and number == 0 else "answer"
    for pace in ({"concurrency": 1}, {"requests_per_minute": 120.0}):
        slow = ChatServer(server.behave, seconds_per_token=0.06)
        judge, started = _judge(slow, tmp_path / slow.url[-8:-3], **pace), time.monotonic()
        judge.judge(_events(6))
        slow.stop()
        whole = time.monotonic() - started
        took = [one["seconds"] for one in judge.taken]
        assert min(took) >= 0.06 * len(ANSWER)
        # Each waits for those before it, six times as long as it takes: 21 turns where six would do.
        assert sum(took) < 1.6 * whole


def test_what_broke_off_before_an_answer_was_waited_for(tmp_path: Path) -> None:
    slow = ChatServer(lambda case, number: "answer" if number else "half:7", seconds_per_token=0.05)
    judge = _judge(slow, tmp_path)
    judge.judge(_events(1))
    slow.stop()
    assert slow.asked == {"case-0": 2}
    assert judge.taken[0]["seconds"] >= 0.05 * (7 + len(ANSWER))


def test_too_many_bad_answers_end_it_and_keep_the_good_ones(server: ChatServer, tmp_path: Path) -> None:
    server.behave = lambda case, number: "refuse:400" if case in ("case-0", "case-1") else "answer"
    with pytest.raises(RuntimeError, match=r"2 of 6 events got no usable answer.*max_failed_fraction"):
        _judge(server, tmp_path).judge(_events(6))
    server.behave = lambda case, number: "answer"
    assert _judge(server, tmp_path).judge(_events(6)).num_unanswered == 0
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize("bare", [True, False])
def test_events_are_ranked_only_by_probabilities_that_the_server_gave(
    server: ChatServer, tmp_path: Path, bare: bool
) -> None:
    server.behave = lambda case, number: "plain" if bare and case == "case-1" else "answer"
    found = _judge(server, tmp_path).judge(_events(6))
    truth = Truth.of(["induced", "not_induced"] * 3, [None] * 6, ["TH"] * 6)
    figures = compare(found, truth, resamples=20)
    assert figures["precision"].value == pytest.approx(0.5)
    assert (figures["auc"].value is None) == bare
    assert (figures["recall_at_precision_95"].value is None) == bare


def test_what_was_paid_in_vain_stays_in_the_budget(tmp_path: Path) -> None:
    ledger = RequestLedger(str(tmp_path / "of-one-row"))
    for key in ("broken off", "answered"):
        ledger.begin(key)
    ledger.abandon("broken off", paid={"cost_usd": 0.5})
    assert paid_before(str(tmp_path)) == 0.5
    ledger.finish("answered", {"cost_usd": 0.25})
    assert paid_before(str(tmp_path)) == 0.75
