"""Runs of digits: which are a person's, and which are an instant, an amount, a size or an order's number.

A run of seven digits and more is a person's, whatever stands between its digits to hide it, unless all of it reads as
something else, by itself or by the words beside it.
"""

from __future__ import annotations

import re
from itertools import pairwise

from cancellation.contact_data.identifiers import (
    DIGIT,
    ascii_digits,
    is_article_number,
    is_card,
    is_identity_number,
    is_phone,
    is_somebodys,
)

PHONE, CARD, NUMBER = "<PHONE>", "<CARD>", "<NUMBER>"

MIN_DIGITS = 7
_GAP = r"(?:[^\w\[\]<>]|_)"  # anything but letters, digits and the brackets of tokens
RUN = re.compile(f"[A-Z]{{0,2}}[+＋(（]{{0,3}}{DIGIT}(?:{_GAP}{{0,4}}{DIGIT}){{{MIN_DIGITS - 1},}}")

_YEAR = r"(?:20\d\d|25[4-9]\d)"  # of the common era or, in Thailand, of the Buddha
_MONTH, _DAY = r"(?:1[0-2]|0?[1-9])", r"(?:[12]\d|3[01]|0?[1-9])"
_CLOCK = r"(?:2[0-4]|[01]?\d)[:：.][0-5]\d(?::[0-5]\d(?:[.,]\d{1,6})?)?(?:\s?[+-](?:0\d|1[0-4]):?[0-5]\d)?"
_AMOUNT_ITEM = r"[1-9]\d{0,2}(?:(?:,\d{3}){1,4}(?:\.\d\d)?|(?:\.\d{3}){1,4}(?:,\d\d?)?|(?:[.,]\d\d)?)(?:[.,]?-)?"
_PLAIN_AMOUNT = r"[1-9]\d{3,7}(?:[.,]\d\d)?"
_BETWEEN = r"\s?(?:[-–—―~～/|&+,;、，]|\s)\s?"


def _instant(place: str) -> str:
    """Match a date, the same sign between its parts, a year before a time of day, or a time of day."""
    dates = (
        rf"{_YEAR}(?P<a{place}>[-/.]){_MONTH}(?P=a{place}){_DAY}",
        rf"{_DAY}(?P<b{place}>[-/.]){_MONTH}(?P=b{place})(?:{_YEAR}|[23]\d)",
        rf"{_MONTH}(?P<c{place}>[-/.]){_DAY}(?P=c{place}){_YEAR}",
        rf"{_YEAR}(?=,?\s+(?:2[0-4]|[01]?\d)[:：]|\s?[-–/]\s?{_YEAR}$)|(?<=[-–/\s]){_YEAR}$",
    )
    return f"(?:{'|'.join(dates)}|{_CLOCK})"


_MOMENTS = re.compile(
    rf"(?:{_DAY}(?:,?\s|(?:[/.]{_MONTH})?\s?[-–~]\s?))?{_instant('1')}(?:{_BETWEEN}{_instant('2')}){{0,7}}", re.ASCII
)
_WATCH = re.compile(r"(?:2[0-4]|[01]\d)[0-5]0\s?[-–~～]\s?(?:2[0-4]|[01]\d)[0-5]0", re.ASCII)
_SIGNS = r"[$₱฿₫€£¥]"
_RANGE = rf"\s?(?:[-–—~～/]\s?|,\s){_SIGNS}?\s?"
_GROUPED = re.compile(rf"{_AMOUNT_ITEM}(?:{_RANGE}{_AMOUNT_ITEM})*", re.ASCII)
_PLAIN = re.compile(rf"{_PLAIN_AMOUNT}(?:{_RANGE}{_PLAIN_AMOUNT})?", re.ASCII)
_ROUND = re.compile(
    r"[1-9]\d{0,2}(?:(?:,\d{3})+\.\d\d|(?:\.\d{3})+,\d\d|(?:,\d{3})*,\d?00|(?:\.\d{3})*\.\d?00)", re.ASCII
)
_SIDES = re.compile(r"[1-9]\d{0,3}(?:[.,]\d)?(?:\s?[*×]\s?[1-9]\d{0,3}(?:[.,]\d)?){1,2}", re.ASCII)
_LIST = re.compile(r"[1-9]\d{0,2}(?:(\s?[-/、|]\s?|,\s?|\s)[1-9]\d{0,2})(?:\1[1-9]\d{0,2})+", re.ASCII)
_COUNT = r"[1-9](?:\d{0,4}|\d{0,2}(?:,\d{3})+)"
_COUNTS = re.compile(rf"{_COUNT}(?:,\s{_COUNT})+", re.ASCII)
_WEEKDAY = re.compile(r"^[一二三四五六]\s?(?=\d)")
_LAUGHTER = re.compile("5+|๕+")  # five is read "ha" in Thai

_CURRENCY = r"(?:rp|idr|r\$|brl|us\$|usd|mx\$|mxn|nt\$?|twd|s\$|sgd|rm|myr|php|p|thb|vnd|vnđ|rmb|cny|[$₱฿₫đ元€£¥])"
_CURRENCY_BEFORE = re.compile(rf"(?<![A-Za-zÀ-ɏ]){_CURRENCY}\.?\s?$", re.IGNORECASE)
_CURRENCY_BEHIND = re.compile(
    rf"\s?(?:\.?-\s?)?(?:(?:{_CURRENCY}|đồng|dong|rupiah|ringgit|baht|pesos?|piso|reais|real|dollars?|dólares)(?![^\W\d_])"
    r"|บาท|元|塊|块|圓)",
    re.IGNORECASE,
)

_ORDER_WORDS = (
    r"pesanan|invoice|inv|order(?:an)?(?:\s?id)?|ord|resi|paket|airway\s?bill|awb|way\s?bill|pengiriman|penghantaran"
    r"|tracking|track|parcel|shipment|consignment|pedido|compra|orden|rastre\w{1,5}|gu[ií]a|etiqueta|remessa|env[ií]o"
    r"|encomenda|n\.?f\.?|nota\s?fiscal|đơn(?:\s?hàng)?|vận\s?đơn|vận\s?chuyển|bưu\s?(?:điện|kiện)|kiện\s?hàng"
    r"|คำสั่งซื้อ|ออเดอร์|ออร์เดอร์|พัสดุ|แทรค\w{0,6}|แทร็ก\w{0,6}|ไปรษณีย์|訂單\w{0,3}|订单\w{0,3}|單號|单号|物流\w{0,3}"
    r"|店到店|取貨|寄件|包裹\w{0,5}|運單\w{0,2}|交貨便|查詢號碼|貨運\w{0,3}"
    r"|sku|ticket|tiket|case|kasus|kode|batch|lote|barcode|ean|upc|imei|s/n|serial"
    r"|jne|j&t|jnt|sicepat|anteraja|ghn|ghtk|vtp|viettel|lbc|ninja\s?van|ninja|dhl|fedex|ups|estafeta|correios|jadlog"
    r"|pos\s?laju|pos\s?malaysia|flash|kerry|shopee\s?express|spx|lazada|黑貓|宅配通|新竹|順豐|顺丰"
)
_ORDER_BEFORE = re.compile(
    rf"(?:(?<![^\W\d_])|(?<=[\u0e00-\u9fff]))(?:{_ORDER_WORDS})(?![A-Za-zÀ-ɏ])"
    r"(?:[\s.:：#=\-/(]*(?:id|no|nº|n°|num(?:ber)?|nomor|número|núm|code|código|mã|số|ke|de|do|da|del|la|express|for|my|"
    r"เลขที่|เลข|หมายเลข|編號|编号|號碼|号码|號|号|查詢號碼|is|adalah|es|é|là|ref|orden|objeto|express))"
    r"{0,3}[\s.:：#=\-/(]*$",
    re.IGNORECASE,
)
_HASH_BEFORE = re.compile(r"#\s?$")
_CODE_BEFORE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]*[A-Za-z]/?$")
_CARRIER = re.compile(
    r"(?:SPX|LEX|NLID|NV[A-Z]{2}|VTP|GHN|GHTK|JX|JP|JD|JT|JNE|TLID|LXAD|TH|FLEX|MPL|SF|KER)[A-Z]{0,6}/?"
)
_PHONE_LABEL = re.compile(r"|(?:wa|hp|telp?|cel|cp|no|nr|call|sms|zalo|line|phone|fone|sdt|t|p|m)", re.IGNORECASE)
_ARTICLE_WORD = re.compile(r"barcode|ean|upc|jan|gtin|條碼|条码|บาร์โค้ด|mã\s?vạch|código\s?de\s?barras?", re.IGNORECASE)
_TWO_CAPITALS = re.compile(r"[A-Z]{2}(?![A-Za-z0-9])")
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def judged(found: re.Match[str]) -> str:
    """Give the token for a match of `RUN`, or the run itself where it is nobody's."""
    run, text = found[0], found.string
    bare = run.lstrip(_CAPITALS)
    start = found.start() + len(run) - len(bare)
    before = text[max(0, start - 8) : start]
    if _reads_otherwise(bare, before, text, found.end()):
        return run
    digits = ascii_digits(run)
    if _is_an_orders(text, start, found.end(), digits):
        return run
    if is_card(digits):
        return CARD
    return NUMBER if len(bare) < len(run) or len(digits) > 15 or is_identity_number(digits) else PHONE


def _reads_otherwise(run: str, before: str, text: str, end: int) -> bool:
    """Say whether the whole run is instants, opening hours, amounts, measures, sizes or quantities."""
    if before.endswith(("週", "周", "星期", "禮拜", "礼拜")):
        run = _WEEKDAY.sub("", run)
    if _LAUGHTER.fullmatch(run) or _MOMENTS.fullmatch(run) or _WATCH.fullmatch(run) or _ROUND.fullmatch(run):
        return True
    if _SIDES.fullmatch(run) or (_LIST.fullmatch(run) and _climbs(run)):
        return True
    if _GROUPED.fullmatch(run) or _PLAIN.fullmatch(run):
        return bool(_CURRENCY_BEFORE.search(before) or _CURRENCY_BEHIND.match(text, end))
    return bool(_COUNTS.fullmatch(run)) and not is_phone(ascii_digits(run))


def _climbs(run: str) -> bool:
    """Say whether numbers grow by small or equal steps, as sizes do."""
    values = [int(value) for value in re.findall(r"\d+", run)]
    steps = {later - value for value, later in pairwise(values)}
    return steps <= {1, 2} or (len(steps) == 1 and 0 < min(steps) <= 20)


def _is_an_orders(text: str, start: int, end: int, digits: str) -> bool:
    """Say whether words beside a number, or its own shape, make it an order's, a parcel's or an article's."""
    token = _CODE_BEFORE.search(text, max(0, start - 12), start)
    letters = token[0] if token else ""
    before, behind = text[max(0, start - 40) : start - len(letters)], text[end : end + 12]
    if is_article_number(digits) and (_ARTICLE_WORD.search(before) or _ARTICLE_WORD.search(behind)):
        return True
    if len(letters) == 2 and len(digits) <= 13 and _TWO_CAPITALS.match(behind):
        return True  # S10 of the Universal Postal Union, and carriers that number their parcels like it
    if _CARRIER.fullmatch(letters):
        return True
    named = _ORDER_BEFORE.search(before) or (_HASH_BEFORE.search(before) and len(digits) > 9)
    return bool(named) and not (_PHONE_LABEL.fullmatch(letters) and is_somebodys(digits))
