"""Rules v1: keywords and thresholds, as the system before the model judged. A baseline, and the fallback online.

It is rigid on purpose and stays as it is: what it cannot see (an indirect request, a quoted one, who wanted
out first) is what the model is for. As the fallback it must be fast and must not fail on any event that parsed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import inf

from cancellation.events.clean_text import clean_text
from cancellation.events.event import Event
from cancellation.events.factors import ADDED_FACTORS, FACTORS

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RulesVerdict:
    """What the rules say; `factors` are codes in the contract's order, `evidence` their chat message's index."""

    verdict: str
    score: float
    factors: tuple[str, ...]
    evidence: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """A rule set as its TOML file states it."""

    version: str
    induced_score: float
    weights: Mapping[str, float]
    thresholds: Mapping[str, float]
    seller_keywords: Mapping[str, tuple[str, ...]]
    buyer_keywords: Mapping[str, tuple[str, ...]]


@cache
def rules_v1() -> Rules:
    """Load the rules that ship with the project."""
    table = tomllib.loads((resources.files("cancellation.decision") / "rules.toml").read_text(encoding="utf-8"))
    if set(table["weights"]) != set(FACTORS) - set(ADDED_FACTORS):
        raise ValueError("rules.toml: a weight is expected for each of the 18 decision factors and no other")
    for side in ("seller_keywords", "buyer_keywords"):
        table[side] = {code: tuple(words) for code, words in table[side].items()}
    return Rules(**table)


def judge(event: Event, rules: Rules | None = None) -> RulesVerdict:
    """Judge an event by the rules; two verdicts only, since v1 knew no third."""
    rules = rules or rules_v1()
    found: dict[str, int | None] = {}
    found.update(_said(event, "seller", rules.seller_keywords))
    found.update(_said(event, "buyer", rules.buyer_keywords))
    reason = clean_text(event.buyer_reason or "").lower()
    found.update((code, None) for code, words in rules.buyer_keywords.items() if any(word in reason for word in words))
    found.update((code, None) for code in _done(event, rules.thresholds))
    # Added in the contract's order: a sum of floats depends on it.
    score = 0.0
    for code in FACTORS:
        if code in found:
            score += rules.weights[code]
    score = min(max(score, 0.0), 1.0)
    return RulesVerdict(
        verdict="induced" if score >= rules.induced_score else "not_induced",
        score=score,
        factors=tuple(code for code in FACTORS if code in found),
        evidence={code: index for code, index in found.items() if index is not None},
    )


def _said(event: Event, sender: str, keywords: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, int]]:
    """Find the first message of one side for every code whose keywords occur."""
    missing = dict(keywords)
    for message in event.chat:
        if message.sender != sender:
            continue
        text = clean_text(message.text).lower()
        for code in [code for code, words in missing.items() if any(word in text for word in words)]:
            yield code, message.index
            del missing[code]


def _done(event: Event, thresholds: Mapping[str, float]) -> Iterator[str]:
    """Find the codes that times and counts alone decide."""
    kinds = {entry.kind for entry in event.fulfilment}
    order = event.order
    for kind in ("deadline_extended", "deadline_missed", "stock_out_flagged"):
        if kind in kinds:
            yield f"fulfilment.{kind}"
    if "deadline_missed" not in kinds and order.shipped_at is None and _deadline(event) < event.cancelled_at:
        yield "fulfilment.deadline_missed"
    if not kinds and order.shipped_at is None and _hours_since(event, order.placed_at) >= thresholds["no_update_hours"]:
        yield "fulfilment.no_shipping_update"
    if _unanswered_hours(event) >= thresholds["unanswered_wait_hours"]:
        yield "chat.no_reply"
    answered = [call.at for call in event.calls if call.caller == "seller" and call.answered]
    if answered and _hours_since(event, answered[-1]) * 60 <= thresholds["call_to_cancel_minutes"]:
        yield "call.from_seller"
    if len(event.concurrent_orders) >= thresholds["concurrent_orders"]:
        yield "seller.overloaded"
    if _offline_share(event) >= thresholds["offline_share"]:
        yield "seller.inactive"


def _deadline(event: Event) -> float:
    """The latest deadline that is known."""
    moved = [entry.new_deadline_at for entry in event.fulfilment if entry.new_deadline_at is not None]
    return moved[-1] if moved else event.order.promised_ship_at


def _hours_since(event: Event, instant: float) -> float:
    return (event.cancelled_at - instant) / _HOUR


def _unanswered_hours(event: Event) -> float:
    """Hours that the buyer's first unanswered message waited; below zero if none did."""
    waiting = -inf
    for message in event.chat:
        if message.sender == "seller":
            waiting = -inf
        elif message.sender == "buyer" and waiting == -inf:
            waiting = message.at
    return -1.0 if waiting == -inf else _hours_since(event, waiting)


def _offline_share(event: Event) -> float:
    covered = sum(span.end - span.start for span in event.seller_activity)
    offline = sum(span.end - span.start for span in event.seller_activity if span.state == "offline")
    return offline / covered if covered > 0 else 0.0
