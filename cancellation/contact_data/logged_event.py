"""Events as a log may hold them: texts without people's contact data, by reference, or as they came."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal

from cancellation.contact_data.redaction import redact

Mode = Literal["redacted", "reference", "full"]
"""What a log holds of people's texts: without contact data; digest and length only; as they were sent."""


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
    """Say whether an event's texts were logged by reference: then nothing can be read out of them any more.

    All of them, as mode `reference` leaves no other: one that somebody typed so hides nothing.
    """
    said = written_texts(event)
    return bool(said) and all(isinstance(text, str) and is_reference(text) for text in said)


def written_texts(event: Mapping[str, Any]) -> list[Any]:
    """Give what people wrote in an event in the contract's form; empty: nobody did."""
    texts = [event.get("buyer_reason"), *(item.get(field) for name, field in _TEXTS for item in event.get(name) or ())]
    return [text for text in texts if text]


def is_reference(text: str) -> bool:
    """Say whether a text is what mode `reference` puts in place of one."""
    return _REFERENCE.fullmatch(text) is not None


def _reference(text: str) -> str:
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} length:{len(text)}"


_REFERENCE = re.compile(r"sha256:[0-9a-f]{64} length:\d+")
_TEXTS = (("chat", "text"), ("fulfilment", "note"), ("concurrent_orders", "chat_excerpt"))
_REPLACEMENTS: dict[str, Callable[[str], str] | None] = {"redacted": redact, "reference": _reference, "full": None}
