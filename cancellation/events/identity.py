"""Which event is the same event: by what it says, not by how a sender spells it."""

from __future__ import annotations

from hashlib import blake2b

from cancellation.events.event import Event


def event_identity(event: Event) -> str:
    """Name an event's content, by a digest in hex.

    Spaces, the order of keys, 150000.0 for 150000, another offset of the same instant and an absent field for one that
    is null make no difference. Another order of a list does: evidence names places in it.
    """
    parts = [repr(getattr(event, name)) for name in Event.__slots__ if name != "absent"]
    # A set's own order differs from process to process.
    content = "\n".join([*parts, *sorted(event.absent)]).encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=16).hexdigest()
