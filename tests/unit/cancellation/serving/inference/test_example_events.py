"""What a replica warms up on: events of every kind, as the contract has them."""

from __future__ import annotations

from cancellation.events.event import parse_event
from cancellation.serving.inference.example_events import example_events
from tests.servers.serving_replicas import shipped_model


def test_the_examples_are_of_several_kinds() -> None:
    events = [parse_event(event) for event in example_events()]
    encoder = shipped_model().encoder
    lengths = [len(encoder.encode(event).token_ids) for event in events]
    assert len(events) == 8
    assert len({event.market for event in events}) >= 7
    assert min(len(event.chat) for event in events) == 0
    assert max(len(event.chat) for event in events) > 40
    assert max(lengths) == shipped_model().spec.max_tokens
    assert min(lengths) < max(lengths) // 2 + 1
