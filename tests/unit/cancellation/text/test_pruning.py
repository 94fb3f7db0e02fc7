"""A cut vocabulary: what texts use stays as it was, what nobody uses falls apart into bytes."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from cancellation.text.pruning import prune_tokenizer

WORDS = [
    "▁cancel",
    "▁order",
    "▁Заказ",
    "▁รอ",
    "ยกเลิก",
    "取消",
    "▁",
    *"abcdefghijklmnopqrstuvwxyz",
    "ก",
    "ย",
    "取",
    "消",
    "З",
]
FRAME = ("<s>", "<pad>", "</s>", "<unk>")


@pytest.fixture
def tokenizer() -> Tokenizer:
    pieces = [(text, 0.0) for text in FRAME] + [(word, -3.0 - place / 10) for place, word in enumerate(WORDS)]
    made = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=3))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens([AddedToken(token, special=True) for token in (*FRAME, "<mask>")])
    made.add_special_tokens([AddedToken("[BUYER]", special=True)])
    return made


def test_used_pieces_stay_and_keep_their_rows(tokenizer: Tokenizer) -> None:
    pruned, old = prune_tokenizer(tokenizer, ["cancel order", "ยกเลิก"], size=40)
    before, after = tokenizer.encode("cancel order ยกเลิก 取消"), pruned.encode("cancel order ยกเลิก 取消")
    assert before.tokens == after.tokens
    assert [int(old[number]) for number in after.ids] == before.ids


def test_special_tokens_keep_their_meaning(tokenizer: Tokenizer) -> None:
    pruned, old = prune_tokenizer(tokenizer, ["order"], size=40)
    for token in (*FRAME, "<mask>", "[BUYER]"):
        assert old[pruned.token_to_id(token)] == tokenizer.token_to_id(token)
    assert pruned.encode("[BUYER]", add_special_tokens=False).tokens == ["[BUYER]"]
    assert pruned.get_vocab_size(with_added_tokens=True) == len(old)


def test_what_is_not_kept_falls_into_bytes_and_never_into_the_unknown(tokenizer: Tokenizer) -> None:
    pruned, old = prune_tokenizer(tokenizer, ["order"], size=40)
    found = pruned.encode("Заказ", add_special_tokens=False)
    assert "<unk>" not in found.tokens
    assert "<0xD0>" in found.tokens
    assert np.all(old[[number for number in found.ids if pruned.id_to_token(number).startswith("<0x")]] == -1)


def test_another_kind_of_tokeniser_is_refused() -> None:
    with pytest.raises(ValueError, match="expected Unigram pieces, found BPE"):
        prune_tokenizer(Tokenizer(models.BPE()), [], size=10)
