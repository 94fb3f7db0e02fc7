"""Phone numbers that are no run of digits: in words, with letters that look like digits, or in pieces of a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cancellation.contact_data.identifiers import ascii_digits, is_phone

PHONE = "<PHONE>"

_MIN_WORDS = 7
_WORDS = (
    "zero oh o one two three four five six seven eight nine double triple ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred "
    "kosong nol enol sifar satu dua tiga empat lima enam tujuh delapan lapan sembilan belas puluh ratus "
    "không khong ko hông một mot mốt hai ba bốn bon tư tu năm nam lăm sáu sau bảy bay bẩy tám tam chín chin linh lẻ mười mươi "
    "sero isa dalawa tatlo apat lima anim pito walo siyam uno dos tres kwatro kuwatro singko sais siyete syete otso walo "
    "nuwebe nwebe onse dose "
    "cero un uno una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete veintiocho "
    "veintinueve treinta cuarenta cincuenta sesenta setenta ochenta noventa cien "
    "um uma dois duas três quatro meia sete oito nove dez onze doze treze quatorze catorze quinze dezesseis dezessete "
    "dezoito dezenove vinte trinta quarenta cinquenta sessenta setenta oitenta noventa cem"
).split()
_LATIN = frozenset(_WORDS)
_THAI = "ศูนย์ สูนย์ ศูน หนึ่ง นึง เอ็ด สอง โท ยี่ สาม สี่ ห้า หก เจ็ด แปด เก้า สิบ".split()
_WORD = re.compile(r"[^\W\d_]+")
_ONE_OF_LATIN = rf"(?:{'|'.join(sorted(_LATIN, key=len, reverse=True))})(?![^\W\d_])"
_BETWEEN = r"(?:\s?[,.\-–/·*]\s?|\s(?:(?:e|y|and)\s)?|_)"
_SPELT = re.compile(
    rf"(?<![^\W_])(?:{_ONE_OF_LATIN}|\d{{1,3}}(?!\d))(?:{_BETWEEN}(?:{_ONE_OF_LATIN}|\d{{1,3}}(?!\w))){{{_MIN_WORDS - 1},}}",
    re.IGNORECASE,
)
_ONE_OF_THAI = rf"(?:{'|'.join(sorted(_THAI, key=len, reverse=True))}|[0-9๐-๙])"
_SPELT_IN_THAI = re.compile(rf"{_ONE_OF_THAI}(?:[\s,.\-–/]{{0,3}}{_ONE_OF_THAI}){{{_MIN_WORDS - 1},}}")
_TWO_THAI = re.compile(rf"(?:{'|'.join(_THAI)})[\s,.\-–/]{{0,3}}{_ONE_OF_THAI}")

_LOOKALIKES = {
    ord(letter): digit
    for digit, letters in {
        "0": "OoQ",
        "1": "IiLl|!",
        "2": "Zz",
        "3": "E",
        "5": "Ss",
        "6": "Gb",
        "8": "B",
        "9": "gq",
    }.items()
    for letter in letters
}
_LETTERS = "OoQIiLl|!ZzESsGbBgq"
_PIECE = rf"[\d{_LETTERS}]*\d[\d{_LETTERS}]*"
_LEET = re.compile(
    rf"(?<![A-Za-z0-9À-ɏ])[+(]?(?:{_PIECE}|[OoIlL]{{2,3}})(?:[\s.\-_/()*]{{1,3}}(?:{_PIECE}|[OIl]{{2}})){{0,9}}(?![A-Za-z0-9À-ɏ])",
    re.ASCII,
)
_LEET_HINT = re.compile(rf"\d[{_LETTERS}]|[{_LETTERS}]\d")

_CONNECTORS = (
    r"lalu|terus|trus|kemudian|terakhir|akhirnya|akhir|tengah(?:nya)?|belakang(?:nya)?|depan(?:nya)?|sambung|lanjut|dan|habis\s?itu"
    r"|then|and|next|after\s?that|followed\s?by|last(?:ly)?|finally|middle|ends?\s?(?:with|in)|starts?\s?with|plus|first|second|third"
    r"|tapos|tas|gitna|dulo|huli|saka|sunod|umpisa|at|pastu|lepas\s?tu|hujung|mula|akhir\s?sekali"
    r"|depois|em\s?seguida|no\s?meio|no\s?final|e|termina|por\s?(?:fim|último)|final|mais|com|meio"
    r"|luego|después|despues|y|al\s?final|sigue|seguido|de|termina|en|medio|por"
    r"|rồi|tiếp|tiếp\s?theo|giữa|cuối|đầu|sau|đó|là|đến|xong|kế"
    r"|ต่อด้วย|ต่อ|แล้วก็|แล้ว|ตรงกลาง|กลาง|ลงท้าย|ท้าย|ตามด้วย|สุดท้าย|ปิดท้าย|และ|จบด้วย"
    r"|然後|然后|再來|再来|中間|中间|後面|后面|最後|最后|接著|接着|再|末|尾|後|后"
)
_JOINT = rf"[\s,.:;…\-–>]{{0,3}}(?:(?:{_CONNECTORS})[\s,.:;…\-–>]{{0,3}}){{1,3}}"
_IN_PIECES = re.compile(
    rf"(?<![\d.,/:\-])[+(]?\d[\d\s\-.()]{{0,8}}\d(?:{_JOINT}\d[\d\s\-.]{{0,8}}\d){{1,4}}(?![\d.,/:\-]*\d)",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d(?:[\d\s\-.()]*\d)?")


def without_spelt_numbers(text: str, words: Sequence[str]) -> str:
    """Put a token in place of a number in words; `words` are those of the text, in small letters."""
    if not _LATIN.isdisjoint(words):
        spelt = sum(word in _LATIN for word in words)
        if spelt > 2 and spelt + sum(map(str.isdigit, text)) >= _MIN_WORDS:
            text = _SPELT.sub(_if_words, text)
    if not text.isascii() and _TWO_THAI.search(text):
        text = _SPELT_IN_THAI.sub(PHONE, text)
    return text


def without_lookalikes(text: str) -> str:
    """Put a token in place of a number in which letters stand for digits."""
    return _LEET.sub(_if_dialled, text) if _LEET_HINT.search(text) else text


def without_numbers_in_pieces(text: str) -> str:
    """Put a token in place of each piece of a number that a sentence holds together: "0812, then 345, then 678"."""
    return _IN_PIECES.sub(_if_whole, text)


def _if_words(found: re.Match[str]) -> str:
    words = sum(word.lower() in _LATIN for word in _WORD.findall(found[0]))
    return PHONE if words > 2 else found[0]


def _if_dialled(found: re.Match[str]) -> str:
    run = found[0]
    given = sum(map(str.isdigit, run))
    letters = sum(one in _LETTERS for one in run)
    if not letters or given + letters < 8 or given < letters:
        return run
    return PHONE if is_phone(ascii_digits(run.translate(_LOOKALIKES))) else run


def _if_whole(found: re.Match[str]) -> str:
    run = found[0]
    digits = ascii_digits(run)
    return _DIGITS.sub(PHONE, run) if len(digits) >= 8 and is_phone(digits) else run
