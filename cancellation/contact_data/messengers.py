"""A person's name at a messenger or a social network: behind an @, or near the network's name."""

from __future__ import annotations

import re

from cancellation.contact_data.words import NOT_LATIN_BEFORE, NOT_LATIN_BEHIND, Words, one_of

HANDLE = "<HANDLE>"

_AT_NAME = re.compile(r"[\w.]{0,64}[@＠](?=[\w.]{0,64}[^\W\d])[\w.]{3,64}")

_LATIN = (
    "whatsapp whatsap whatsapps watsap watsapp whatsaap whatsup wasap wassap wasapp whatssapp wazzap"
    " whats wapp wa wp wpp wsp ws zap zapzap telegram telegrama tele tg line zalo zl wechat weixin wx"
    " vx v instagram insta ig facebook face fb messenger viber kakaotalk kakao kkt skype signal"
    " discord snapchat snap qq twitter tiktok tik pix gmail idline lineid idwa waid igku"
)
_SPACED = "whats_app we_chat kakao_talk snap_chat tik_tok"
_OTHER = (
    "ไลน์ ไลน เทเลแกรม เทเล เฟซบุ๊ก เฟสบุ๊ค เฟซ เฟส เพจ ไอจี วอทแอพ วอทส์แอพ วีแชท ทวิตเตอร์"
    " 微信 薇信 威信 加v v信 賴 赖 臉書 脸书 电报 電報"
)
_SERVICE = rf"(?:{NOT_LATIN_BEFORE}{one_of(_LATIN, _SPACED)}{NOT_LATIN_BEHIND}|{one_of(_OTHER)})"

_NOUNS = (
    "id ids handle nick nickname user username usuario usuário acct account akun conta cuenta tên name nama nome nombre"
)
_OTHER_NOUNS = "ไอดี ชื่อ 号 號 帳號 账号 帐号"
_NOUN = rf"(?:{one_of(_NOUNS)}{NOT_LATIN_BEHIND}|{one_of(_OTHER_NOUNS)})"
_BETWEEN = (
    "profile profil perfil official no nomor nº num number numero número grup group"
    " link page shop toko store saya aku gw gua gue"
    " ku my me mình em anh chị tôi ko po namin kami is it's es é o a el la là ay"
    " adalah ialah on at by via as como sebagai"
    " baru new nuevo novo mới"
)
_OTHER_BETWEEN = "ไลน์ ร้าน เพจ ครับ ค่ะ คะ นะ คือ เรา 是 為 为 叫 的"
_FILLER = rf"(?:{one_of(_NOUNS, _BETWEEN)}{NOT_LATIN_BEHIND}|{one_of(_OTHER_NOUNS, _OTHER_BETWEEN)})"
_FILLERS = rf"(?:[\s,]{{0,2}}{_FILLER}){{0,4}}"
_NO_NAME = one_of(
    "what which please apa berapa dong ya yah kak nya gì ngoài qual cuál aja dulu"
    " untuk for para and dan not none busy down"
    " here there juga saja sama lagi tidak nggak gak ada sudah"
)
_STRONG = (
    # Letters with a digit, an underscore or a dot among them, but no amount such as RM25.
    r"(?:@?(?!(?:rm|rp|idr|php|thb|sgd|twd|brl|mxn|usd|vnd|p|nt|us|s|r)\d+\b)(?=[A-Za-z_])"
    r"(?=[A-Za-z._-]*(?:\d|_\w|[._-][A-Za-z0-9]))[A-Za-z0-9._-]{5,64}(?<![.-])|[A-Za-z][A-Za-z0-9._]{1,31}#\d{4})"
)
# Behind other words too: a name with an underscore or dots in it.
_ANY_WORDS = r"(?:(?:[\s,]{1,2}[^\W\d_]{1,12}){1,2}|[\u0e00-\u0e7f\u3400-\u9fff]{1,8})"
_MARKED = r"@?[a-z][a-z0-9]*(?:[_.][a-z0-9]+){1,4}(?![\w.]*@)"
_WEAK = rf"@?(?!{_FILLER}|{_NO_NAME}{NOT_LATIN_BEHIND})[A-Za-z][A-Za-z0-9._-]{{3,64}}(?<![.-])(?:#\d{{4}})?"
_AT_SERVICE = re.compile(
    rf"((?P<id>(?:{NOT_LATIN_BEFORE}ids?|ไอดี)\s?)?{_SERVICE})(?:({_FILLERS}\s?(?:[:：=]\s?|[@＠]\s(?=[A-Za-z])))(?!<)[^\s,;<>]{{3,64}}"
    rf"|({_FILLERS}[\s,(（\"'“‘\-–>→]{{0,4}}){_STRONG}"
    rf"|({_ANY_WORDS}[\s,]{{0,2}}){NOT_LATIN_BEFORE}{_MARKED}"
    rf"|({_FILLERS}[\s,]{{0,2}}{_NOUN}\s?[:：=]?\s?){_WEAK}"
    rf"|(?(id)((?:\s{_FILLER}){{0,2}}\s?){_WEAK}|(?!)))",
    re.IGNORECASE,
)
_SERVICE_BEHIND = re.compile(
    rf"{NOT_LATIN_BEFORE}(?:{_STRONG})(?=\s?(?:di|on|in|at|via|trên|en|no|na|sa|pada|dalam|kat|ใน|ที่|在|上)?\s?{_SERVICE})",
    re.IGNORECASE,
)
_WORDS = frozenset(_LATIN.split())
_ANY_OTHER = re.compile(one_of(_OTHER), re.IGNORECASE)


def without_handles(text: str, words: Words) -> str:
    """Put tokens in place of names behind an @ and at a messenger."""
    if "@" in text or "＠" in text:
        text = _AT_NAME.sub(HANDLE, text)
    if _WORDS.isdisjoint(words.all) and (not words.unspaced or _ANY_OTHER.search(text) is None):
        return text
    return _SERVICE_BEHIND.sub(HANDLE, _AT_SERVICE.sub(_with_handle, text))


def _with_handle(found: re.Match[str]) -> str:
    between = next(filter(None, found.groups()[2:]), "")
    return f"{found[1]}{between}{HANDLE}"
