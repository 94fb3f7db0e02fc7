"""What a string of digits or letters is by its own shape and check digits: a card, an identity number, a phone.

Check digits are python-stdnum's, and what can be dialled in a market is phonenumbers', Google's libphonenumber.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from phonenumbers import PhoneMetadata
from stdnum import ean, luhn
from stdnum.br import cnpj, cpf
from stdnum.id import nik
from stdnum.mx import rfc
from stdnum.th import pin

REGIONS = ("ID", "TH", "VN", "PH", "MY", "SG", "TW", "BR", "MX")
_CARD_STARTS = ("2", "3", "4", "5", "6", "9")
_SPOKEN = {"洞": "0", "零": "0", "〇": "0", "幺": "1", "么": "1", "勾": "9", "拐": "7", "⓪": "0", "⓿": "0"}

MIN_DIGITS = 7
"""So many digits in a row are a person's, unless they read as something else."""

DIGIT = "[\\d⁰¹²³⁴-⁹₀-₉①-⑨⓪⓿❶-❿➀-➈➊-➒㊀-㊈零〇一二三四五六七八九兩两壹貳贰參叁肆伍陸陆柒捌玖洞幺么勾拐]"
"""One digit in any of the scripts in which people type numbers, Chinese numerals and telephonists' words among them."""


def ascii_digits(text: str) -> str:
    """Give the digits of a text as 0 to 9, all else left out."""
    if text.isascii():
        return "".join(filter(str.isdigit, text))
    return "".join(_SPOKEN.get(one) or _value(one) for one in text)


def _value(character: str) -> str:
    value = unicodedata.numeric(character, -1)
    return str(int(value)) if 0 <= value <= 9 else ""


def is_card(digits: str) -> bool:
    """13 to 19 digits whose check digit fits (Luhn)."""
    return 13 <= len(digits) <= 19 and luhn.is_valid(digits)


def is_identity_number(digits: str) -> bool:
    """A tax or identity number of Brazil (CPF, CNPJ), Indonesia (NIK) or Thailand, by its check digits or date."""
    valid = _BY_LENGTH.get(len(digits))
    return valid is not None and any(one(digits) for one in valid)


def is_somebodys(digits: str) -> bool:
    """Say whether digits that are said to be an order's lead to a person all the same."""
    return (
        is_dialled(digits)
        or cpf.is_valid(digits)
        or cnpj.is_valid(digits)
        or (digits.startswith(_CARD_STARTS) and len(digits) == 16 and luhn.is_valid(digits))
    )


def is_dialled(digits: str) -> bool:
    """Say whether digits are a phone number with its trunk zero or calling code, in one of the markets."""
    return bool(_dialled_pattern().fullmatch(digits))


def is_phone(digits: str) -> bool:
    """Say whether digits are a phone number as people of one of the markets dial it."""
    return bool(_phone_pattern().fullmatch(digits)) or is_dialled(digits)


@cache
def _phone_pattern() -> re.Pattern[str]:
    """Match the national numbers of all markets.

    One pattern out of libphonenumber's metadata: its own parser takes a tenth of a millisecond for nine regions,
    which a chat full of numbers would be able to spend a thousand times.
    """
    return re.compile("|".join(_national(region) for region in REGIONS))


@cache
def _dialled_pattern() -> re.Pattern[str]:
    forms = []
    for region in REGIONS:
        data = PhoneMetadata.metadata_for_region(region)
        trunk = f"|{data.national_prefix}" if data.national_prefix else ""
        forms.append(f"(?:(?:00)?{data.country_code}{trunk})(?:{_national(region)})")
    return re.compile("|".join(forms))


def _national(region: str) -> str:
    data = PhoneMetadata.metadata_for_region(region)
    kinds = (data.mobile, data.fixed_line, data.toll_free, data.voip, data.uan, data.premium_rate, data.shared_cost)
    return "|".join(f"(?:{kind.national_number_pattern})" for kind in kinds if kind and kind.national_number_pattern)


def is_article_number(digits: str) -> bool:
    """A product's bar code (EAN, UPC), by its check digit."""
    return ean.is_valid(digits)


def is_rfc(text: str) -> bool:
    """A tax number of Mexico, by its date and check digit."""
    return bool(rfc.is_valid(text, validate_check_digits=True))


_BY_LENGTH: dict[int, tuple[Callable[[str], bool], ...]] = {
    11: (cpf.is_valid,),
    13: (pin.is_valid,),
    14: (cnpj.is_valid,),
    16: (nik.is_valid,),
}
