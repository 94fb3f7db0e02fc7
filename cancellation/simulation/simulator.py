"""Cancellations with a known cause: invented, because no public data of this kind exists.

First the cause is drawn: the seller has a motive and a tactic, or the buyer a reason of their own. The order's
circumstances come from one distribution whatever the cause (`circumstances`). Then the cause acts over time, and
what is left (chat, calls, extensions, activity, other orders) is the event. The label follows from the cause
where the traces show it and is `inconclusive` where they do not; then a set share of labels is made wrong, as
annotators' are. Nine markets, nine languages, typed as people type.

A split keeps wordings and tactics apart: `train` has neither the held-out phrases nor the held-out tactics,
`test_wordings` has only held-out phrases, `test_tactics` only held-out tactics among the induced; `all` has
everything, for a model that will not be tested on the simulation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from math import exp, log
from typing import Literal

from pydantic import Field

from cancellation.events.event import Event, Order, SellerHistory
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.events.labelled import LabelledEvent
from cancellation.events.markets import MARKETS, Market
from cancellation.simulation.background import concurrent_orders, order_id, seller_activity, seller_history
from cancellation.simulation.buyer_reasons import REASONS
from cancellation.simulation.circumstances import run_up, set_circumstances
from cancellation.simulation.cover_up import cover_up
from cancellation.simulation.seller_tactics import TACTICS
from cancellation.simulation.small_talk import wind_down
from cancellation.simulation.story import DAY, HOUR, Cause, Story, Voice
from cancellation.simulation.wording import type_text
from cluster.settings import Settings

Split = Literal["train", "test_wordings", "test_tactics", "all"]

_EPOCH = 1_767_225_600.0  # 2026-01-01T00:00:00Z; events fall into the year that follows
_TRACELESS = 0.15  # of the sellers' tactics, about: the seller's doing, but not to be seen


class SimulationSettings(Settings):
    """What to simulate. Market base rates are in `markets.py`."""

    num_events: int = Field(default=10_000, ge=1)
    """Events to draw."""

    split: Split = "train"
    """Which wordings and tactics may occur: train, test_wordings, test_tactics or all."""

    markets: tuple[str, ...] = tuple(MARKETS)
    """Markets to draw from, equally often."""

    label_noise: float = Field(default=0.03, ge=0, le=0.5)
    """Share of events whose label is replaced by another class; `true_label` keeps the right one."""

    induced_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of causes that are the seller's, in every market; null takes each market's own rate."""

    cover_up: float = Field(default=1.0, ge=0, le=10)
    """How often traces are covered up, times the usual: to learn from more of it than is to be expected."""


def simulate(settings: SimulationSettings, seed: int) -> Iterator[LabelledEvent]:
    """Draw labelled events; the same settings and seed give the same events."""
    unknown = sorted(set(settings.markets) - set(MARKETS))
    if unknown:
        raise ValueError(f"markets: expected some of {', '.join(MARKETS)}, found {', '.join(unknown)}")
    for index in range(settings.num_events):
        yield simulate_event(settings, seed, index)


def simulate_event(settings: SimulationSettings, seed: int, index: int) -> LabelledEvent:
    """Draw the event of one index, whatever the others are, so that workers can share the indices."""
    rng = random.Random(f"{seed}/{settings.split}/{index}")
    market = MARKETS[settings.markets[int(rng.random() * len(settings.markets))]]
    rate = settings.induced_fraction or market.induced_fraction / (1.0 - _TRACELESS)
    guilty = rng.random() < rate
    cause = _draw_cause(TACTICS if guilty else REASONS, settings.split, rng)
    language = rng.choices(list(market.languages), list(market.languages.values()))[0]
    story = _begin(market, language, settings.split, rng)
    set_circumstances(story, guilty=guilty)
    run_up(story, quiet=cause.quiet)
    proven = cause.act(story)
    if len(story.chat) > 1 and story.chance(0.2):
        wind_down(story)
    cover_up(story, guilty=guilty, rate=settings.cover_up)
    true_label = "inconclusive" if not proven else "induced" if guilty else "not_induced"
    label = true_label
    if rng.random() < settings.label_noise:
        label = rng.choice([other for other in VERDICTS if other != true_label])
    factors = _factors(story, true_label, cause)
    name = f"{'seller' if guilty else 'buyer'}.{cause.name}"
    story.now += min(rng.lognormvariate(log(story.seconds_to_cancel), 1.6), 30 * HOUR)
    event = finish_story(story, f"sim-{settings.split}-{seed}-{index:08d}", reason=_reason)
    acts = tuple(story.message_acts)
    return LabelledEvent(event, label, factors, true_label, name, language, market.utc_offset_hours, acts)


def _draw_cause(causes: Sequence[Cause], split: Split, rng: random.Random) -> Cause:
    held_out = [cause for cause in causes if cause.held_out]
    if split == "test_tactics" and (causes is TACTICS or rng.random() < 0.3):
        choices = held_out
    else:
        choices = list(causes) if split == "all" else [cause for cause in causes if not cause.held_out]
    return rng.choices(choices, [cause.weight for cause in choices])[0]


def _begin(market: Market, language: str, split: Split, rng: random.Random) -> Story:
    placed_at = _EPOCH + float(rng.randrange(0, 330 * 86_400))
    local_midnight = placed_at - (placed_at + market.utc_offset_hours * HOUR) % DAY
    promised_at = local_midnight + DAY * (rng.choice(market.promise_days) + 1) - 1.0
    seller_language = language if rng.random() < 0.97 else rng.choice(list(market.languages))
    buyer_voice = Voice.draw("buyer", language, market, rng, reply_seconds=rng.lognormvariate(log(240), 0.9))
    seller_voice = Voice.draw("seller", seller_language, market, rng, reply_seconds=rng.lognormvariate(log(900), 1.1))
    held_out = None if split == "all" else split == "test_wordings"
    return Story(rng, market, placed_at, promised_at, buyer_voice, seller_voice, held_out)


def _factors(story: Story, true_label: str, cause: Cause) -> tuple[str, ...]:
    """The codes that support the label: the seller's traces, or the buyer's reason, or none."""
    if true_label == "inconclusive":
        return ()
    if true_label == "not_induced":
        factor = story.wish or cause.factor
        return (factor,) if factor else ()
    return tuple(code for code in FACTORS if code in story.factors)


def finish_story(story: Story, event_id: str, *, reason: Callable[[Story], str | None]) -> Event:
    """Let the buyer cancel now, and add what surrounds the story; a list may be missing from what is sent."""
    rng, market = story.rng, story.market
    cancelled_at = float(int(story.now) + 1)
    shipped_at = next((entry.at for entry in story.fulfilment if entry.kind == "handed_to_carrier"), None)
    order = Order(
        placed_at=story.placed_at,
        promised_ship_at=story.promised_at,
        paid_at=min(story.placed_at + float(int(rng.expovariate(1 / 90)) + 4), cancelled_at)
        if rng.random() < 0.97
        else None,
        shipped_at=shipped_at,
        item_count=rng.choice((1, 1, 1, 1, 2, 3)),
        value=_price(market.typical_value * exp(rng.gauss(0.0, 0.8))),
        currency=market.currency,
    )
    absent = _absent(story)
    return Event(
        event_id=event_id,
        market=market.code,
        order_id=order_id(rng),
        buyer_id=f"u{rng.getrandbits(30)}",
        seller_id=f"s{rng.getrandbits(24)}",
        cancelled_at=cancelled_at,
        order=order,
        buyer_reason=reason(story),
        fulfilment=tuple(story.fulfilment),
        chat=tuple(story.chat),
        calls=tuple(story.calls),
        seller_activity=() if "seller_activity" in absent else tuple(seller_activity(story, cancelled_at)),
        concurrent_orders=() if "concurrent_orders" in absent else tuple(concurrent_orders(story, cancelled_at)),
        seller_history=SellerHistory()
        if rng.random() < 0.1
        else seller_history(rng, trouble=story.trouble, mean_reply_seconds=story.seller_voice.reply_seconds),
        absent=absent,
    )


def _absent(story: Story) -> frozenset[str]:
    """Lists that the source does not have: at times empty ones, at times the background."""
    chances = (
        ("fulfilment", 0.0 if story.fulfilment else 0.4),
        ("chat", 0.0 if story.chat else 0.4),
        ("calls", 0.0 if story.calls else 0.6),
        ("seller_activity", 0.35),
        ("concurrent_orders", 0.3 if story.excerpt_chance < 0.5 else 0.0),
    )
    return frozenset([name for name, chance in chances if story.chance(chance)])


def _reason(story: Story) -> str | None:
    kind = story.one_of(*story.reason_kinds)
    if kind == "none" or story.chance(0.06):
        return None
    voice = story.buyer_voice
    act = "buyer.instruction" if story.chance(0.01) else f"reasons.{kind}"
    text = voice.grammar.say(act, story.rng, held_out=story.held_out_wording, memory=story.topics)
    if story.chance(0.3):
        text = type_text(text, voice.grammar, voice.style, story.market.code, story.rng)
    return text


def _price(value: float) -> float:
    """A price as shops write it."""
    step = 1000 if value > 20_000 else 10 if value > 200 else 1
    return float(max(step, round(value / step) * step))
