"""Redaction: contact data goes however it is disguised; what a verdict rests on stays."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancellation.events.clean_text import INVISIBLE
from cancellation.events.event import parse_event
from cancellation.serving.records.redaction import redact, redact_event
from cancellation.text.timeline import SPECIAL_TOKENS
from tests.builders.cancellation_events import sample_event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call 0812-3456-7890 please", "call <PHONE> please"),
        ("hubungi +62 (812) 3456 7890.", "hubungi <PHONE>."),
        ("081234567", "<PHONE>"),
        ("โทร ๐๘๑ ๒๓๔ ๕๖๗๘", "โทร <PHONE>"),
        ("ＴＥＬ ０９１２３４５６７８", "ＴＥＬ <PHONE>"),
        ("0\u200b8\u200b1\u200b2\u200b3\u200b4\u200b5\u200b6", "<PHONE>"),
        ("\u202e0987654321\u202c ok", "<PHONE> ok"),
        ("0️⃣9️⃣1️⃣2️⃣3️⃣4️⃣5️⃣6️⃣", "<PHONE>\u20e3"),
        ("⓪⑨①②③④⑤⑥", "<PHONE>"),
        ("加我 一三八零零一三八零零零", "加我 <PHONE>"),
        ("0 . 8 . 1 . 2 . 3 . 4 . 5 . 6", "<PHONE>"),
        ("card 4111 1111 1111 1111 thanks", "card <CARD> thanks"),
        ("4111111111111111", "<CARD>"),
        ("4111111111111112", "<NUMBER>"),
        ("passport A1234567", "passport <NUMBER>"),
        ("CPF 123.456.789-09", "CPF <PHONE>"),
        ("ana.souza+loja@mail.example.br!", "<EMAIL>!"),
        ("ana (at) mail (dot) com", "<EMAIL>"),
        ("see https://wa.me/6281234567890 now", "see <LINK> now"),
        ("t.me/some_shop", "<LINK>"),
        ("www.instagram.com/some.shop?x=1 pls", "<LINK> pls"),
        ("https://me:secret@host.example/x", "<LINK>"),  # pragma: allowlist secret
        ("https://video.example/@some.shop", "<LINK>"),
        ("tel:0812 now", "<LINK> now"),
        ("follow @some_shop", "follow <HANDLE>"),
        ("LINE ID: someshop99 ok", "LINE ID: <HANDLE> ok"),
        ("微信：shop_99", "微信：<HANDLE>"),
        ("WA: 0812 3456 789", "WA: <PHONE>"),
    ],
)
def test_contact_data_becomes_a_token(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stock habis kak, tolong cancel ya",
        "please cancel, I pay you 50.000 back",
        "Rp 1.250.000 or 1.250.000 VND or R$ 1.250.000,00 each",
        "promised for 2026-03-14 09:26, then 15/03/2026",
        "[SELLER] [T30M] out of stock [CUT] [BUYER] ok",
        "order 123456 of 3 pcs @20000 each, size 42-44",
        "https://shop.example/item/42?size=xl",
        "ร้านของหมดค่ะ ยกเลิกให้หน่อยนะคะ",
        "line up the boxes: two of them",
    ],
)
def test_what_is_no_contact_data_stays(text: str) -> None:
    assert redact(text) == text


PIECES = [
    "0812",
    "7",
    "๕",
    "①",
    "三",
    "-",
    ".",
    "+62",
    "@",
    "(at)",
    "a.b",
    ".com",
    "://",
    "t.me/",
    "x",
    "<PHONE>",
    "2026-03-14",
    "1.250.000",
    "🍎",
    "[",
    "]",
    "ก",
    "wa:",
    "Rp",
]
PARTS = st.sampled_from([*SPECIAL_TOKENS, *PIECES, " ", "\u200b", "\u202e", "\u00ad", "\ud83d"])
MIXED_TEXTS = st.lists(PARTS | st.text(max_size=3), max_size=20).map("".join)


@given(MIXED_TEXTS | st.text(alphabet="0123456789 -\u200b\u202e+๐๕①三.:@a", max_size=60))
def test_no_long_run_of_digits_is_left_whatever_hides_in_it(text: str) -> None:
    redacted = redact(text)
    assert re.search(r"\d{7}", INVISIBLE.sub("", redacted)) is None
    assert redact(redacted) == redacted


@given(st.text(alphabet="0123456789", min_size=5, max_size=18), st.data())
def test_a_number_does_not_survive_zero_width_and_direction_marks_between_its_digits(
    digits: str, data: st.DataObject
) -> None:
    marks = st.text(alphabet="\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2066\u2069\ufeff\u00ad -.", max_size=3)
    hidden = "".join(digit + data.draw(marks) for digit in f"99{digits}")  # nothing that begins so reads as a date
    assert re.search(r"\d", redact(f"call {hidden} now")) is None


@given(st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=8), max_size=20).map(" ".join))
def test_structural_tokens_are_kept(text: str) -> None:
    tokens = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    assert tokens.findall(redact(text)) == tokens.findall(text)


@pytest.mark.parametrize("text", ["a://" * 1000, "ก" * 4000, "0-" * 2000, "a@" * 2000, "x.com" * 800, "-@" * 2000])
@pytest.mark.timeout(5)
def test_texts_made_to_be_slow_are_not(text: str) -> None:
    for _ in range(20):
        redact(text + " 1")


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
