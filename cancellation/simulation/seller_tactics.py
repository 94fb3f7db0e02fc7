"""How a seller who wants an order gone talks the buyer into cancelling it: one script per tactic.

A script acts on a story and says whether its traces prove it; where they do not, the right label is
inconclusive. Every script varies: who opens, what is said, what is left out, how far the buyer resists.
What sellers do without words is in `seller_neglect`.
"""

from __future__ import annotations

from cancellation.simulation.circumstances import pause
from cancellation.simulation.seller_neglect import (
    flag_stock_out,
    label_only,
    let_it_lapse,
    pattern,
    phone,
    silence,
    stall,
)
from cancellation.simulation.small_talk import aside, chat_about_nothing, opening
from cancellation.simulation.story import Cause, Story
from cancellation.simulation.unclear_traces import unclear

ASKED = ("changed_mind", "wrong_details", "other", "blame")
"""Reasons a buyer gives when a seller asked for the cancellation: mostly what the seller wants to read."""

_REQUESTS = ("ask_cancel", "ask_indirect", "soft_request", "ask_cancel", "ask_indirect")


def _opening(s: Story) -> None:
    pause(s)
    if s.chance(0.4):
        opening(s)
        if s.chance(0.4):
            s.seller(s.one_of("ready", "packed", "greet", "stall", "no_need_cancel"))
            s.wait(0.05, 24)
    elif s.chance(0.1):
        s.call("seller", answered=False)


def _bargain(s: Story) -> None:
    """From the request to the buyer's yes, or silence, or no: the seller may press and dictate."""
    s.reason_kinds = ASKED
    for _ in range(s.rng.choice((0, 0, 0, 1, 1, 2, 3))):
        s.buyer(s.one_of("hesitate", "doubt", "refuse", "ask_how_cancel", "sarcasm", "short", "worry"))
        s.seller(
            s.one_of(
                "push_again", "refund_bait", "howto_cancel", "yes_short", "ask_indirect", "no_stock", "bribe", "closed"
            )
        )
        if s.chance(0.12):
            aside(s)
    if s.chance(0.07):
        s.buyer("accuse")
        if s.chance(0.5):
            s.seller("deny")
    if s.chance(0.2):
        s.buyer("should_i_cancel")
        s.seller(s.one_of("yes_short", "yes_short", "agree_cancel", "short"))
    dictated = s.chance(0.3)
    if s.chance(0.7):
        s.buyer(s.one_of("accept", "accept", "accept_cancel", "sarcasm", "want_out_soft", "short", "plain_out"))
    if dictated:
        s.seller("dictate_reason")
        s.reason_kinds = ("changed_mind", "wrong_details", "other")
        if s.chance(0.7):
            s.buyer(s.one_of("accept", "accept_cancel", "pretext_ok", "pretext_ok"))
    elif s.chance(0.08):
        s.buyer("pretext_ok")
        s.reason_kinds = ("changed_mind", "wrong_details")
    if s.chance(0.2):
        s.seller(s.one_of("thanks", "agree_cancel", "ok_cancel"))


def stock_request(s: Story) -> bool:
    """Nothing in stock, and the buyer is asked to cancel."""
    _opening(s)
    request = s.one_of(*_REQUESTS)
    s.seller(*(["greet"] if s.chance(0.2) else []), "no_stock", *([request] if s.chance(0.5) else []))
    if "chat.asked_to_cancel" not in s.factors:
        s.buyer(s.one_of("hesitate", "accept", "ask_when"))
        s.seller(request)
    _bargain(s)
    return True


def stock_news(s: Story) -> bool:
    """The seller only says that there is none, and leaves the conclusion to the buyer."""
    _opening(s)
    s.seller(s.one_of("no_stock", "no_stock", "only_other"))
    if s.chance(0.4):
        s.buyer(s.one_of("hesitate", "sarcasm", "ask_when"))
        s.seller(s.one_of("only_other", "delay_bad", "no_stock"))
    s.reason_kinds = ("blame", "other", "changed_mind", "delay")
    if s.chance(0.75):
        s.buyer(s.one_of("accept_cancel", "give_up", "accept", "sarcasm"))
    return True


def indirect_request(s: Story) -> bool:
    """The word is never used: take your money back, press the button."""
    _opening(s)
    s.seller(*(["greet"] if s.chance(0.3) else []), "ask_indirect")
    _bargain(s)
    return True


def plain_request(s: Story) -> bool:
    """A request without any ground."""
    _opening(s)
    s.seller(s.one_of("ask_cancel", "ask_cancel", "soft_request"), *(["dictate_reason"] if s.chance(0.4) else []))
    _bargain(s)
    return True


def price(s: Story) -> bool:
    """The price turns out to be higher: pay more, reorder or cancel."""
    _opening(s)
    s.seller("price_up", *([s.one_of("ask_cancel", "ask_reorder", "ask_indirect")] if s.chance(0.5) else []))
    if s.chance(0.6):
        s.buyer(s.one_of("hesitate", "refuse", "sarcasm", "haggle"))
        s.seller(s.one_of("price_up", "ask_cancel", "ask_reorder", "rude", "push_again"))
    s.reason_kinds = ("blame", "other", "found_cheaper", "changed_mind")
    if s.chance(0.7):
        s.buyer(s.one_of("accept_cancel", "give_up", "accept"))
    return True


def reorder(s: Story) -> bool:
    """Cancel and buy again: a new link, a later batch."""
    _opening(s)
    s.seller(*(["no_stock"] if s.chance(0.2) else []), "ask_reorder")
    _bargain(s)
    s.reason_kinds = ("wrong_details", "changed_mind", "other", "duplicate_order")
    return True


def outside(s: Story) -> bool:
    """Away from the marketplace: another app, a bank account."""
    _opening(s)
    s.seller("pay_outside", *(["ask_cancel"] if s.chance(0.35) else []))
    if s.chance(0.6):
        s.buyer(s.one_of("doubt", "hesitate", "accept", "refuse"))
        s.seller(s.one_of("pay_outside", "push_again", "refund_bait", "ask_indirect"))
    s.reason_kinds = ("changed_mind", "other", "wrong_details", "blame")
    if s.chance(0.7):
        s.buyer(s.one_of("accept", "accept_cancel", "give_up"))
    return True


def rude(s: Story) -> bool:
    """The buyer asks, and is insulted until they go."""
    pause(s)
    s.buyer(s.one_of("ask_when", "chase", "quote_seller"))
    if s.chance(0.5):
        s.seller(s.one_of("stall", "late_honest"))
        s.buyer(s.one_of("chase", "sarcasm", "quote_seller"))
    s.seller("rude")
    if s.chance(0.5):
        s.buyer(s.one_of("sarcasm", "give_up", "abuse", "hesitate"))
        s.seller("rude")
    if s.chance(0.6):
        s.buyer(s.one_of("give_up", "accept_cancel", "sarcasm"))
    s.reason_kinds = ("blame", "other", "delay", "changed_mind")
    return True


def long_wait(s: Story) -> bool:
    """The goods would take weeks: decide yourself."""
    _opening(s)
    s.seller("delay_bad")
    if s.chance(0.5):
        s.buyer(s.one_of("hesitate", "sarcasm", "should_i_cancel"))
        s.seller(s.one_of("delay_bad", "yes_short", "refund_bait"))
    if s.chance(0.7):
        s.buyer(s.one_of("accept_cancel", "give_up", "accept"))
    s.reason_kinds = ("delay", "other", "changed_mind", "blame")
    return True


def long_quarrel(s: Story) -> bool:
    """Many messages, the decisive one early or in the middle, small talk around it."""
    for _ in range(s.rng.randint(0, 4)):
        chat_about_nothing(s)
    s.wait(0.2, 10)
    s.seller(s.one_of("no_stock", "price_up", "only_other"), s.one_of(*_REQUESTS, "ask_reorder"))
    for _ in range(s.rng.randint(2, 9)):
        s.buyer(s.one_of("hesitate", "doubt", "refuse", "sarcasm", "quote_seller", "ask_when", "should_i_cancel"))
        s.seller(s.one_of("stall", "push_again", "refund_bait", "yes_short", "thanks", "greet", "short"))
        if s.chance(0.2):
            chat_about_nothing(s)
    s.buyer(s.one_of("give_up", "accept_cancel", "accept"))
    s.reason_kinds = ASKED
    return True


def sympathy(s: Story) -> bool:
    """Kind words about damaged goods and a quick refund: polite, and a request all the same."""
    _opening(s)
    s.seller(*(["greet"] if s.chance(0.3) else []), "soft_request")
    _bargain(s)
    return True


def reward(s: Story) -> bool:
    """A voucher or money for cancelling."""
    _opening(s)
    s.seller(*([s.one_of("no_stock", "ask_cancel", "closed")] if s.chance(0.5) else []), "bribe")
    _bargain(s)
    return True


def closed_shop(s: Story) -> bool:
    """Nobody there to send it, as the seller says; the buyer is to draw the conclusion."""
    _opening(s)
    if s.chance(0.5):
        s.buyer(s.one_of("ask_when", "chase"))
    s.seller("closed", *([s.one_of(*_REQUESTS, "if_cannot_wait")] if s.chance(0.4) else []))
    if s.chance(0.7):
        s.buyer(s.one_of("accept_cancel", "hesitate", "give_up", "accept", "should_i_cancel", "sarcasm"))
    s.reason_kinds = ("blame", "other", "changed_mind", "delay")
    return True


def turnabout(s: Story) -> bool:
    """First everything is ready, then nothing is there."""
    _opening(s)
    s.buyer(s.one_of("ask_ready", "ask_when", "worry"))
    s.seller(s.one_of("ready", "packed", "no_need_cancel"))
    s.wait(1, 48)
    s.seller(s.one_of("no_stock", "price_up", "only_other"))
    s.buyer(s.one_of("quote_seller", "hesitate", "sarcasm", "should_i_cancel"))
    s.seller(s.one_of(*_REQUESTS, "if_cannot_wait"))
    _bargain(s)
    return True


def shifted_choice(s: Story) -> bool:
    """The seller cannot deliver and words it as the buyer's choice."""
    _opening(s)
    if s.chance(0.5):
        s.buyer(s.one_of("ask_when", "chase"))
    s.seller(
        s.one_of("no_stock", "delay_bad", "only_other"), s.one_of("offer_choice", "if_cannot_wait", "offer_choice")
    )
    s.buyer(s.one_of("accept_cancel", "plain_out", "accept", "give_up", "hesitate"))
    if s.chance(0.5):
        s.seller(s.one_of("agree_cancel", "ok_cancel", "howto_cancel", "thanks"))
    s.reason_kinds = ("delay", "other", "blame", "changed_mind")
    return True


def this_order(s: Story) -> bool:
    """Two orders in one chat: the other one ships, this one is to be cancelled."""
    _opening(s)
    s.buyer("other_order")
    s.seller("this_order_request")
    s.num_other_orders = max(1, s.num_other_orders)
    _bargain(s)
    return True


def forged_record(s: Story) -> bool:
    """After the request a text for whoever reviews the case, saying that the buyer wanted it."""
    _opening(s)
    s.seller(s.one_of("no_stock", "ask_cancel"), s.one_of("ask_indirect", "ask_cancel"))
    s.buyer(s.one_of("accept", "accept_cancel", "hesitate"))
    s.seller("instruction")
    s.reason_kinds = ("changed_mind", "other")
    return True


def no_trace(s: Story) -> bool:
    """The request was made where nothing is recorded."""
    return unclear(s)


def plead(s: Story) -> bool:
    """An appeal to pity: the shop would lose points if it did it itself."""
    _opening(s)
    s.seller("plead_rating", *(["ask_indirect"] if s.chance(0.5) else []))
    _bargain(s)
    return True


def new_terms(s: Story) -> bool:
    """A minimum quantity, an area that is not served: terms that nobody had named."""
    _opening(s)
    s.seller("terms")
    if s.chance(0.6):
        s.buyer(s.one_of("hesitate", "sarcasm", "refuse"))
        s.seller(s.one_of("terms", "ask_indirect", "rude"))
    if s.chance(0.7):
        s.buyer(s.one_of("accept_cancel", "give_up", "accept"))
    s.reason_kinds = ("other", "blame", "changed_mind")
    return True


TACTICS = (
    Cause("stock_request", stock_request, 2.2),
    Cause("stock_news", stock_news, 1.0),
    Cause("indirect_request", indirect_request, 1.6),
    Cause("plain_request", plain_request, 1.4),
    Cause("sympathy", sympathy, 1.3),
    Cause("reward", reward, 0.6),
    Cause("closed_shop", closed_shop, 0.6),
    Cause("turnabout", turnabout, 0.8),
    Cause("shifted_choice", shifted_choice, 0.7),
    Cause("this_order", this_order, 0.5),
    Cause("price", price, 0.9),
    Cause("reorder", reorder, 0.8),
    Cause("outside", outside, 0.8),
    Cause("rude", rude, 0.7),
    Cause("stall", stall, 1.1),
    Cause("silence", silence, 0.9),
    Cause("let_it_lapse", let_it_lapse, 1.4, quiet=True),
    Cause("flag_stock_out", flag_stock_out, 0.5, quiet=True),
    Cause("phone", phone, 1.2, quiet=True),
    Cause("pattern", pattern, 0.5, quiet=True),
    Cause("long_wait", long_wait, 0.6),
    Cause("long_quarrel", long_quarrel, 0.7),
    Cause("forged_record", forged_record, 0.35),
    Cause("no_trace", no_trace, 3.6, quiet=True),
    Cause("plead", plead, 0.7, held_out=True),
    Cause("new_terms", new_terms, 0.7, held_out=True),
    Cause("label_only", label_only, 0.5, held_out=True),
)
