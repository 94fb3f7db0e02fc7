"""Figures on small examples, by hand, in three scripts."""

from __future__ import annotations

from math import sqrt

import pytest

from cancellation.consistency.alikeness import (
    Said,
    alikeness,
    cosine,
    jaccard,
    mean_pairwise,
    rouge_l,
    self_bleu,
    tokens,
)

THAI, CHINESE, ENGLISH = "ผู้ขายขอให้ยกเลิก", "賣家要求取消訂單", "The seller asked to cancel."


@pytest.mark.parametrize("text", [THAI, CHINESE, ENGLISH, "ok"])
def test_equal_answers_are_1_in_every_script(text: str) -> None:
    found = alikeness([Said("induced", frozenset({"chat.no_reply"}), text)] * 5)
    assert (found.verdict_agreement, found.flip_rate, found.factor_jaccard) == (1, 0, 1)
    assert found.self_bleu == pytest.approx(1)
    assert (found.self_rouge_l, found.self_jaccard) == (1, 1)
    assert found.self_cosine == pytest.approx(1)


def test_verdicts_by_hand() -> None:
    verdicts = ["induced"] * 3 + ["not_induced"]
    found = alikeness([Said(verdict, frozenset(), "x") for verdict in verdicts])
    assert found.verdict_agreement == pytest.approx(3 / 6)  # three pairs of six agree
    assert found.flip_rate == pytest.approx(1 / 4)
    assert found.factor_jaccard == 1  # nobody named any


def test_sets_by_hand() -> None:
    assert jaccard(frozenset("ab"), frozenset("bc")) == pytest.approx(1 / 3)
    assert mean_pairwise([frozenset("a"), frozenset("a"), frozenset("b")], jaccard) == pytest.approx(1 / 3)


def test_texts_by_hand() -> None:
    one, other = "the seller asked to cancel", "seller never asked the buyer"
    assert rouge_l(one, other) == pytest.approx(2 * 2 / 10)  # seller … asked
    assert cosine(one, other) == pytest.approx(3 / 5)  # the, seller, asked; each has five words once
    assert cosine("a a b", "a c") == pytest.approx(2 / (sqrt(5) * sqrt(2)))


def test_thai_and_chinese_are_compared_by_characters() -> None:
    assert tokens("取消訂單") == list("取消訂單")
    assert rouge_l("取消訂單", "取消了") == pytest.approx(2 * 2 / 7)
    assert jaccard(frozenset(tokens("取消訂單")), frozenset(tokens("取消了"))) == pytest.approx(2 / 5)
    assert cosine("取消訂單", "取消了") == pytest.approx(2 / sqrt(4 * 3))
    assert tokens("ยก") == ["ย", "ก"]
    assert rouge_l("ยกเลิก", "ยก") == pytest.approx(2 * 2 / (6 + 2))
    assert 0 < self_bleu(["取消訂單吧", "取消訂單了"]) < 1
    assert 0 < self_bleu(["ยกเลิกนะ", "ยกเลิกค่ะ"]) < 1


def test_bleu_by_hand() -> None:
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert self_bleu(["a b c d e", "a b c d f"]) == pytest.approx(expected)


def test_nothing_in_common_is_0() -> None:
    assert (rouge_l("a b", "c d"), cosine("a b", "c d")) == (0, 0)
    assert rouge_l("", "") == 1


def test_one_answer_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="set runs=2 or more"):
        alikeness([Said("induced", frozenset(), "x")])


def test_what_was_not_read_is_not_alike() -> None:
    found = alikeness([Said("induced", None, None), Said("not_induced", None, None)])
    assert (found.verdict_agreement, found.flip_rate) == (0, 0.5)
    assert found.factor_jaccard is None
    assert (found.self_bleu, found.self_rouge_l, found.self_cosine, found.self_jaccard) == (None,) * 4
    cut = alikeness([Said("induced", frozenset(), text) for text in ("one text", "one text", None)])
    assert cut.factor_jaccard == 1
    assert cut.self_rouge_l == 1
