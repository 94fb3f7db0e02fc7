"""The verdicts and the 18 decision factors, in the order that a model's outputs have, and what a team adds."""

from __future__ import annotations

from cancellation.events.added import added_factors

ADDED_FACTORS = added_factors()
"""A team's own codes, with what each means."""

VERDICTS = ("induced", "not_induced", "inconclusive")
"""Classes of the verdict head; `inconclusive` only in markets configured for three classes."""

_SELLER_FACTORS = (
    "chat.asked_to_cancel",
    "chat.out_of_stock",
    "chat.asked_to_reorder",
    "chat.price_change",
    "chat.off_platform",
    "chat.pressure_or_rudeness",
    "chat.no_reply",
    "call.from_seller",
    "fulfilment.no_shipping_update",
    "fulfilment.deadline_extended",
    "fulfilment.deadline_missed",
    "fulfilment.stock_out_flagged",
    "seller.overloaded",
    "seller.inactive",
)

_BUYER_FACTORS = (
    "buyer.changed_mind",
    "buyer.wrong_details",
    "buyer.found_cheaper",
    "buyer.duplicate_order",
)

_ADDED_OF_BUYERS = tuple(code for code in ADDED_FACTORS if code.startswith("buyer."))
_ADDED_OF_SELLERS = tuple(code for code in ADDED_FACTORS if code not in _ADDED_OF_BUYERS)

SELLER_FACTORS = _SELLER_FACTORS + _ADDED_OF_SELLERS
BUYER_FACTORS = _BUYER_FACTORS + _ADDED_OF_BUYERS

FACTORS = _SELLER_FACTORS + _BUYER_FACTORS + tuple(ADDED_FACTORS)
"""The codes of `schemas/verdict.schema.json`, in its order, then the added ones. The order is part of a model: append
only."""
