"""People's contact data taken out of a text: phones, e-mails, cards, identity numbers, links, handles.

Errs on the side of taking out: seven digits in a row go, whatever stands between them to hide it, unless all of them
read as something else (`numbers.py`). Names and addresses in words stay. `python -m tests.measures.contact_data` says
how much goes, by kind and language.
"""

from __future__ import annotations

import re

from cancellation.contact_data import numbers
from cancellation.contact_data.addresses import without_addresses
from cancellation.contact_data.identifiers import DIGIT, is_rfc
from cancellation.contact_data.messengers import without_handles
from cancellation.contact_data.numbers import NUMBER
from cancellation.contact_data.spelt import without_lookalikes, without_numbers_in_pieces, without_spelt_numbers
from cancellation.contact_data.words import Words
from cancellation.events.clean_text import INVISIBLE

_LETTERED = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d"  # CURP
    r"|(?P<rfc>(?P<named>rfc:?\s)?[A-ZÑ&]{3,4}[\s-]?\d{6}[\s-]?[A-Z0-9]{3})"
    r"|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}|000201\S{0,200}br\.gov\.bcb\.pix\S*"  # PIX
    r"|[STFGM]\d{7}[A-Z]|[A-Z]{1,2}\d{7}[A-Z])(?![A-Za-z0-9])",  # Singapore's, passports
    re.IGNORECASE,
)
_LETTERED_HINT = re.compile(r"[A-Za-z][\s-]?\d{6}|-[0-9a-f]{4}-|[0-9a-f]{32}|br\.gov", re.IGNORECASE)
_ANY_DIGIT = re.compile(DIGIT)


def redact(text: str) -> str:
    """Replace contact data by tokens such as `<PHONE>`; the rest stays as it is, less invisible characters.

    Those go first, since one of them between two digits would hide a number from any pattern, and the model
    does not see them either.
    """
    if not text.isascii():
        text = INVISIBLE.sub("", text)
    words = Words(text)
    text = without_addresses(text, words)
    text = without_spelt_numbers(text, words)
    if _ANY_DIGIT.search(text):
        if _LETTERED_HINT.search(text):
            text = _LETTERED.sub(_lettered, text)
        text = without_lookalikes(text)
        text = numbers.RUN.sub(numbers.judged, text)
        text = without_numbers_in_pieces(text)
    return without_handles(text, words)


def _lettered(found: re.Match[str]) -> str:
    if found["named"]:
        return f"{found['named']}{NUMBER}"
    return NUMBER if not found["rfc"] or is_rfc(found[0]) else found[0]
