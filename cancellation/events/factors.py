"""The verdicts and the 18 decision factors, in the order that a model's outputs have."""

from __future__ import annotations

VERDICTS = ("induced", "not_induced", "inconclusive")
"""Classes of the verdict head; `inconclusive` only in markets configured for three classes."""

SELLER_FACTORS = (
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

BUYER_FACTORS = (
    "buyer.changed_mind",
    "buyer.wrong_details",
    "buyer.found_cheaper",
    "buyer.duplicate_order",
)

FACTORS = SELLER_FACTORS + BUYER_FACTORS
"""The codes of `schemas/verdict.schema.json`, in its order. The order is part of a model: append only."""
