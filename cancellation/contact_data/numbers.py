"""Runs of digits: which are a person's, and which are an instant, an amount, a size or an order's number.

A run of seven digits and more is a person's, whatever stands between its digits to hide it, unless all of it reads as
something else (`quantities.py`), or words beside it say whose number it is. Such words hide no phone number with its
trunk zero or calling code, no card and no tax number of Brazil.
"""

from __future__ import annotations

import re

from cancellation.contact_data.identifiers import (
    DIGIT,
    MIN_DIGITS,
    ascii_digits,
    is_article_number,
    is_card,
    is_identity_number,
    is_somebodys,
)
from cancellation.contact_data.quantities import reads_otherwise
from cancellation.contact_data.words import one_of

PHONE, CARD, NUMBER = "<PHONE>", "<CARD>", "<NUMBER>"

_GAP = r"(?:[^\w\[\]<>]|_)"  # anything but letters, digits and the brackets of tokens
RUN = re.compile(f"[A-Z]{{0,2}}[+＋(（]{{0,3}}{DIGIT}(?:{_GAP}{{0,4}}{DIGIT}){{{MIN_DIGITS - 1},}}")
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_ORDER = one_of(
    "rma order orderan order_id orders ord invoice inv purchase ticket case batch reference receipt ref",
    "pesanan tempahan kode kasus tiket nota faktur struk",
    "đơn đơn_hàng mã_đơn hóa_đơn hoá_đơn",
    "pedido compra orden folio lote protocolo nota_fiscal nf nf-e encomenda",
)
_PARCEL = one_of(
    "tracking track parcel shipment consignment waybill way_bill airwaybill airway_bill awb courier package",
    "resi paket pengiriman penghantaran penjejakan konsainan lacak",
    "vận_đơn vận_chuyển bưu_điện bưu_kiện kiện_hàng mvd mvđ",
    "rastreo rastreio rastrear rastreamento guía guia etiqueta remessa envío envio seguimiento objeto",
    "jne j&t jnt sicepat anteraja ghn ghtk vtp viettel lbc ninja ninja_van dhl fedex ups estafeta correios jadlog"
    " pos_laju pos_malaysia flash kerry shopee_express spx lazada tnt ninjavan gdex",
)
_ARTICLE = one_of(
    "sku barcode ean upc isbn imei voucher kupon cupom cupón coupon promo s/n sn serial part"
    " p/n mpn model modelo tipe type seri"
    " mã_sp código_do_produto artikel article"
)
_OTHER = one_of(
    "คำสั่งซื้อ ออเดอร์ ออร์เดอร์ ใบสั่งซื้อ ใบเสร็จ บิล พัสดุ แทรค แทร็ค แทร็ก แทรคกิ้ง แทร็กกิ้ง แทรกกิ้ง ไปรษณีย์ รุ่น",
    "訂單 订单 單號 单号 訂單號 訂單編號"
    " 订单号 订单编号 發票 发票 物流 物流單號 店到店 取貨 寄件 包裹 運單 运单 快遞 快递"
    " 交貨便"
    " 貨運 黑貓 宅配通 新竹 順豐 顺丰 型號 型号",
)
_LINKS = one_of(
    "id no nos no. nº n° num number numero nomor nombor número núm code código mã số ke de do da del la el my for is"
    " adalah es é là ref express produk",
    "เลขที่ เลข หมายเลข 編號 编号 號碼 号码 號 号 查詢號碼 查询号码 是 ของ",
)
_SIGNS = r"[\s.:：#=\-/(]*"
_ORDER_BEFORE = re.compile(
    rf"(?:(?<![^\W\d_])(?:{_ORDER}|{_PARCEL}|{_ARTICLE})(?![A-Za-zÀ-ɏ])|{_OTHER})(?:{_SIGNS}{_LINKS}){{0,3}}{_SIGNS}$",
    re.IGNORECASE,
)
_HASH_BEFORE = re.compile(r"#\s?$")
_CODE_BEFORE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]*[A-Za-z][-/#]?$")
_CARRIER = re.compile(
    r"(?:SPX|LEX|NLID|NV[A-Z]{2}|VTP|GHN|GHTK|JX|JP|JD|JT|JNE|TLID|LXAD|TH|FLEX|MPL|SF|KER|LP|YT|SHP|CNAN|ZTO|STO|YTO)"
    r"[A-Z]{0,6}/?|(?:PO|SO|DO|INV|ORD|ORDER|TRX|TXN|REF|RMA|SKU|TKT)[-/#]?"
)
_SHOE = re.compile(r"\d{4}-\d{3}")  # DD1391-100
_PHONE_LABEL = re.compile(r"|(?:wa|hp|telp?|cel|cp|no|nr|call|sms|zalo|line|phone|fone|sdt|t|p|m)", re.IGNORECASE)
_ARTICLE_WORD = re.compile(r"barcode|ean|upc|jan|gtin|條碼|条码|บาร์โค้ด|mã\s?vạch|código\s?de\s?barras?", re.IGNORECASE)
_TWO_CAPITALS = re.compile(r"[A-Z]{2}(?![A-Za-z0-9])")


def judged(found: re.Match[str]) -> str:
    """Give the token for a match of `RUN`, or the run itself where it is nobody's."""
    run, text = found[0], found.string
    bare = run.lstrip(_CAPITALS)
    start = found.start() + len(run) - len(bare)
    if reads_otherwise(bare, text[max(0, start - 8) : start], text, found.end()):
        return run
    digits = ascii_digits(run)
    if _is_an_orders(text, start, found.end(), digits):
        return run
    if is_card(digits):
        return CARD
    return NUMBER if len(bare) < len(run) or len(digits) > 15 or is_identity_number(digits) else PHONE


def _is_an_orders(text: str, start: int, end: int, digits: str) -> bool:
    """Say whether words beside a number, or its own shape, make it an order's, a parcel's or an article's."""
    token = _CODE_BEFORE.search(text, max(0, start - 12), start)
    letters = token[0] if token else ""
    before, behind = text[max(0, start - 40) : start - len(letters)], text[end : end + 12]
    if is_article_number(digits) and (_ARTICLE_WORD.search(before) or _ARTICLE_WORD.search(behind)):
        return True
    if len(letters) == 2 and len(digits) <= 13 and _TWO_CAPITALS.match(behind):
        return True  # S10 of the Universal Postal Union, and carriers that number their parcels like it
    if _CARRIER.fullmatch(letters) or (len(letters) == 2 and _SHOE.fullmatch(text, start, end)):
        return True
    named = _ORDER_BEFORE.search(before) or (_HASH_BEFORE.search(before) and len(digits) > 9)
    return bool(named) and not (_PHONE_LABEL.fullmatch(letters) and is_somebodys(digits))
