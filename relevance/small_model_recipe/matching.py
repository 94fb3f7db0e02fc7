"""Generated pairs that teach matching: which of the query's words stand in the title.

The titles may be real, the queries are not: words of the title and words from elsewhere, in shares that
decide the label. This is what word overlap knows; the catalogue teaches what it does not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from relevance.small_model_recipe.catalogue import misspell

_LINK_WORDS = ("for", "with", "of", "and", "in", "without")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def label_by_match(matched: Sequence[bool]) -> str:
    """Give the label that word overlap gives, the last word being the head noun.

    All words: exact. None: irrelevant. Between: a substitute where the head noun or half of the words are there.
    """
    if all(matched):
        return "exact"
    return "substitute" if matched[-1] or sum(matched) * 2 >= len(matched) else "irrelevant"


class MatchingWriter:
    """Draw titles and queries over a list of titles; the same seed gives the same ones."""

    def __init__(self, seed: int | str, titles: Sequence[str]) -> None:
        self.random = random.Random(seed)
        self.titles = titles
        self.words = sorted({word for title in titles for word in split_words(title)})

    def title(self) -> str:
        """Draw a title as it is, or words at random, a third of them invented."""
        draw = self.random
        if draw.random() < 0.7:
            return draw.choice(self.titles)
        words = [self._word() for _ in range(draw.randint(2, 24))]
        return " ".join(word.capitalize() if draw.random() < 0.7 else word for word in words)

    def _word(self) -> str:
        draw = self.random
        if draw.random() < 0.7:
            return draw.choice(self.words)
        if draw.random() < 0.25:
            return str(draw.randint(1, 10 ** draw.randint(1, 4)))
        return "".join(draw.choices(_LETTERS, k=draw.randint(3, 9)))

    def query(self, title: str) -> tuple[str, str]:
        """Draw a query for a title; returns it with its label."""
        draw = self.random
        own = split_words(title)
        length = min(draw.choice((1, 2, 3, 3, 4, 4, 5, 6)), len(own))
        share = draw.choice((1.0, 1.0, 0.8, 0.67, 0.5, 0.33, 0.0)) if own else 0.0
        matched = [draw.random() < share for _ in range(max(length, 1))]
        start = draw.randrange(len(own) - length + 1) if own else 0
        # A run of the title, as people type names, or words from anywhere in it.
        known = own[start : start + length] if draw.random() < 0.5 else draw.sample(own, length)
        known += [""] * (len(matched) - len(known))
        words = [word if hit else self._foreign(own) for word, hit in zip(known, matched, strict=True)]
        text = " ".join(self._link(words)).lower()
        return (misspell(text, draw) if draw.random() < 0.3 else text), label_by_match(matched)

    def _foreign(self, own: Sequence[str]) -> str:
        stems = {word[:4] for word in own}
        while (word := self._word().lower())[:4] in stems:
            pass
        return word

    def _link(self, words: list[str]) -> list[str]:
        """Put in a word that joins others and decides nothing, now and then."""
        if len(words) > 1 and self.random.random() < 0.15:
            words = words.copy()
            words.insert(self.random.randrange(1, len(words)), self.random.choice(_LINK_WORDS))
        return words


def split_words(text: str) -> list[str]:
    """List the words and numbers of a text, lower-cased, without link words and single letters."""
    words = re.findall(r"[^\W\d_]+|\d+", text.lower())
    return [word for word in words if word not in _LINK_WORDS and (len(word) > 1 or word.isdigit())]
