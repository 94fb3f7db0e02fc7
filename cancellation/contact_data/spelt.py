"""Phone numbers that are no run of digits: in words, with letters that look like digits, or in pieces of a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

from cancellation.contact_data.identifiers import MIN_DIGITS, ascii_digits, is_dialled, is_phone
from cancellation.contact_data.words import Words, one_of

PHONE = "<PHONE>"

_LATIN = (
    "zero oh o one two three four five six seven eight nine double triple ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred",
    "kosong nol enol sifar satu dua tiga empat lima enam tujuh delapan lapan sembilan belas puluh ratus",
    "không khong ko hông một mot mốt hai ba bốn bon tư tu năm nam lăm sáu sau bảy"
    " bay bẩy tám tam chín chin linh lẻ mười mươi",
    "sero siro isa dalawa tatlo apat lima anim pito walo siyam uno dos tres kwatro"
    " kuwatro singko sais siyete syete otso"
    " nuwebe nwebe onse dose wan tu tri por payb siks seben eyt nayn",
    "cero un uno una dos tres cuatro cinco seis siete ocho nueve diez once doce"
    " trece catorce quince dieciséis diecisiete"
    " dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete"
    " veintiocho veintinueve treinta cuarenta cincuenta sesenta setenta ochenta noventa cien",
    "xx um dois duas três quatro meia sete oito nove dez onze doze treze quatorze catorze quinze dezesseis dezessete"
    " dezoito dezenove vinte trinta quarenta cinquenta sessenta setenta oitenta noventa cem",
)
"""Digits and the words in which people read numbers out, by language."""
_THAI = "ศูนย์ สูนย์ ศูน หนึ่ง นึง เอ็ด สอง ยี่ สาม สี่ ห้า หก เจ็ด แปด เก้า สิบ"
_ZEROS = frozenset(("zero", "kosong", "nol", "sifar", "không", "khong", "sero", "cero"))
_WORDS = frozenset(" ".join(_LATIN).split())
_WORD = re.compile(r"[^\W\d_]+")
_JOIN = r"(?:\s?[,.\-–/·*]\s?|\s(?:(?:e|y|and)\s)?|_)"
_LATIN_ITEM = rf"(?:{one_of(*_LATIN)}(?![^\W\d_])|\d{{1,6}}(?!\w))"
_SPELT = re.compile(rf"(?<![^\W_]){_LATIN_ITEM}(?:{_JOIN}{_LATIN_ITEM}){{1,}}", re.IGNORECASE)
_THAI_ITEM = rf"(?:{one_of(_THAI)}|โท(?!ร)|[0-9๐-๙])"
_SPELT_IN_THAI = re.compile(rf"{_THAI_ITEM}(?:[\s,.\-–/]{{0,3}}{_THAI_ITEM}){{{MIN_DIGITS - 1},}}")
_TWO_THAI = re.compile(rf"{one_of(_THAI)}[\s,.\-–/]{{0,3}}{_THAI_ITEM}")

_ALIKE = {"0": "OoQ", "1": "IiLl|!", "2": "Zz", "3": "E", "4": "A", "5": "Ss", "6": "Gb", "7": "T", "8": "B", "9": "gq"}
_LOOKALIKES = {ord(letter): digit for digit, letters in _ALIKE.items() for letter in letters}
_LETTERS = "".join(_ALIKE.values())
_PIECE = rf"[\d{_LETTERS}]{{0,12}}\d[\d{_LETTERS}]{{0,12}}"
_LEET = re.compile(
    rf"(?<![A-Za-z0-9À-ɏ])[+(]?(?:{_PIECE}|[OoIlL]{{2,3}})(?:[\s.\-_/()*]{{1,3}}(?:{_PIECE}|[OIl]{{2}})){{0,9}}(?![A-Za-z0-9À-ɏ])",
    re.ASCII,
)
_CODE = re.compile(r"^[AT]|[AT](?!\d)")  # a model's or an article's letter, not a digit's double
_LEET_HINT = re.compile(rf"\d[{_LETTERS}]|[{_LETTERS}]\d")

_CONNECTORS = one_of(
    "lalu terus trus kemudian terakhir akhirnya akhir tengah tengahnya belakang"
    " belakangnya depan depannya sambung lanjut dan",
    "then and next after_that followed_by last lastly finally middle ends_with"
    " ends_in starts_with plus first second third",
    "tapos tas gitna dulo huli saka sunod umpisa at pastu lepas_tu hujung mula akhir_sekali",
    "depois em_seguida no_meio no_final e termina por_fim por_último final mais com meio o o_resto",
    "luego después despues y al_final sigue seguido de en medio por resto demás último al_último rồi tiếp"
    " tiếp_theo giữa cuối đầu sau đó là đến xong kế",
    "ต่อด้วย ต่อ แล้วก็ แล้ว ตรงกลาง กลาง ลงท้าย ท้าย ตามด้วย สุดท้าย ปิดท้าย และ จบด้วย",
    "然後 然后 再來 再来 中間 中间 後面 后面 最後 最后 接著 接着 再 末 尾 後 后",
)
_JOINT = rf"[\s,.:;…\-–>]{{0,3}}(?:{_CONNECTORS}[\s,.:;…\-–>]{{0,3}}){{1,3}}"
_IN_PIECES = re.compile(
    rf"(?<![\d.,/:\-])[+(]?\d[\d\s\-.()]{{0,8}}\d(?:{_JOINT}\d[\d\s\-.]{{0,8}}\d){{1,4}}(?![\d.,/:\-]*\d)",
    re.IGNORECASE,
)
_FAR_APART = re.compile(r"(?<![\d.,/:\-])0\d{2,4}(?:[^\d<>]{1,24}\d{3,5}){1,3}(?![\d.,/:\-]*\d)")
_DIGITS = re.compile(r"\d(?:[\d\s\-.()]*\d)?")


def without_spelt_numbers(text: str, words: Words) -> str:
    """Put a token in place of a number in words."""
    if not _WORDS.isdisjoint(words.all):
        spelt, digits = sum(word in _WORDS for word in words.all), sum(map(str.isdigit, text))
        if spelt + digits >= MIN_DIGITS and (spelt > 2 or not _ZEROS.isdisjoint(words.all)):
            text = _SPELT.sub(_if_words, text)
    if words.unspaced and _TWO_THAI.search(text):
        text = _SPELT_IN_THAI.sub(PHONE, text)
    return text


def without_lookalikes(text: str) -> str:
    """Put a token in place of a number in which letters stand for digits."""
    return _LEET.sub(_if_dialled, text) if _LEET_HINT.search(text) else text


def without_numbers_in_pieces(text: str) -> str:
    """Put a token in place of each piece of a number that a sentence holds together: "0812, then 345, then 678"."""
    text = _IN_PIECES.sub(_if_whole, text)
    # With its trunk zero a number is known for one whatever the words between.
    return _FAR_APART.sub(lambda found: _if_whole(found, is_dialled), text)


def _if_words(found: re.Match[str]) -> str:
    run = found[0]
    words = [word.lower() for word in _WORD.findall(run)]
    spelt, digits = sum(word in _WORDS for word in words), sum(map(str.isdigit, run))
    if spelt > 2:
        return PHONE if spelt + digits >= MIN_DIGITS else run
    return PHONE if run[0].isalpha() and words[0] in _ZEROS and digits >= MIN_DIGITS else run


def _if_dialled(found: re.Match[str]) -> str:
    run = found[0]
    given = sum(map(str.isdigit, run))
    letters = sum(one in _LETTERS for one in run)
    if _CODE.search(run) or not letters or given + letters < 8 or given < letters:
        return run
    return PHONE if is_phone(ascii_digits(run.translate(_LOOKALIKES))) else run


def _if_whole(found: re.Match[str], known: Callable[[str], bool] = is_phone) -> str:
    run = found[0]
    digits = ascii_digits(run)
    return _DIGITS.sub(PHONE, run) if len(digits) >= 8 and known(digits) else run
