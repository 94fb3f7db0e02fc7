"""Which event is the same event: by what it says, not by how a sender spells it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from hashlib import blake2b

from cancellation.events.event import Event

_NAMES = ("event_id", "order_id", "buyer_id", "seller_id")
"""What somebody else may have written otherwise: an archive has digests in their place."""


def event_identity(event: Event) -> str:
    """Name an event's content, by a digest in hex.

    Spaces, the order of keys, 150000.0 for 150000, another offset of the same instant and an absent field for one that
    is null make no difference. Another order of a list does: evidence names places in it.
    """
    return _digest(event, 16, without=()).hex()


def content_number(event: Event) -> int:
    """Name what an event says, whatever ids it has: a digest of 64 bits."""
    nameless = replace(event, concurrent_orders=tuple(replace(order, order_id="") for order in event.concurrent_orders))
    return int.from_bytes(_digest(nameless, 8, without=_NAMES), "big")


def _digest(event: Event, size: int, *, without: Collection[str]) -> bytes:
    parts = [repr(getattr(event, name)) for name in Event.__slots__ if name != "absent" and name not in without]
    # A set's own order differs from process to process.
    content = "\n".join([*parts, *sorted(event.absent)]).encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=size).digest()
