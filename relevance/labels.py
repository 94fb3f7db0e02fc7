"""The four relevance labels, their order, and the words and tokens that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELS = ("exact", "substitute", "complement", "irrelevant")
"""Every array with a label axis is in this order."""

LABEL_WORDS = (" exact", " substitute", " complement", " irrelevant")
"""What the model says for each label, directly behind the prompt's last character."""

_ALIASES = {alias: label for label in LABELS for alias in (label, label[0])}


def parse_label(text: str) -> str:
    """Read a label written in full or as E, S, C or I.

    Raises:
        ValueError: If the text is neither.
    """
    label = _ALIASES.get(text.strip().lower())
    if label is None:
        raise ValueError(f"unknown label {text[:20]!r}: expected one of {', '.join(LABELS)} or E, S, C, I")
    return label


def label_token_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str] = LABEL_WORDS) -> tuple[int, ...]:
    """Find the single vocabulary entry of each label word.

    The score of a label is the probability of one next token, so a word that a tokeniser
    splits cannot be scored.

    Raises:
        ValueError: If a word is split or unknown, naming it and its pieces, or two words share a token.
    """
    ids = []
    for label, word in zip(LABELS, words, strict=True):
        pieces = tokenizer.encode(word, add_special_tokens=False)
        if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"label {label!r}: the word {word!r} is {len(pieces)} tokens in this tokeniser "
                f"({tokenizer.convert_ids_to_tokens(pieces)}), one is needed: set label_words in the "
                "model's prompt.json to four words of one token each"
            )
        ids.append(pieces[0])
    if len(set(ids)) != len(ids):
        raise ValueError(
            f"label words {list(words)} share a token: set label_words in the model's prompt.json to different ones"
        )
    return tuple(ids)
