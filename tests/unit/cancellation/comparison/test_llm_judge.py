"""A language model's row of the table, asked for over a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cancellation.comparison.figures import Truth, compare
from cancellation.comparison.llm_judge import LlmJudge
from cancellation.decision.policy import load_policy
from cancellation.events.event import Event, parse_event
from cancellation.llm.endpoint_backend import EndpointBackend
from cancellation.llm.labelling import Labeller, LabellingSettings
from cluster.endpoint.settings import EndpointSettings
from tests.builders.cancellation_events import sample_event
from tests.servers.chat_endpoint import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


def _events(count: int) -> list[Event]:
    names = [{"event_id": f"e-{n}", "order_id": f"o-{n}", "buyer_reason": f"case-{n}"} for n in range(count)]
    return [parse_event({**sample_event(), **name}) for name in names]


def _labeller(server: ChatServer, **changes: Any) -> Labeller:
    endpoint = EndpointSettings(base_url=server.url, backoff_seconds=0.01, **changes)
    return Labeller(EndpointBackend(endpoint), LabellingSettings(), load_policy())


@pytest.mark.parametrize("bare", [True, False])
def test_events_are_ranked_only_by_probabilities_that_the_server_gave(server: ChatServer, bare: bool) -> None:
    server.behave = lambda case, number: "plain" if bare and case == "case-1" else "answer"
    found = LlmJudge(_labeller(server)).judge(_events(6))
    truth = Truth.of(["induced", "not_induced"] * 3, [None] * 6, ["TH"] * 6)
    figures = compare(found, truth, resamples=20)
    assert figures["precision"].value == pytest.approx(0.5)
    assert (figures["auc"].value is None) == bare
    assert (figures["recall_at_precision_95"].value is None) == bare
