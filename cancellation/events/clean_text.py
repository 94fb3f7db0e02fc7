"""People's text made harmless and comparable: nothing invisible, nothing that looks like structure."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from confusable_homoglyphs import confusables

_LOOKALIKES = (("[", "("), ("]", ")"), ("<", "‹"), (">", "›"), ("|", "/"))
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

INVISIBLE = re.compile(
    "["
    # Format characters (category Cf): soft hyphen, zero-width, bidi controls, joiners, annotations, tags.
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"
    # Marks and letters that show nothing: grapheme joiner, Hangul and Khmer fillers, variation selectors.
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
    # Surrogates and private use.
    "\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff"
    "]+"
)


_FOREIGN = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU")
"""Scripts that no market writes and whose letters pass for Latin ones."""


@cache
def _latin_lookalikes() -> tuple[re.Pattern[str], dict[str, str]]:
    """Map letters of foreign scripts to the Latin letter that they look like (Unicode's confusables, UTS 39)."""
    table: dict[str, str] = {}
    for letter, alike in confusables.confusables_data.items():
        if len(letter) == 1 and unicodedata.name(letter, "").startswith(_FOREIGN):
            latin = [one["c"] for one in alike if len(one["c"]) == 1 and one["c"].isascii() and one["c"].isalpha()]
            # Of several the one of the same case: a capital is no small letter's double.
            latin.sort(key=lambda one: one.isupper() != letter.isupper())
            if latin:
                table[letter] = latin[0]
    return re.compile(f"[{''.join(table)}]"), table


def clean_text(text: str) -> str:
    """Normalise a text that a person typed: NFKC, one line, no invisible characters, no token brackets.

    Square and angle brackets and bars become lookalikes, because a tokeniser takes `[SELLER]`, `<s>` or
    `<|im_end|>` for structure wherever they stand. Zero-width characters, bidi controls, tags and variation
    selectors vanish: they split a word for the model and show a reviewer another text than it reads. Letters of
    scripts that no market writes become the Latin letters that a reader takes them for.
    """
    if not text.isascii():
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        letters, latin = _latin_lookalikes()
        text = letters.sub(lambda found: latin[found[0]], text)
    if not text.isprintable():
        text = _CONTROLS.sub(" ", text)
    for bracket, lookalike in _LOOKALIKES:
        text = text.replace(bracket, lookalike)
    return " ".join(text.split())
