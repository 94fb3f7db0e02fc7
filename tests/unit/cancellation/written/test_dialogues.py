"""The written dialogues that ship, and the events that they become."""

from __future__ import annotations

from collections import Counter

import pytest

from cancellation.events.event import parse_event
from cancellation.events.table import event_mapping
from cancellation.written.dialogue import Dialogue, parse_dialogue, written_dialogues
from cancellation.written.staging import stage

ROW = {
    "id": "w0-en-001",
    "market": "SG",
    "lang": "en",
    "kind": "free",
    "label": "induced",
    "factors": ["fulfilment.deadline_missed", "call.from_seller"],
    "reason": None,
    "placed": 3.0,
    "t": [
        ["b", 0, "hello, sent already?"],
        ["e", 600, "deadline_extended"],
        ["e", 2000, "deadline_missed"],
        ["c", 5, "seller answered 60"],
        ["b", 1, "ok then"],
    ],
    "cancel": 2,
}


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return written_dialogues()


def test_there_are_enough_of_each_language_and_label(dialogues: list[Dialogue]) -> None:
    languages = Counter(dialogue.language for dialogue in dialogues)
    assert len(languages) == 9
    assert min(languages.values()) >= 200
    assert {dialogue.label for dialogue in dialogues} == {"induced", "not_induced", "inconclusive"}
    without_chat = sum(not any(turn.kind in ("buyer", "seller") for turn in one.turns) for one in dialogues)
    assert without_chat >= 0.12 * (len(dialogues) - without_chat)


def test_ids_are_unique_and_an_inconclusive_one_has_no_factor(dialogues: list[Dialogue]) -> None:
    assert len({dialogue.dialogue_id for dialogue in dialogues}) == len(dialogues)
    assert not [one.dialogue_id for one in dialogues if one.label == "inconclusive" and one.factors]
    seller = [one for one in dialogues if one.label == "not_induced" and any(f[:5] != "buyer" for f in one.factors)]
    assert not seller


def test_writers_can_be_held_out(dialogues: list[Dialogue]) -> None:
    apart = written_dialogues(only=("w9", "w10"))
    rest = written_dialogues(without=("w9", "w10"))
    assert {one.writer for one in apart} == {"w9", "w10"}
    assert len(apart) + len(rest) == len(dialogues)
    assert not {one.plot for one in apart} & {one.plot for one in rest}


def test_every_dialogue_becomes_a_valid_event(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues[::7]:
        labelled = stage(dialogue, 0)
        mapping = event_mapping(labelled.event, labelled.utc_offset_hours)
        assert parse_event(mapping) == labelled.event
        told = [turn.text for turn in dialogue.turns if turn.kind in ("buyer", "seller", "system")]
        assert [message.text for message in labelled.event.chat] == told
        assert labelled.event.buyer_reason == dialogue.reason


def test_stagings_differ_around_the_same_words_and_repeat_exactly() -> None:
    dialogue = parse_dialogue(ROW, "here")
    first, second, again = stage(dialogue, 0), stage(dialogue, 1), stage(dialogue, 0)
    assert first == again
    assert first.event.chat != second.event.chat  # other instants
    assert [m.text for m in first.event.chat] == [m.text for m in second.event.chat]


def test_deadlines_fit_what_is_told() -> None:
    for number in range(20):
        event = stage(parse_dialogue(ROW, "here"), number).event
        extended, missed = event.fulfilment
        assert extended.at < event.order.promised_ship_at < missed.at < event.cancelled_at
        assert event.calls[0].duration_seconds == 60


@pytest.mark.parametrize(
    ("change", "where"),
    [({"label": "guilty"}, "label"), ({"market": "XX"}, "market"), ({"factors": ["chat.rude"]}, "factors")],
)
def test_a_wrong_code_names_its_place(change: dict, where: str) -> None:
    with pytest.raises(ValueError, match=f"file line 3: expected {where}"):
        parse_dialogue(ROW | change, "file line 3")


def test_an_unknown_turn_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a message"):
        parse_dialogue(ROW | {"t": [["e", 1, "exploded"]]}, "file line 3")


def test_an_unknown_writer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected known writers, found w99"):
        written_dialogues(without=("w99",))
