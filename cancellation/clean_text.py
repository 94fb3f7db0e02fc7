"""People's text made harmless and comparable: nothing invisible, nothing that looks like structure."""

from __future__ import annotations

import re
import unicodedata

_STRUCTURAL = str.maketrans({"[": "(", "]": ")", "<": "‹", ">": "›", "|": "/"})
_SPACES = re.compile(r"\s+")

# Marks and letters by category, so printable to Python, that show nothing: grapheme joiner, Hangul and Khmer
# fillers, Mongolian and other variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def clean_text(text: str) -> str:
    """Normalise a text that a person typed: NFKC, one line, no invisible characters, no token brackets.

    Square and angle brackets and bars become lookalikes, because a tokeniser takes `[SELLER]`, `<s>` or
    `<|im_end|>` for structure wherever they stand. Zero-width characters, bidi controls, tags and variation
    selectors vanish: they split a word for the model and show a reviewer another text than it reads.
    """
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if not text.isprintable():
        text = "".join([_visible(character) for character in text])
    return _SPACES.sub(" ", text.translate(_STRUCTURAL)).strip()


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp", "Cc"):
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") else character
