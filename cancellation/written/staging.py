"""A dialogue becomes an event: the simulator gives it an order, deadlines, a shop, its month and other orders.

The circumstances fit what is told (a deadline that was missed lies before the entry that says so) and are drawn anew
with each staging, so that a model may learn the words and not the figures around them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import log

from cancellation.events.labelled import LabelledEvent
from cancellation.events.markets import MARKETS
from cancellation.simulation.circumstances import set_circumstances
from cancellation.simulation.simulator import finish_story
from cancellation.simulation.story import DAY, HOUR, Story, Voice
from cancellation.written.dialogue import Dialogue, Turn

_EPOCH = 1_767_225_600.0  # 2026-01-01T00:00:00Z, as the simulator's
_MINUTE = 60.0
_ENTRY_KINDS = {"label_printed": "label_created"}
_MARKET_LANGUAGES = {"zh": ("zh", "zh-Hans")}


def stage(dialogue: Dialogue, number: int, *, seed: int = 0) -> LabelledEvent:
    """Draw the circumstances of one staging; the same number and seed give the same event."""
    rng = random.Random(f"{seed}/{dialogue.dialogue_id}/{number}")
    story = _begin(dialogue, rng)
    guilty = dialogue.label == "induced" or (dialogue.label == "inconclusive" and rng.random() < 0.5)
    set_circumstances(story, guilty=guilty)
    if "seller.overloaded" in dialogue.factors:
        story.trouble, story.num_other_orders = max(story.trouble, 0.7), max(story.num_other_orders, 25)
    if "seller.inactive" in dialogue.factors:
        story.seller_presence = min(story.seller_presence, 0.1)
    if "buyer.duplicate_order" in dialogue.factors:
        story.wish, story.num_other_orders = "buyer.duplicate_order", max(story.num_other_orders, 1)
    started_at = story.placed_at + dialogue.placed_hours * HOUR
    instants = _instants(dialogue.turns, started_at, rng)
    _set_deadlines(story, dialogue, instants, rng)
    for turn, at in zip(dialogue.turns, instants, strict=True):
        story.now = at
        _tell(story, turn)
    story.now = max(instants[-1] if instants else started_at, story.now)
    story.now += max(dialogue.cancel_minutes * _MINUTE * rng.uniform(0.75, 1.25), 5.0)
    name = f"written-{dialogue.dialogue_id}-{seed}-{number:04d}"
    event = finish_story(story, name, reason=lambda _: dialogue.reason)
    return LabelledEvent(
        event=event,
        label=dialogue.label,
        factors=dialogue.factors,
        true_label=dialogue.label,
        cause=f"written.{dialogue.kind}",
        language=dialogue.language,
        utc_offset_hours=story.market.utc_offset_hours,
        message_acts=(),
    )


def stage_all(dialogues: Sequence[Dialogue], stagings: int, *, seed: int = 0) -> Iterator[LabelledEvent]:
    """Give each dialogue so many stagings, one round after the other."""
    for number in range(stagings):
        for dialogue in dialogues:
            yield stage(dialogue, number, seed=seed)


def _begin(dialogue: Dialogue, rng: random.Random) -> Story:
    market = MARKETS[dialogue.market]
    placed_at = _EPOCH + float(rng.randrange(0, 330 * 86_400))
    local_midnight = placed_at - (placed_at + market.utc_offset_hours * HOUR) % DAY
    promised_at = local_midnight + DAY * (rng.choice(market.promise_days) + 1) - 1.0
    language = _grammar_language(dialogue)
    voices = [
        Voice.draw(side, language, market, rng, reply_seconds=rng.lognormvariate(log(seconds), 0.9))
        for side, seconds in (("buyer", 240), ("seller", 900))
    ]
    return Story(rng, market, placed_at, promised_at, *voices, None)


def _grammar_language(dialogue: Dialogue) -> str:
    """Language of what the simulator adds by itself: a word in another order's chat."""
    wanted = _MARKET_LANGUAGES.get(dialogue.language, (dialogue.language,))
    languages = MARKETS[dialogue.market].languages
    return next((one for one in wanted if one in languages), next(iter(languages)))


def _instants(turns: Sequence[Turn], started_at: float, rng: random.Random) -> list[float]:
    """When each turn happened, waits stretched or shortened by up to a quarter; whole seconds, strictly rising."""
    instants: list[float] = []
    at = started_at
    for turn in turns:
        at += turn.after_minutes * _MINUTE * rng.uniform(0.75, 1.25)
        at = max(at, instants[-1] + 2.0) if instants else at
        instants.append(float(int(at)))
    return instants


def _set_deadlines(story: Story, dialogue: Dialogue, instants: Sequence[float], rng: random.Random) -> None:
    """Promise the order so that what is told of deadlines can be true."""
    told = [(turn.text, at) for turn, at in zip(dialogue.turns, instants, strict=True) if turn.kind == "entry"]
    first = next(((kind, at) for kind, at in told if kind in ("deadline_missed", "deadline_extended")), None)
    end = (instants[-1] if instants else story.placed_at + dialogue.placed_hours * HOUR) + dialogue.cancel_minutes * 60
    if first is not None:
        kind, at = first
        slack = -rng.uniform(30, 600) if kind == "deadline_missed" else rng.uniform(0.2, 20) * HOUR
        story.deadline_at = float(int(max(at + slack, story.placed_at + HOUR)))
    elif end > story.deadline_at and not any(code.startswith("fulfilment.") for code in dialogue.factors):
        story.deadline_at = float(int(end + rng.uniform(2, 40) * HOUR))
    story.promised_at = story.deadline_at


def _tell(story: Story, turn: Turn) -> None:
    if turn.kind == "entry":
        if turn.text == "deadline_extended":
            story.deadline_at = max(story.deadline_at, story.now) + story.rng.choice((1, 2, 2, 3)) * DAY
            known = story.deadline_at if story.chance(0.9) else None
            story.entry("deadline_extended", new_deadline_at=known)
        else:
            story.entry(_ENTRY_KINDS.get(turn.text, turn.text))
    elif turn.kind == "call":
        caller, answered, *seconds = turn.text.split()
        story.call(caller, answered=answered == "answered", seconds=float(seconds[0]) if seconds else None)
    else:
        story.message(turn.kind, turn.text)
