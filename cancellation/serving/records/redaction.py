"""People's contact data taken out of what is logged: phones, e-mails, cards, identity numbers, links, handles.

Errs on the side of taking out: seven digits in a row go, whatever stands between them to hide it, unless the
whole run reads as a date or, beside a currency, as an amount. Names and addresses in words stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal

from cancellation.events.clean_text import INVISIBLE

Mode = Literal["redacted", "reference", "full"]
"""What a log holds of people's texts: without contact data; digest and length only; as they were sent."""

PHONE, EMAIL, CARD, NUMBER, LINK, HANDLE = "<PHONE>", "<EMAIL>", "<CARD>", "<NUMBER>", "<LINK>", "<HANDLE>"

_MIN_DIGITS = 7
_DIGIT = "[\\d⁰¹²³⁴-⁹₀-₉①-⑨⓪⓿❶-❿➀-➈➊-➒㊀-㊈零〇一二三四五六七八九]"
_GAP = r"(?:[^\w\[\]<>]|_)"  # anything but letters, digits and the brackets of tokens
_RUN = re.compile(f"[A-Z]{{0,2}}[+＋(（]{{0,3}}{_DIGIT}(?:{_GAP}{{0,4}}{_DIGIT}){{{_MIN_DIGITS - 1},}}")
_ONE_DIGIT = re.compile(_DIGIT)

_DATE = re.compile(
    r"(?:20\d\d([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|1[0-2])\2"
    r"(?:20\d\d))(?:,?\s+(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)?",
    re.ASCII,
)
_AMOUNT = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3}){2,3}(?:[.,]\d\d)?", re.ASCII)
_CURRENCY = r"(?:rp|idr|r\$|brl|us\$|usd|mx\$|mxn|nt\$|twd|s\$|sgd|rm|myr|php|thb|vnd|vnđ|[$₱฿₫đ元])"
_CURRENCY_BEFORE = re.compile(rf"(?<!\w){_CURRENCY}\.?\s?$", re.IGNORECASE)
_CURRENCY_BEHIND = re.compile(rf"\s?(?:{_CURRENCY}|đồng|dong|บาท|pesos?|reais)(?!\w)", re.IGNORECASE)

_HOSTS = (
    r"(?:wa\.me|t\.me|telegram\.(?:me|dog|org)|line\.me|lin\.ee|zalo\.me|m\.me|fb\.(?:me|com)|facebook\.com|instagram\.com"
    r"|ig\.me|tiktok\.com|x\.com|twitter\.com|discord\.gg|discord\.com|viber\.com|chat\.whatsapp\.com|api\.whatsapp\.com"
    r"|weibo\.com|linkedin\.com|youtube\.com|linktr\.ee|bit\.ly)"
)
_LINK = re.compile(
    rf"(?:\w{{2,12}}://[^\s/@]{{1,200}}@\S*|\w{{2,12}}://\S{{0,200}}/@\S*"
    rf"|(?<![\w.])(?:https?://)?(?:[\w-]{{1,30}}\.)?{_HOSTS}/\S+|(?:mailto|tel|tg|line|whatsapp|viber|skype):/{{0,2}}[^\s]+)",
    re.IGNORECASE,
)
_AT, _DOT = r"\s?(?:@|＠|\(at\)|\[at\]|\{at\})\s?", r"\s?(?:\.|。|\(dot\)|\[dot\]|\{dot\})\s?"
_EMAIL = re.compile(rf"[\w.+%-]{{1,64}}{_AT}[\w-]{{1,63}}(?:{_DOT}[\w-]{{2,63}}){{1,4}}", re.IGNORECASE)
_AT_NAME = re.compile(r"[\w.]{0,64}[@＠](?=[\w.]{0,64}[^\W\d])[\w.]{3,64}")
_SERVICE = re.compile(
    r"((?<!\w)(?:whats\s?app|wapp|wpp|zap|wa|telegram|tele|tg|line|zalo|we\s?chat|weixin|wx|微信|加v|instagram|insta|ig"
    r"|facebook|fb|viber|kakao\s?talk|kakao|messenger|skype|signal|discord|snapchat|qq)"
    r"(?:\s?(?:id|no|number|nick|user(?:name)?|号|帳號))?\s?[:：=]\s?)(?!<)([^\s,;]{3,64})",
    re.IGNORECASE,
)
_SUSPICIOUS = re.compile(rf"{_DIGIT}|[@＠:：=/]|[(\[{{]at[)\]}}]", re.IGNORECASE)
_MARK = re.compile("[:：=]")
_ANY_AT = re.compile(r"[@＠]|[(\[{]at[)\]}]", re.IGNORECASE)


def redact(text: str) -> str:
    """Replace contact data by tokens such as `<PHONE>`; the rest stays as it is, less invisible characters.

    Those go first, since one of them between two digits would hide a number from any pattern, and the model
    does not see them either.
    """
    if not text.isascii():
        text = INVISIBLE.sub("", text)
    if _SUSPICIOUS.search(text) is None:
        return text
    if "/" in text or ":" in text:
        text = _LINK.sub(LINK, text)
    with_at = _ANY_AT.search(text) is not None
    if with_at:
        text = _EMAIL.sub(EMAIL, text)
    text = _RUN.sub(_number, text)
    if with_at:
        text = _AT_NAME.sub(HANDLE, text)
    return _SERVICE.sub(rf"\1{HANDLE}", text) if _MARK.search(text) else text


def redact_event(event: Mapping[str, Any], mode: Mode) -> dict[str, Any]:
    """Give an event in the contract's form as a log may hold it; keys, instants, codes and numbers stay.

    In mode `reference` a text becomes `sha256:… length:…`, by which it can be checked against the chat store;
    the digest of a short text can be guessed by trying. The result still parses as an event.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in _REPLACEMENTS:
        raise ValueError(f"mode {mode!r}: expected redacted, reference or full")
    replace = _REPLACEMENTS[mode]
    logged = dict(event)
    if replace is None:
        return logged
    if logged.get("buyer_reason"):
        logged["buyer_reason"] = replace(logged["buyer_reason"])
    for name, field in _TEXTS:
        if logged.get(name):
            logged[name] = [{**item, field: replace(item[field])} if item.get(field) else item for item in logged[name]]
    return logged


def is_by_reference(event: Mapping[str, Any]) -> bool:
    """Say whether an event's texts were logged by reference: then nothing can be read out of them any more."""
    texts = [event.get("buyer_reason"), *(item.get(field) for name, field in _TEXTS for item in event.get(name) or ())]
    return any(isinstance(text, str) and is_reference(text) for text in texts)


def is_reference(text: str) -> bool:
    """Say whether a text is what mode `reference` puts in place of one."""
    return _REFERENCE.fullmatch(text) is not None


def _reference(text: str) -> str:
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} length:{len(text)}"


_REFERENCE = re.compile(r"sha256:[0-9a-f]{64} length:\d+")
_TEXTS = (("chat", "text"), ("fulfilment", "note"), ("concurrent_orders", "chat_excerpt"))
_REPLACEMENTS: dict[str, Callable[[str], str] | None] = {"redacted": redact, "reference": _reference, "full": None}


def _number(found: re.Match[str]) -> str:
    run = found[0]
    if _DATE.fullmatch(run) or (_AMOUNT.fullmatch(run) and _beside_currency(found)):
        return run
    digits = "".join(_ONE_DIGIT.findall(run))
    if _is_card(digits):
        return CARD
    letters = run[0].isascii() and run[0].isalpha()
    return NUMBER if letters or len(digits) > 15 else PHONE


def _beside_currency(found: re.Match[str]) -> bool:
    text = found.string
    before = text[max(0, found.start() - 6) : found.start()]
    return bool(_CURRENCY_BEFORE.search(before) or _CURRENCY_BEHIND.match(text, found.end()))


def _is_card(digits: str) -> bool:
    """13 to 19 digits whose check digit fits (Luhn)."""
    if not 13 <= len(digits) <= 19 or not digits.isdecimal():
        return False
    values = [int(digit) for digit in reversed(digits)]
    doubled = (sum(divmod(2 * value, 10)) for value in values[1::2])
    return (sum(values[::2]) + sum(doubled)) % 10 == 0
