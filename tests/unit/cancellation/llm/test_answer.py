"""Answers read while they are written, and the probability of the verdict."""

from __future__ import annotations

import re
from math import exp, log

import pytest

from cancellation.events.factors import VERDICTS
from cancellation.llm.answer import AnswerError, AnswerForm, AnswerReader, verdict_distribution, write_answer

FORM = AnswerForm()


def _read(text: str, form: AnswerForm = FORM, *, size: int = 1) -> tuple[AnswerReader, list[tuple[str, str, int]]]:
    reader, parts = AnswerReader(form), []
    for start in range(0, len(text), size):
        parts += [(part, inside, start + size) for part, inside in reader.feed(text[start : start + size])]
    return reader, parts


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_each_part_is_handed_out_when_its_tag_closes(size: int) -> None:
    text = write_answer(FORM, "induced", ("chat.asked_to_cancel", "chat.no_reply"), "They asked.")
    reader, parts = _read(text, size=size)
    assert [part for part, _, _ in parts] == ["verdict", "decision_factors", "reasoning"]
    assert parts[0][1] == "induced"
    assert parts[0][2] <= text.index("</verdict>") + len("</verdict>") + size
    answer = reader.answer()
    assert (answer.verdict, answer.factors) == ("induced", ("chat.asked_to_cancel", "chat.no_reply"))
    assert answer.reasoning == "They asked."
    assert reader.complete


@pytest.mark.parametrize("form", [FORM, AnswerForm(reasoning_first=True), AnswerForm(classes=2, max_factors=1)])
def test_what_is_written_for_training_is_of_the_form(form: AnswerForm) -> None:
    for label in VERDICTS[: form.classes]:
        text = write_answer(form, label, ("seller.inactive", "chat.no_reply"))
        assert re.fullmatch(form.regex, text)
        reader, _ = _read(text, form)
        assert reader.answer().verdict == label


def test_what_nobody_looked_for_is_not_written_as_found_to_be_missing() -> None:
    unknown = write_answer(FORM, "induced", None)
    assert "Only the verdict is known" in unknown
    assert re.fullmatch(FORM.regex, unknown)
    induced, other = (write_answer(FORM, label, ()) for label in ("induced", "not_induced"))
    assert "Nothing here points to the seller." in other
    assert "Nothing here points to the seller." not in induced


def test_a_cut_answer_keeps_what_was_closed() -> None:
    text = write_answer(FORM, "inconclusive", (), "nothing")
    reader, _ = _read(text[: text.index("nothing") + 3])
    assert reader.answer().reasoning is None
    assert not reader.complete
    reader, _ = _read(text[:12])
    with pytest.raises(AnswerError, match="closed <verdict>"):
        reader.answer()


@pytest.mark.parametrize(
    "text",
    [
        "Sure! <verdict>induced</verdict>",
        "<verdict>guilty</verdict>",
        "<verdict>induced<verdict>not_induced</verdict>",
        "<verdict>induced</verdict>\n<decision_factors>chat.secret</decision_factors>",
        "<verdict>induced</verdict>\n<reasoning>skipped</reasoning>",
        "{}",
    ],
)
def test_other_text_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(AnswerError) as caught:
        _read(text)
    assert not any(word in str(caught.value) for word in ("Sure", "guilty", "secret", "skipped"))


def test_the_verdicts_distribution_is_read_from_the_deciding_token() -> None:
    alternatives = {b"ind": log(0.5), b"i": log(0.1), b"not": log(0.3), b"u": log(0.05), b"x": log(0.05)}
    found = verdict_distribution("<verdict>", alternatives, 3)
    assert found is not None
    assert [exp(value) for value in found] == pytest.approx([0.6 / 0.95, 0.3 / 0.95, 0.05 / 0.95])
    two = verdict_distribution("<verdict>", alternatives, 2)
    assert two is not None
    assert exp(two[0]) == pytest.approx(2 / 3)


def test_a_token_may_begin_with_the_rest_of_the_tag() -> None:
    found = verdict_distribution("<verdict", {b">ind": log(0.75), b">not": log(0.25)}, 3)
    assert found is not None
    assert exp(found[0]) == pytest.approx(0.75, abs=1e-4)
    assert verdict_distribution("<verdict>", {b"hello": 0.0}, 3) is None


def test_only_the_deciding_token_is_looked_at() -> None:
    reader = AnswerReader(FORM)
    list(reader.feed("<verdict>", {b"not": 0.0}))
    list(reader.feed("ind", {b"ind": log(0.8), b"not": log(0.2)}))
    list(reader.feed("uced", {b"uced": 0.0}))
    list(reader.feed("</verdict>\n<decision_factors>none</decision_factors>\n"))
    answer = reader.answer()
    assert answer.log_probabilities is not None
    assert exp(answer.log_probabilities[0]) == pytest.approx(0.8, abs=1e-4)


def test_without_a_distribution_nothing_is_said_of_how_sure_it_was() -> None:
    reader, _ = _read(write_answer(FORM, "not_induced", ()))
    assert reader.answer().log_probabilities is None
