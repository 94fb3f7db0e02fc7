"""Digits that are nobody's: instants, opening hours, amounts, sizes and quantities, in the forms of nine markets."""

from __future__ import annotations

import re
from itertools import pairwise

from cancellation.contact_data.identifiers import MIN_DIGITS, ascii_digits, is_phone
from cancellation.contact_data.words import NOT_LATIN_BEHIND, one_of

_YEAR = r"(?:20\d\d|25[4-9]\d)"  # of the common era or, in Thailand, of the Buddha
_MONTH, _DAY = r"(?:1[0-2]|0?[1-9])", r"(?:[12]\d|3[01]|0?[1-9])"
_CLOCK = r"(?:2[0-4]|[01]?\d)[:：.][0-5]\d(?::[0-5]\d(?:[.,]\d{1,6})?)?(?:\s?[+-](?:0\d|1[0-4]):?[03]0)?"
_TO = r"\s?[-–—―~～]\s?"
_BETWEEN = r"\s?(?:[-–—―~～/|&+,;、，]|\s)\s?"


def _instant(place: str) -> str:
    """Match a date, the same sign between its parts, a year before a time of day, or a time of day."""
    dates = (
        rf"{_YEAR}(?P<a{place}>[-/.]){_MONTH}(?P=a{place}){_DAY}",
        rf"{_DAY}(?P<b{place}>[-/.]){_MONTH}(?P=b{place})(?:{_YEAR}|[23]\d)",
        rf"{_MONTH}(?P<c{place}>[-/.]){_DAY}(?P=c{place}){_YEAR}",
        rf"{_DAY}[-/.]{_MONTH}(?=,?\s+(?:2[0-4]|[01]?\d)[:：][0-5])|(?<=:\d\d\s){_DAY}[/.]{_MONTH}",
        rf"{_YEAR}(?=,?\s+(?:2[0-4]|[01]?\d)[:：]|\s?[-–/]\s?{_YEAR}$)|(?<=[-–/\s]){_YEAR}$",
    )
    return f"(?:{'|'.join(dates)}|{_CLOCK})"


_MOMENTS = re.compile(
    rf"(?:{_DAY}(?:,?\s(?={_YEAR})|(?:[/.]{_MONTH})?{_TO}(?=\d{{1,4}}[-/.]\d{{1,2}}[-/.])))?{_instant('1')}(?:{_BETWEEN}{_instant('2')}){{0,7}}"
    rf"|{_DAY}{_TO}{_DAY},?\s{_YEAR}|{_DAY}[/.]{_MONTH}\.?{_TO}{_DAY}[/.]{_MONTH}|{_MONTH}/{_DAY}{_TO}{_MONTH}/{_DAY}"
    r"|20[2-3]\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:(?:[01]\d|2[0-3])(?:[0-5]\d){2})?",
    re.ASCII,
)
_WATCH = re.compile(rf"(?:2[0-4]|[01]\d)[0-5]0{_TO}(?:2[0-4]|[01]\d)[0-5]0", re.ASCII)
_PARTS = re.compile(r",\s|\s?[=+]\s?[$₱฿₫€£¥]?\s?")
_SMALL = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_IN_BRACKETS = re.compile("[（(][一二三四五六日][)）]?")
_WEEK = ("週", "周", "星期", "禮拜", "礼拜")
_WEEKDAY = re.compile(r"^[一二三四五六]\s?(?=\d)")
_LAUGHTER = re.compile("5+|๕+")  # five is read "ha" in Thai

_ITEM = r"[1-9]\d{0,2}(?:(?:,\d{3}){1,4}(?:\.\d\d)?|(?:\.\d{3}){1,4}(?:,\d\d?)?|(?:[.,]\d\d)?)(?:[.,]?-)?"
_PLAIN_ITEM = r"[1-9]\d{3,7}(?:[.,]\d\d)?"
_RANGE = r"\s?(?:[-–—~～/]\s?|,\s)[$₱฿₫€£¥]?\s?"
_GROUPED = re.compile(rf"{_ITEM}(?:{_RANGE}{_ITEM})*", re.ASCII)
_PLAIN = re.compile(rf"{_PLAIN_ITEM}(?:{_RANGE}{_PLAIN_ITEM})?", re.ASCII)
_CLEAR = re.compile(
    # No phone is written with commas, in groups of three with cents, or with zeros at the end and dots between.
    r"[1-9]\d{0,2}(?:(?:,\d{3})+(?:\.\d\d)?|(?:\.\d{3})+,\d\d|(?:\.\d{3})*\.\d?00)|[1-9]\.\d{3}\.\d{3}",
    re.ASCII,
)
_SIDES = re.compile(r"[1-9]\d{0,3}(?:[.,]\d)?(?:\s?[*×]\s?[1-9]\d{0,3}(?:[.,]\d)?){1,2}", re.ASCII)
_LIST = re.compile(r"[1-9]\d{0,2}(?:(\s?[-/、|]\s?|,\s?|\s)[1-9]\d{0,2})(?:\1[1-9]\d{0,2})+", re.ASCII)
_COUNT = r"[1-9](?:\d{0,4}|\d{0,2}(?:,\d{3})+)"
_COUNTS = re.compile(rf"{_COUNT}(?:,\s{_COUNT})+", re.ASCII)

_CURRENCY = one_of(
    "rp idr r$ brl us$ usd mx$ mxn nt$ nt twd s$ sgd rm myr php p thb vnd vnđ rmb cny $ ₱ ฿ ₫ đ đồng dong 元 € £ ¥"
)
_MONEY = one_of("rupiah ringgit baht peso pesos piso reais real dollar dollars dólares")
_UNITS = one_of(
    "pcs pc buah biji unit units keping helai lembar box boxes dus pack packs lusin"
    " pasang set sets piraso peraso cái chiếc"
    " bộ thùng hộp peças peça peças unidades piezas pieza cajas caixas cm mm kg gr"
    " gram grams grama gramas gramos gam mah"
    " gb mb tb ml watt rpm lumen btu hari days araw ngày dias días views km hojas folhas pares pairs"
)
_OTHER_UNITS = one_of(
    "บาท ชิ้น อัน ตัว คู่ กล่อง แพ็ค กรัม กก ซม มม วัน 元 塊 块 圓 個 个 件 箱 盒 雙 组 組 張 公分 公克 克 公斤 毫米"
)
_GLUED_UNIT = re.compile(
    rf"(?:gb|tb|mb|ml|l|g|gr|kg|cm|mm|m|w|v|hz|mah|mp|a|k|rb|jt|pcs|pc){NOT_LATIN_BEHIND}", re.IGNORECASE
)
_LAST_OF_SEVERAL = re.compile(r"\s\d{1,5}$")
_CURRENCY_BEFORE = re.compile(rf"(?<![A-Za-zÀ-ɏ]){_CURRENCY}\.?\s?$", re.IGNORECASE)
_UNIT_BEHIND = re.compile(
    rf"\s?(?:\.?-\s?|\()?(?:(?:{_CURRENCY}|{_MONEY}|{_UNITS}){NOT_LATIN_BEHIND}|{_OTHER_UNITS})", re.IGNORECASE
)


def reads_otherwise(run: str, before: str, text: str, end: int) -> bool:
    """Say whether all of a run of digits is an instant, an amount or a measure, or several.

    Args:
        run: The run, letters before it left out.
        before: Some characters that stand before it in the text.
        text: The text.
        end: Where the run ends in it.
    """
    if before.endswith(_WEEK):
        run = _WEEKDAY.sub("", run)
    if "(" in run or "（" in run:
        run = _IN_BRACKETS.sub("", run)
    if _stands_alone(run):
        return True
    glued = _LAST_OF_SEVERAL.search(run)
    if glued and _GLUED_UNIT.match(text, end) and len(ascii_digits(run[: glued.start()])) < MIN_DIGITS:
        return True  # A3106 256GB
    parts = _PARTS.split(run)
    if len(parts) > 1 and all(_stands_alone(part) or ("=" in run and _SMALL.fullmatch(part)) for part in parts):
        return True
    if _LIST.fullmatch(run):
        return _climbs(run) or bool(_UNIT_BEHIND.match(text, end))
    if _GROUPED.fullmatch(run) or _PLAIN.fullmatch(run):
        return bool(_CURRENCY_BEFORE.search(before) or _UNIT_BEHIND.match(text, end))
    return bool(_COUNTS.fullmatch(run)) and not is_phone(ascii_digits(run))


def _stands_alone(run: str) -> bool:
    return any(pattern.fullmatch(run) for pattern in (_MOMENTS, _WATCH, _CLEAR, _SIDES, _LAUGHTER))


def _climbs(run: str) -> bool:
    """Say whether numbers grow by small or equal steps, or double, as sizes do."""
    values = [int(value) for value in re.findall(r"\d+", run)]
    steps = {later - value for value, later in pairwise(values)}
    if steps <= {1, 2} or (len(steps) == 1 and 0 < min(steps) <= 20):
        return True
    return all(later == 2 * value for value, later in pairwise(values))
