"""What a log holds of an event's texts: its contact data gone, by reference, or as it came."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cancellation.contact_data.logged_event import is_by_reference, redact_event
from cancellation.events.event import parse_event
from tests.builders.cancellation_events import sample_event


def _with_contact_data() -> dict[str, Any]:
    event = sample_event()
    event["buyer_reason"] = "seller said call 0812 3456 7890"
    event["chat"][1]["text"] = "mail me: a.b@mail.example"
    event["fulfilment"][1]["note"] = "driver 0812 3456 7890"
    event["concurrent_orders"][0]["chat_excerpt"] = "wa.me/628123456789"
    return event


def test_an_event_keeps_its_structure_and_loses_contact_data_in_every_text() -> None:
    event = _with_contact_data()
    logged = redact_event(event, "redacted")
    assert logged["buyer_reason"] == "seller said call <PHONE>"
    assert [message["text"] for message in logged["chat"]][:2] == ["is it on its way?", "mail me: <EMAIL>"]
    assert logged["fulfilment"][1]["note"] == "driver <PHONE>"
    assert logged["concurrent_orders"][0]["chat_excerpt"] == "<LINK>"
    for name in event.keys() - {"buyer_reason", "chat", "fulfilment", "concurrent_orders"}:
        assert logged[name] == event[name]
    assert [message["at"] for message in logged["chat"]] == [message["at"] for message in event["chat"]]
    assert event == _with_contact_data(), "the event that was given must not change"
    parse_event(logged)


def test_a_reference_holds_digest_and_length_of_texts_only() -> None:
    event = _with_contact_data()
    logged = redact_event(event, "reference")
    length = re.fullmatch(r"sha256:[0-9a-f]{64} length:(\d+)", logged["chat"][0]["text"])[1]
    assert int(length) == len(event["chat"][0]["text"])
    assert len({message["text"] for message in logged["chat"]}) == len({m["text"] for m in event["chat"]})
    assert "0812" not in str(logged)
    assert "mail" not in str(logged)
    parse_event(logged)


def test_full_is_as_sent_and_another_mode_is_refused() -> None:
    event = _with_contact_data()
    assert redact_event(event, "full") == event
    with pytest.raises(ValueError, match="mode 'none': expected redacted, reference or full"):
        redact_event(event, "none")


def test_only_an_event_of_which_every_text_is_a_reference_is_one_by_reference() -> None:
    event = _with_contact_data()
    assert is_by_reference(redact_event(event, "reference"))
    assert not is_by_reference(event)
    # Whoever types what looks like a reference does not hide what the others said.
    event["chat"][0]["text"] = f"sha256:{'a' * 64} length:5"
    assert not is_by_reference(event)
    assert not is_by_reference({"chat": [], "buyer_reason": None})
