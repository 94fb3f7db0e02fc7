"""Events that mean the same: other ids, other white space, another Unicode form, another place among other events.

Nothing here may change a verdict. What is changed is what a caller does by chance, never what a person said or did.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cancellation.events.event import Event, event_mapping, parse_event

_Mapping = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Perturbed:
    """An event in a batch: judge the batch, look at the place."""

    kind: str
    batch: tuple[Event, ...]
    place: int


def perturb(event: Event, others: Sequence[Event], count: int, *, seed: int) -> Iterator[Perturbed]:
    """Make `count` neutral variants of an event, the kinds in turn; `others` stand beside it in batches."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        draw = random.Random(f"{seed} {event.event_id} {number}")
        if kind in _REWRITES:
            offset = draw.choice((-7, -3, 0, 5.5, 9)) if kind == "time zone" else 0
            changed = parse_event(_REWRITES[kind](event_mapping(event, offset), draw))
            yield Perturbed(kind, (changed,), 0)
        else:
            yield _placed(kind, event, others, draw)


def _placed(kind: str, event: Event, others: Sequence[Event], draw: random.Random) -> Perturbed:
    """Put an event among others: any, or the longest, beside which it is padded most."""
    ordered = sorted(others, key=lambda one: -sum(len(message.text) for message in one.chat))
    pool = ordered[: max(len(others) // 10, 1)] if kind == "padding" else ordered
    beside = [draw.choice(pool) for _ in range(draw.choice((1, 3, 7, 15)))] if pool else []
    place = draw.randint(0, len(beside))
    return Perturbed(kind, (*beside[:place], event, *beside[place:]), place)


def _ids(event: _Mapping, draw: random.Random) -> _Mapping:
    names = {name: f"{draw.getrandbits(64):x}" for name in ("event_id", "order_id", "buyer_id", "seller_id")}
    others = [{**one, "order_id": f"{draw.getrandbits(64):x}"} for one in event.get("concurrent_orders", ())]
    return {**event, **names, **({"concurrent_orders": others} if others else {})}


def _white_space(event: _Mapping, draw: random.Random) -> _Mapping:
    def spread(text: str) -> str:
        words = text.split(" ")
        gaps = (draw.choice((" ", "  ", "\t", "\n", "\u00a0")) for _ in words)
        return " " * draw.randint(0, 2) + "".join(word + gap for word, gap in zip(words, gaps, strict=True))

    return _texts(event, spread)


def _unicode(form: str) -> Callable[[_Mapping, random.Random], _Mapping]:
    return lambda event, draw: _texts(event, lambda text: unicodedata.normalize(form, text))


def _order(event: _Mapping, draw: random.Random) -> _Mapping:
    """Another order of the entries of lists that have instants of their own; equal instants keep theirs."""
    shuffled = {}
    for name, key in (("fulfilment", "at"), ("calls", "at"), ("concurrent_orders", "placed_at")):
        items = event.get(name, [])
        if len({item[key] for item in items}) == len(items) > 1:
            shuffled[name] = draw.sample(items, len(items))
    return {**event, **shuffled}


def _texts(event: _Mapping, change: Callable[[str], str]) -> _Mapping:
    """Change what people wrote, where it stays within the contract's lengths."""
    changed = dict(event)
    if chat := event.get("chat"):
        changed["chat"] = [{**one, "text": change(one["text"])[:4000]} for one in chat]
    if reason := event.get("buyer_reason"):
        changed["buyer_reason"] = change(reason)[:2000]
    return changed


_REWRITES: dict[str, Callable[[_Mapping, random.Random], _Mapping]] = {
    "ids": _ids,
    "white space": _white_space,
    "Unicode NFC": _unicode("NFC"),
    "Unicode NFD": _unicode("NFD"),
    "order of lists": _order,
    "time zone": lambda event, draw: event,
}
KINDS = (*_REWRITES, "batch", "padding")
