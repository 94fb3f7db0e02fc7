"""Lists of words as patterns: whoever adds a language adds words to a list."""

from __future__ import annotations

import re


def one_of(*lists: str) -> str:
    """Match one of the words that stand in lists with spaces between; `_` in a word is a space that may be missing.

    Longer ones are tried first, so that no word hides another that begins like it.
    """
    words = sorted({word for listed in lists for word in listed.split()}, key=lambda word: (-len(word), word))
    return f"(?:{'|'.join(re.escape(word).replace('_', chr(92) + 's?') for word in words)})"


NOT_LATIN_BEFORE, NOT_LATIN_BEHIND = "(?<![A-Za-z0-9_À-ɏ])", "(?![A-Za-z0-9_À-ɏ])"
"""Ends of a word that may stand among Thai or Chinese, which have no spaces."""


_LATIN = re.compile("[a-zß-ɏḀ-ỿ]+")
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3000-\u9fff\uff00-\uffef]")


class Words:
    """What a text is made of, looked up before any pattern that costs more: most texts hold nothing to look for."""

    __slots__ = ("all", "unspaced")

    def __init__(self, text: str) -> None:
        self.all = _LATIN.findall(text.lower())
        """Words in Latin letters, in small ones, in their order."""
        self.unspaced = not text.isascii() and _UNSPACED.search(text) is not None
        """There is writing without spaces in it: Thai or Chinese."""
