"""What the stories of buyers who want out have in common: what lies before the wish, the wish, the farewell."""

from __future__ import annotations

from cancellation.simulation.circumstances import is_late, is_ready, pause
from cancellation.simulation.small_talk import aside, chat_about_nothing, opening, prepare_parcel
from cancellation.simulation.story import Story

CHANGED, WRONG, CHEAPER, DOUBLE = (
    "buyer.changed_mind",
    "buyer.wrong_details",
    "buyer.found_cheaper",
    "buyer.duplicate_order",
)


def background(s: Story) -> None:
    """What may lie before: questions, a parcel for a late order, a word of the seller's."""
    pause(s)
    if is_late(s) and not is_ready(s) and s.chance(0.7):
        prepare_parcel(s)
    if s.chance(0.2):
        chat_about_nothing(s)
    if s.chance(0.25):
        s.seller(
            *(["greet"] if s.chance(0.3) else []),
            s.one_of("packed", "ready", "late_honest", "thanks", "ask_which", "found_stock"),
        )
    elif s.chance(0.2):
        opening(s)
        if s.chance(0.6):
            s.seller(s.one_of("ready", "stall", "late_honest"))


def wish(s: Story, *acts: str) -> None:
    """Let the buyer say that they want out, at times with a greeting or an excuse for it before."""
    s.buyer(*(["greet"] if s.chance(0.15) else []), s.one_of(*acts))
    if s.chance(0.15):
        s.wait(0.02, 3)
        s.buyer(s.one_of("chase_cancel", "short"))


def farewell(s: Story) -> None:
    """From the buyer's wish to the cancellation: the seller agrees, explains, asks to stay, or is away.

    Who wanted it first decides, so here a seller may well use the words of one who asks for it.
    """
    for _ in range(s.rng.choice((0, 0, 1, 1, 1, 2, 3))):
        kind = s.one_of(
            "ok_cancel",
            "agree_cancel",
            "agree_cancel",
            "howto_cancel",
            "dont_cancel",
            "ask_why",
            "ask_which",
            "ask_cancel",
            "ask_indirect",
            "if_cannot_wait",
            "refund_bait",
            "no_need_cancel",
        )
        before = [s.one_of("greet", "ok_cancel", "howto_cancel", "short", "agree_cancel")] if s.chance(0.4) else []
        s.seller(*before, kind)
        if kind in ("dont_cancel", "ask_why", "no_need_cancel"):
            s.buyer(s.one_of("want_out", "want_out_soft", "accept_cancel", "own_not_yours", "plain_out"))
        elif s.chance(0.45):
            s.buyer(s.one_of("accept_cancel", "thanks", "ask_how_cancel", "accept", "short", "hesitate"))
            if s.chance(0.35):
                s.seller(s.one_of("dictate_reason", "howto_cancel", "thanks", "push_again", "yes_short"))
    if s.chance(0.1):
        s.buyer(s.one_of("ask_variant", "should_i_cancel"))
        s.seller(s.one_of("variant_out", "no_stock", "yes_short"))
    if s.chance(0.1):
        aside(s)
