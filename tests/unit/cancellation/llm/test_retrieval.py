"""Examples for a case: near, of its market, balanced, never the case itself."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cancellation.events.event import parse_event
from cancellation.events.examples import Example
from cancellation.llm.retrieval import ExampleIndex, spoken_text
from tests.builders.cancellation_events import before, sample_event
from tests.conftest import PROJECT

TEXTS = (
    "please cancel it, we have no stock left",
    "I changed my mind, I want another colour",
    "your parcel is late because of rain, please wait",
    "found the same thing cheaper elsewhere, bye",
    "wrong address, I will order once more",
    "can you cancel and buy again at the new price",
)
LABELS = ("induced", "not_induced", "inconclusive")


def _letters(texts: Sequence[str]) -> np.ndarray:
    """Texts by how often each letter occurs: near is what is spelt alike."""
    counts = np.array([[text.casefold().count(chr(97 + place)) for place in range(26)] for text in texts], np.float32)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def _event(number: int, text: str, market: str = "TH", **changes: Any) -> dict[str, Any]:
    chat = [{**sample_event()["chat"][0], "text": text}]
    names = {"event_id": f"e-{number}", "order_id": f"o-{number}", "buyer_id": f"b-{number}"}
    names |= {"market": market, "buyer_reason": None, "chat": chat}
    return {**sample_event(), **names, **changes}


def _examples(market: str = "TH", count: int = 30) -> list[Example]:
    return [
        Example(
            parse_event(_event(n, f"{TEXTS[n % len(TEXTS)]} {'abcdefghij'[n % 10] * n}", market)), LABELS[n % 3], ()
        )
        for n in range(count)
    ]


def test_labels_are_balanced_and_the_nearest_comes_last() -> None:
    index = ExampleIndex(_examples(), _letters)
    case = parse_event(_event(999, TEXTS[0] + " today"))
    found = index.nearest(case, 9)
    assert Counter(example.label for example in found) == dict.fromkeys(LABELS, 3)
    vector = _letters([spoken_text(case)])[0]
    near = [float(_letters([spoken_text(example.event)])[0] @ vector) for example in found]
    assert near == sorted(near)


@pytest.mark.parametrize(
    "double",
    [
        _event(5, TEXTS[5] + " fffff"),  # the same event
        _event(999, TEXTS[5].upper() + "! fffff", order_id="o-x"),  # the same words
        _event(999, "nothing alike", order_id="o-5"),  # the same order
    ],
)
def test_the_case_and_its_doubles_are_never_shown(double: dict[str, Any]) -> None:
    found = ExampleIndex(_examples(), _letters).nearest(parse_event(double), 30)
    assert "e-5" not in {example.event.event_id for example in found}
    assert len(found) >= 25


CHAT = ("hello, is it in stock?", "sorry, no more stock, please cancel for me dear", "oh ok then, as you say")


def _talk(number: int, texts: Sequence[str], **changes: Any) -> dict[str, Any]:
    chat = [
        {"at": before(5000 - 10 * place), "sender": ("buyer", "seller")[place % 2], "text": text}
        for place, text in enumerate(texts)
    ]
    return _event(number, "", **{"chat": chat, **changes})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_talk(1, (), buyer_id="b"), _talk(2, (), buyer_id="b")),  # nothing said, other ids: the same people, at once
        (_talk(1, CHAT), _talk(2, (*CHAT, "thanks anyway, bye bye", "you are welcome, see you soon"))),
        (_talk(1, CHAT, buyer_reason="seller asked me to"), _talk(2, CHAT, buyer_reason="changed my mind, sorry")),
        (_talk(1, CHAT, buyer_reason="the seller asked me to cancel the order"), _talk(2, CHAT)),
    ],
)
def test_a_copy_under_other_ids_is_a_double(one: dict[str, Any], other: dict[str, Any]) -> None:
    for case, example in ((one, other), (other, one)):
        index = ExampleIndex([Example(parse_event(example), "induced", ())], _letters)
        assert index.nearest(parse_event(case), 1) == []


def test_a_few_words_that_many_say_make_no_double() -> None:
    short, long = _talk(1, CHAT[:1]), _talk(2, (*CHAT[:1], "yes of course", "then I take two of the blue ones please"))
    index = ExampleIndex([Example(parse_event(long), "induced", ())], _letters)
    assert len(index.nearest(parse_event(short), 1)) == 1


def test_every_event_as_a_case_never_finds_itself() -> None:
    examples = _examples()
    index = ExampleIndex(examples, _letters)
    for example in examples:
        assert example.event.event_id not in {one.event.event_id for one in index.nearest(example.event, 40)}


def test_the_cases_market_comes_first_whatever_is_nearer() -> None:
    away = [Example(parse_event(_event(100 + n, TEXTS[0], "SG")), LABELS[n % 3], ()) for n in range(9)]
    found = ExampleIndex([*away, *_examples()], _letters).nearest(parse_event(_event(999, TEXTS[0] + " x")), 6)
    assert {example.event.market for example in found} == {"TH"}


def test_the_same_case_finds_the_same_whatever_the_order_of_the_examples() -> None:
    examples, case = _examples(), parse_event(_event(999, TEXTS[2]))
    one = ExampleIndex(examples, _letters).nearest(case, 10)
    other = ExampleIndex(examples[::-1], _letters).nearest(case, 10)
    assert [e.event.event_id for e in one] == [e.event.event_id for e in other]


def test_silent_events_are_not_doubles_of_one_another() -> None:
    silent = [Example(parse_event(_event(n, "")), LABELS[n % 3], ()) for n in range(6)]
    assert len(ExampleIndex(silent, _letters).nearest(parse_event(_event(999, "")), 6)) == 6


def test_search_is_exact_whatever_is_equally_near() -> None:
    texts = [TEXTS[n % 4] if n % 3 else "" for n in range(300)]  # of each label dozens that are equally near, or silent
    examples = [
        Example(parse_event(_event(n, text, ("TH", "ID")[n % 7 > 3])), LABELS[n // 100], ())
        for n, text in enumerate(texts)
    ]
    case = parse_event(_event(999, "what colour is the cheaper one?"))
    vector = _letters([spoken_text(case)])[0]

    def wanted(example: Example) -> tuple[bool, float, str]:
        likeness = float(_letters([spoken_text(example.event)])[0] @ vector)
        return example.event.market != "TH", -round(likeness, 4), example.event.event_id

    best = {label: sorted((e for e in examples if e.label == label), key=wanted)[:20] for label in LABELS}
    found = ExampleIndex(examples[::-1], _letters).nearest(case, 60)
    for label in LABELS:
        assert {e.event.event_id for e in found if e.label == label} == {e.event.event_id for e in best[label]}


_TOGETHER = """
import torch, onnxruntime, numpy as np
from cancellation.events.event import parse_event
from cancellation.events.examples import Example
from cancellation.llm.retrieval import ExampleIndex
from tests.builders.cancellation_events import sample_event
torch.set_num_threads(2)
embed = lambda texts: np.random.default_rng(0).standard_normal((len(texts), 384)).astype(np.float32)
event = parse_event(sample_event())
other = parse_event({**sample_event(), "event_id": "b", "order_id": "b", "buyer_id": "b", "chat": []})
onnxruntime.InferenceSession("cancellation/small_model/model.onnx")
index = ExampleIndex([Example(other, "induced", ())] * 2000, embed)
for _ in range(50):
    assert len(index.nearest(event, 10)) == 10
    torch.randn(300, 300) @ torch.randn(300, 300)
print(torch.get_num_threads())
"""


def test_search_leaves_the_models_their_threads() -> None:
    ran = subprocess.run([sys.executable, "-c", _TOGETHER], cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert (ran.stdout, ran.returncode) == ("2\n", 0), ran.stderr


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"retrieval\.examples: expected labelled events"):
        ExampleIndex([], _letters)


def test_cases_of_a_market_see_the_same_examples_unless_one_is_their_double() -> None:
    index = ExampleIndex([*_examples(), *_examples("ID")], _letters)
    words = ("where is my parcel?", "no answer for days", "is it waterproof?", "wrong size, sorry")
    cases = [parse_event(_event(900 + n, text)) for n, text in enumerate(words)]
    one, *others = ([each.event.event_id for each in index.typical(case, 9)] for case in cases)
    assert others == [one] * (len(cases) - 1)
    assert {each.event.market for each in index.typical(cases[0], 9)} == {"TH"}
    double = parse_event(_event(int(one[-1].removeprefix("e-")), "other words for the same order"))
    instead = [each.event.event_id for each in index.typical(double, 9)]
    assert set(one) - set(instead) == {one[-1]}
    assert len(instead) == 9
    assert len(index.typical(parse_event(_event(950, TEXTS[0], "BR")), 9)) == 9
