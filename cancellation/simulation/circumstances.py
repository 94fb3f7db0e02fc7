"""What happens to an order before anybody wants it gone: the same life for honest and other sellers.

Every story first runs through it, whatever its cause. One hidden number per seller, how much trouble the shop
has, moves delays, parcels, hours at the app and the last month together; dishonest sellers have a little more
of it. So no count or instant tells by itself who wanted the order gone.
"""

from __future__ import annotations

from math import log

from cancellation.simulation.small_talk import begin_parcel, prepare_parcel, warm_up
from cancellation.simulation.story import HOUR, Story


def set_circumstances(story: Story, *, guilty: bool) -> None:
    """Draw the shop behind the order."""
    rng = story.rng
    trouble = rng.betavariate(2.3, 3.2) if guilty else rng.betavariate(2.0, 3.5)
    story.trouble = trouble
    story.seller_presence = min(0.95, max(0.03, rng.betavariate(4, 3) * (1.15 - 0.5 * trouble)))
    story.seller_voice.reply_seconds *= 0.6 + 1.3 * trouble
    story.num_other_orders = int(rng.lognormvariate(1.1 + trouble, 1.0))
    story.contagion = rng.choice((0.0, 0.0, 0.1, 0.1, 0.3, 0.4)) if guilty else rng.choice((0.0, 0.0, 0.1, 0.1, 0.25))
    story.seconds_to_cancel = rng.choice((120.0, 300.0, 600.0, 2400.0))


def run_up(story: Story, *, quiet: bool) -> None:
    """Let the order wait, be packed, be late, be asked about and called about, by chance and by trouble."""
    if story.chance(0.1 if quiet else 0.65):
        warm_up(story)
    if story.chance(0.8):
        story.wait(0.05, 60)
    if story.chance(0.42 - 0.2 * story.trouble):
        begin_parcel(story)
    _slip(story, quiet=quiet)
    if not quiet:
        _call(story)
        if story.chance(0.1):
            story.buyer(story.one_of("ask_when", "chase", "ask_ready"))
            story.seller(story.one_of("ready", "packed", "late_honest", "stall"))


def _slip(s: Story, *, quiet: bool) -> None:
    """Extend or miss the deadline; at times the parcel is ready after all, at times a flag was a mistake."""
    if s.chance(0.08 + 0.35 * s.trouble):
        s.wait(2, 30)
        s.extend(24, 60)
        if not quiet and s.chance(0.4):
            s.seller("late_honest")
        if s.chance(0.25):
            s.wait(10, 40)
            s.extend(24, 48)
    if s.chance(0.05 + 0.3 * s.trouble):
        s.miss()
        s.wait(0.2, 30)
        if s.chance(0.5):
            prepare_parcel(s)
    elif s.chance(0.03):
        s.entry("stock_out_flagged")
        s.wait(0.3, 8)
        prepare_parcel(s)


def _call(s: Story) -> None:
    """A call about an address, by either side, answered or not."""
    if s.chance(0.09):
        s.call("seller", answered=s.chance(0.6))
        if s.chance(0.6):
            s.seller("call_confirm")
    elif s.chance(0.05):
        s.call("buyer", answered=s.chance(0.4))


def pause(s: Story) -> None:
    """Let the order lie before the matter comes up, for minutes or for days."""
    if s.chance(0.45):
        s.now += HOUR * 2.718281828459045 ** (log(0.05) + s.rng.random() * log(800))


def is_ready(s: Story) -> bool:
    """Say whether goods are packed or on their way, as far as the record shows."""
    kinds = [entry.kind for entry in s.fulfilment]
    return any(kind in ("packed", "label_created", "handed_to_carrier") for kind in kinds)


def is_late(s: Story) -> bool:
    """Say whether the deadline has passed, with an entry or without."""
    return s.now > s.deadline_at or any(entry.kind == "deadline_missed" for entry in s.fulfilment)
