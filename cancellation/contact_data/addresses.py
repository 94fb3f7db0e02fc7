"""Where a person can be reached by an address: links to chats, e-mail addresses, written out or spoken."""

from __future__ import annotations

import re

from cancellation.contact_data.words import NOT_LATIN_BEHIND, Words, one_of

EMAIL, LINK = "<EMAIL>", "<LINK>"

_HOSTS = (
    r"(?:(?:wa|wasap|whats(?:app)?|wsp|walink)\.(?:me|my|link|to|app|biz)|t\.me|telegram\.(?:me|dog|org)|line\.(?:me|ee|app)"
    r"|lin\.ee|zalo\.(?:me|vn)|m\.me|fb\.(?:me|com|watch)|facebook\.com|messenger\.com|instagram\.com|ig\.me|tiktok\.com"
    r"|x\.com|twitter\.com|threads\.net|discord\.(?:gg|com)|viber\.com|(?:chat|api)\.whatsapp\.com|weibo\.com"
    r"|(?:open|pf)\.kakao\.com|linkedin\.com|youtube\.com|linktr\.ee|linkin\.bio|lnk\.bio|bit\.ly|s\.id|tinyurl\.com)"
)
_SCHEMES = ("mailto", "tel", "tg", "line", "whatsapp", "viber", "skype")
_LINK = re.compile(
    rf"(?:\w{{2,12}}://[^\s/@]{{1,200}}@\S*|\w{{2,12}}://\S{{0,200}}/@\S*"
    rf"|(?<![A-Za-z_.])(?:https?://)?(?:[\w-]{{1,30}}\.)?{_HOSTS}/\S+|(?:{'|'.join(_SCHEMES)}):/{{0,2}}[^\s]+)",
    re.IGNORECASE,
)
_SCHEME_WORDS = frozenset(_SCHEMES)

_NAME = r"[A-Za-z0-9_À-ɏＡ-Ｚａ-ｚ０-９]"
_LATIN_AT = r"(?:at|et|arroba|alias|di|sa|a\s?(?:còng|cong|móc|moc|vòng|kòng))"
_OTHER_AT = one_of("แอท แอ็ท แอด แอ็ด แอต แอ๊ท 小老鼠 老鼠 艾特 圈a")
_DOTS = "dot titik tuldok ponto punto chấm cham"
_DOT_WORD = one_of(_DOTS, "ดอท ดอต ดอด ด็อท จุด 點 点")
_OPEN, _CLOSE = r"[(\[{<‹（【]\s?", r"\s?[)\]}>›）】]"
_AT_SIGN = rf"(?:\s?(?:{_OPEN}(?:@|＠|{_LATIN_AT}|{_OTHER_AT}){_CLOSE})\s?|[@＠]\s?|\s[@＠]\s)"
_DOT = rf"(?:\s?(?:\.|。|．|{_OPEN}(?:\.|{_DOT_WORD}){_CLOSE})\s?|[\s_-]?(?<![A-Za-z]){_DOT_WORD}(?![A-Za-z])[\s_-]?)"
_END = one_of("com net org co id th vn ph my sg tw br mx me info biz shop store io cn hk app คอม ค็อม เน็ต")
_PROVIDERS = "gmail yahoo ymail hotmail outlook icloud"
_PROVIDER = one_of(
    _PROVIDERS,
    "g_mail live msn proton protonmail qq 163 126 foxmail naver daum zoho uol bol"
    " terra globo prodigy fpt rocketmail mail aol",
    "จีเมล ยาฮู ฮอทเมล เอาท์ลุค",
)
_LOCAL = (
    rf"(?<!{_NAME})(?:{_NAME}|[.+%-]){{1,64}}(?:(?:\s{_DOT_WORD}\s|{_OPEN}{_DOT_WORD}{_CLOSE}){_NAME}{{1,32}}){{0,3}}"
)
_EMAIL = re.compile(
    rf"{_LOCAL}{_AT_SIGN}(?:[\w-]{{1,63}}(?:{_DOT}[\w-]{{2,63}}){{1,4}}|{_PROVIDER}(?!\w))", re.IGNORECASE
)
_MARKED_EMAIL = re.compile(
    rf"{_LOCAL}\s?[#*~^|/&•·!$%+=]{{1,3}}\s?{one_of(_PROVIDERS)}(?:{_DOT}{_END}){{1,3}}{NOT_LATIN_BEHIND}",
    re.IGNORECASE,
)
_SPOKEN_EMAIL = re.compile(
    rf"{_LOCAL}(?:[\s_-]{_LATIN_AT}[\s_-]|\s?{_OTHER_AT}\s?)"
    rf"(?:{_PROVIDER}(?:{_DOT}{_END}){{1,3}}|{one_of(_PROVIDERS)}|[\w-]{{1,63}}?(?:[\s_-]?{_DOT_WORD}[\s_-]?{_END}){{1,3}}){NOT_LATIN_BEHIND}",
    re.IGNORECASE,
)
_SPOKEN_LINK = re.compile(
    rf"(?<!{_NAME})(?:wa|wasap|whats(?:app)?|t|line|lin|zalo|m|fb|ig)\s?{_DOT_WORD}\s?(?:me|link|ee|com|my)"
    r"(?:\s?(?:/|slash|garis\smiring|barra|diagonal|gạch\schéo|ทับ|สแลช|斜線|斜杠)\s?[\w.-]{2,64})+",
    re.IGNORECASE,
)
_ANY_AT = re.compile(r"[@＠(\[{<‹（【]")
_SPOKEN_WORDS = frozenset([*_DOTS.split(), *_PROVIDERS.split()])
_OTHER_SPOKEN = re.compile(f"{_OTHER_AT}|ดอ[ทตด]|จุด|點|点")


def without_addresses(text: str, words: Words) -> str:
    """Put tokens in place of links to chats and of e-mail addresses."""
    colon, slash = ":" in text, "/" in text
    if (slash and (colon or "." in text)) or (colon and not _SCHEME_WORDS.isdisjoint(words.all)):
        text = _LINK.sub(LINK, text)
    if _ANY_AT.search(text):
        text = _EMAIL.sub(EMAIL, text)
    if not _SPOKEN_WORDS.isdisjoint(words.all) or (words.unspaced and _OTHER_SPOKEN.search(text)):
        text = _SPOKEN_LINK.sub(LINK, text)
        text = _SPOKEN_EMAIL.sub(EMAIL, text)
        text = _MARKED_EMAIL.sub(EMAIL, text)
    return text
