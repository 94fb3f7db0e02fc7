"""Where a person can be reached by name: links to chats, e-mail addresses however disguised, handles of messengers."""

from __future__ import annotations

import re
from collections.abc import Sequence

EMAIL, LINK, HANDLE = "<EMAIL>", "<LINK>", "<HANDLE>"

_HOSTS = (
    r"(?:(?:wa|wasap|whats(?:app)?|wsp|walink)\.(?:me|my|link|to|app|biz)|t\.me|telegram\.(?:me|dog|org)|line\.(?:me|ee|app)"
    r"|lin\.ee|zalo\.(?:me|vn)|m\.me|fb\.(?:me|com|watch)|facebook\.com|messenger\.com|instagram\.com|ig\.me|tiktok\.com"
    r"|x\.com|twitter\.com|threads\.net|discord\.(?:gg|com)|viber\.com|(?:chat|api)\.whatsapp\.com|weibo\.com"
    r"|(?:open|pf)\.kakao\.com|linkedin\.com|youtube\.com|linktr\.ee|linkin\.bio|lnk\.bio|bit\.ly|s\.id|tinyurl\.com)"
)
_LINK = re.compile(
    rf"(?:\w{{2,12}}://[^\s/@]{{1,200}}@\S*|\w{{2,12}}://\S{{0,200}}/@\S*"
    rf"|(?<![\w.])(?:https?://)?(?:[\w-]{{1,30}}\.)?{_HOSTS}/\S+|(?:mailto|tel|tg|line|whatsapp|viber|skype):/{{0,2}}[^\s]+)",
    re.IGNORECASE,
)

_NAME = r"[A-Za-z0-9_À-ɏＡ-Ｚａ-ｚ０-９]"
_LATIN_AT = r"(?:at|et|arroba|alias|di|sa|a\s?(?:còng|cong|móc|moc|vòng|kòng))"
_OTHER_AT = r"(?:แอ็?[ทดต]|แอ๊ท|小老鼠|老鼠|艾特|圈a)"
_AT_WORD = rf"(?:{_LATIN_AT}|{_OTHER_AT})"
_DOT_WORD = r"(?:dot|titik|tuldok|ponto|punto|chấm|cham|ดอ[ทตด]|ด็อท|จุด|點|点|點點)"
_OPEN, _CLOSE = r"[(\[{<‹（【]\s?", r"\s?[)\]}>›）】]"
_AT_SIGN = rf"(?:\s?(?:{_OPEN}(?:@|＠|{_AT_WORD}){_CLOSE})\s?|[@＠]\s?|\s[@＠]\s)"
_DOT = rf"(?:\s?(?:\.|。|．|{_OPEN}(?:\.|{_DOT_WORD}){_CLOSE})\s?|\s?(?<![A-Za-z]){_DOT_WORD}(?![A-Za-z])\s?)"
_END = r"(?:com|net|org|co|id|th|vn|ph|my|sg|tw|br|mx|me|info|biz|shop|store|io|cn|hk|app|คอม|ค็อม|เน็ต)"
_PROVIDER = (
    r"(?:g\s?mail|yahoo|ymail|hotmail|outlook|icloud|live|msn|proton(?:mail)?|qq|163|126|foxmail|naver|daum|zoho|uol|bol|terra"
    r"|globo|prodigy|fpt|rocketmail|mail|aol|จีเมล|ยาฮู|ฮอทเมล|เอาท์ลุค)"
)
_LOCAL = rf"(?<!{_NAME})(?:{_NAME}|[.+%-]){{1,64}}(?:\s{_DOT_WORD}\s{_NAME}{{1,32}}){{0,3}}"
_EMAIL = re.compile(
    rf"{_LOCAL}{_AT_SIGN}(?:[\w-]{{1,63}}(?:{_DOT}[\w-]{{2,63}}){{1,4}}|{_PROVIDER}(?!\w))",
    re.IGNORECASE,
)
_SPOKEN_EMAIL = re.compile(
    rf"{_LOCAL}(?:\s{_LATIN_AT}\s|\s?{_OTHER_AT}\s?)(?:{_PROVIDER}(?:{_DOT}{_END}){{1,3}}|[\w-]{{1,63}}(?:\s?{_DOT_WORD}\s?{_END}){{1,3}})(?![\w])",
    re.IGNORECASE,
)
_SPOKEN_LINK = re.compile(
    rf"(?<!{_NAME})(?:wa|wasap|whats(?:app)?|t|line|lin|zalo|m|fb|ig)\s?{_DOT_WORD}\s?(?:me|link|ee|com|my)"
    r"(?:\s?(?:/|slash|garis\smiring|barra|diagonal|gạch\schéo|ทับ|สแลช|斜線|斜杠)\s?[\w.-]{2,64})+",
    re.IGNORECASE,
)
_AT_NAME = re.compile(r"[\w.]{0,64}[@＠](?=[\w.]{0,64}[^\W\d])[\w.]{3,64}")
_ANY_AT = re.compile(r"[@＠]|[(\[{<‹（【]\s?(?:at|arroba|et|alias|แอ)", re.IGNORECASE)

_SERVICES = (
    r"whats?\s?app?s?|w[hu]?ats+apps?|wh?ats?up|wass?ap|wasapp|whats|wapp|wa|wpp?|wsp|ws|zap(?:zap)?|telegrama?|tele|tg|line"
    r"|zalo|zl|we\s?chat|wechat|weixin|wx|vx|instagram|insta|ig|facebook|face|fb|messenger|viber|kakao\s?talk|kakao|kkt"
    r"|skype|signal|discord|snap\s?chat|snap|qq|twitter|tik\s?tok|pix"
)
_SCRIPTS = r"ไลน์|ไลน|เทเลแกรม|เทเล|เฟซบุ๊ก|เฟสบุ๊ค|เฟซ|เฟส|เพจ|ไอจี|วอทส์?แอพ|วีแชท|ทวิตเตอร์|微信|薇信|威信|加v|加V|v信|賴|赖|臉書|脸书|电报|電報"
_FILLERS = (
    r"(?:(?:ids?|handle|profile?|perfil|official|no|nomor|nº|num(?:ber|ero)?|número|nick(?:name)?|user(?:name)?|usuario|usuário|acct|account|akun|conta|cuenta"
    r"|tên|name|nama|nome|nombre|grup|group|link|page|shop|toko|store|saya|aku|gw|gua|ku|my|me|mình|em|anh|chị|tôi|ko|po"
    r"|namin|kami|is|it's|es|é|o|a|el|la|là|ay|adalah|ialah|on|at|by|via|baru|new|nuevo|novo|mới)(?![A-Za-z0-9_À-ɏ])"
    r"|ไอดี|ไลน์|ร้าน|เพจ|ครับ|ค่ะ|คะ|นะ|คือ|ชื่อ|เรา|id[号號]|号|號|帳號|账号|帐号|是|為|为|叫|的|id是)"
)
_NOUNS = (
    r"ids?|ไอดี|nick(?:name)?|user(?:name)?|usuario|usuário|acct|account|akun|conta|cuenta|tên|name|nama|nome|nombre|号|號"
    r"|帳號|账号|帐号|id號|ชื่อ"
)
_BEFORE = rf"(?:(?<!{_NAME})(?:{_SERVICES})(?!{_NAME})|{_SCRIPTS})"
_STRONG = r"@?(?!(?:rm|rp|idr|php|thb|sgd|twd|brl|mxn|usd|vnd|p|nt|us|s|r)\d+\b)(?=[A-Za-z_])(?=[A-Za-z._-]*(?:\d|_\w|[._-][A-Za-z0-9]))[A-Za-z0-9._-]{5,64}(?<![.-])"
_SERVICE = re.compile(
    rf"({_BEFORE}(?:[\s,]{{0,2}}{_FILLERS}){{0,4}}\s?[:：=]\s?)(?!<)([^\s,;<>]{{3,64}})"
    rf"|({_BEFORE}(?:[\s,]{{0,2}}{_FILLERS}){{0,3}}[\s,]{{0,2}}(?:{_NOUNS})\s?[:：=]?\s?)(@?[A-Za-z][A-Za-z0-9._-]{{4,64}})"
    rf"|({_BEFORE}(?:[\s,]{{0,2}}{_FILLERS}){{0,4}}[\s,]{{0,2}})({_STRONG})",
    re.IGNORECASE,
)
_PREFIXED = re.compile(
    rf"((?:(?<!{_NAME})ids?|ไอดี)\s?(?:{_SERVICES}|{_SCRIPTS})(?:\s{_FILLERS}){{0,2}}\s?[:：=]?\s?)(@?[A-Za-z][A-Za-z0-9._-]{{3,64}})",
    re.IGNORECASE,
)
_STARTS_OF_LINKS = frozenset("mailto tel tg line whatsapp viber skype".split())
_DOT_WORDS = frozenset("dot titik tuldok ponto punto chấm cham gmail yahoo hotmail outlook icloud".split())
_SERVICE_WORDS = frozenset(
    "whatsapp whatsap whatsapps watsap watsapp whatsaap wasap wassap wasapp whatssapp wazzap whats wapp wa wp wpp wsp ws zap"
    " zapzap telegram telegrama tele tg line zalo zl wechat weixin wx vx v instagram insta ig facebook face fb messenger viber"
    " kakaotalk kakao kkt skype signal discord snapchat snap qq twitter tiktok tik pix".split()
)
_OTHER_SCRIPTS = re.compile(rf"{_SCRIPTS}|{_OTHER_AT}|ดอ[ทตด]|จุด|點|点", re.IGNORECASE)


def without_addresses(text: str, words: Sequence[str]) -> str:
    """Put tokens in place of links to chats and of e-mail addresses; `words` are those of the text, in small letters."""
    slash = "/" in text
    if (slash and ("." in text or "@" in text)) or (":" in text and not _STARTS_OF_LINKS.isdisjoint(words)):
        text = _LINK.sub(LINK, text)
    if _ANY_AT.search(text):
        text = _EMAIL.sub(EMAIL, text)
    if not _DOT_WORDS.isdisjoint(words) or (not text.isascii() and _OTHER_SCRIPTS.search(text)):
        text = _SPOKEN_LINK.sub(LINK, text)
        text = _SPOKEN_EMAIL.sub(EMAIL, text)
    return text


def without_handles(text: str, words: Sequence[str]) -> str:
    """Put tokens in place of names behind an @ and of names at a messenger."""
    if "@" in text or "＠" in text:
        text = _AT_NAME.sub(HANDLE, text)
    if _SERVICE_WORDS.isdisjoint(words) and (text.isascii() or _OTHER_SCRIPTS.search(text) is None):
        return text
    text = _PREFIXED.sub(rf"\g<1>{HANDLE}", text)
    return _SERVICE.sub(lambda found: f"{found[1] or found[3] or found[5]}{HANDLE}", text)
