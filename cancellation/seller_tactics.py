"""How a seller who wants an order gone makes the buyer cancel it: one script per tactic.

A script acts on a story and says whether its traces prove it; where they do not, the right label is
inconclusive. Every script varies: who opens, what is said, what is left out, how far the buyer resists.
"""

from __future__ import annotations

from cancellation.small_talk import bring_up_to_date, chat_about_nothing, opening, unclear
from cancellation.story import HOUR, Cause, Story

ASKED = ("changed_mind", "wrong_details", "other", "blame")
"""Reasons a buyer gives when a seller asked for the cancellation: mostly what the seller wants to read."""


def _opening(s: Story) -> None:
    if s.chance(0.6):
        s.wait(0.05, 30)
    if s.chance(0.25):
        chat_about_nothing(s)
        if s.chance(0.5):
            s.wait(0.3, 20)
    if s.chance(0.4):
        opening(s)
        if s.chance(0.3):
            s.seller(s.one_of("ready", "packed", "greet"))
            s.wait(0.05, 24)


def _bargain(s: Story) -> None:
    """From the request to the buyer's yes, or silence, or no: the seller may press and dictate."""
    s.reason_kinds = ASKED
    for _ in range(s.rng.choice((0, 0, 1, 1, 2, 3))):
        s.buyer(s.one_of("hesitate", "doubt", "refuse", "ask_how_cancel", "sarcasm"))
        s.seller(s.one_of("push_again", "refund_bait", "howto_cancel", "yes_short", "ask_indirect", "no_stock"))
    if s.chance(0.07):
        s.buyer("accuse")
        if s.chance(0.5):
            s.seller("deny")
    if s.chance(0.2):
        s.buyer("should_i_cancel")
        s.seller("yes_short")
    dictated = s.chance(0.3)
    if s.chance(0.75):
        s.buyer(s.one_of("accept", "accept", "accept_cancel", "sarcasm", "want_out_soft"))
    if dictated:
        s.seller("dictate_reason")
        s.reason_kinds = ("changed_mind", "wrong_details", "other")
        if s.chance(0.7):
            s.buyer(s.one_of("accept", "accept_cancel"))
    if s.chance(0.2):
        s.seller("thanks")


def stock_request(s: Story) -> bool:
    """Nothing in stock, and the buyer is asked to cancel."""
    _opening(s)
    request = s.one_of("ask_cancel", "ask_cancel", "ask_indirect")
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
    s.seller("ask_cancel", *(["dictate_reason"] if s.chance(0.4) else []))
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
    s.wait(2, 50)
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


def stall(s: Story) -> bool:
    """Tomorrow, and tomorrow: promises and extensions until the buyer gives up."""
    s.wait(8, 40)
    for round_number in range(s.rng.choice((2, 2, 3, 4, 6))):
        s.buyer(s.one_of("ask_when", "chase", "quote_seller") if round_number else "ask_when")
        if s.chance(0.85):
            s.seller("stall")
        if s.chance(0.45):
            s.extend()
        s.wait(10, 40)
    if s.chance(0.7):
        s.miss()
    s.wait(1, 20)
    s.buyer(s.one_of("give_up", "sarcasm", "chase", "accept_cancel"))
    s.reason_kinds = ("delay", "delay", "other", "changed_mind")
    bring_up_to_date(s)
    return bool(s.factors)


def silence(s: Story) -> bool:
    """The buyer asks and is not answered; nothing is shipped."""
    s.wait(6, 48)
    if s.chance(0.25):
        opening(s)
        s.seller(s.one_of("ready", "greet", "stall"))
        s.wait(8, 40)
    s.seller_presence = 0.15
    for _ in range(s.rng.choice((1, 2, 3, 4))):
        s.buyer(s.one_of("ask_when", "chase", "chase", "greet"))
        s.wait(5, 30)
    s.now = max(s.now, s.chat[-1].at + 26 * HOUR)
    if s.chance(0.5):
        s.miss()
        s.wait(0.5, 20)
    if s.chance(0.4):
        s.buyer(s.one_of("give_up", "sarcasm", "chase"))
    s.factors.add("chat.no_reply")
    s.reason_kinds = ("delay", "blame", "other", "changed_mind")
    bring_up_to_date(s)
    return True


def let_it_lapse(s: Story) -> bool:
    """No word and no parcel: the deadline passes."""
    s.seller_presence = s.rng.choice((0.05, 0.1, 0.3))
    if s.chance(0.4):
        s.wait(5, 30)
        s.extend()
    s.miss()
    s.wait(3, 60)
    if s.chance(0.3):
        s.extend()
        s.miss()
        s.wait(1, 30)
    if s.seller_presence < 0.15:
        s.factors.add("seller.inactive")
    if s.chance(0.25):
        s.num_other_orders = s.rng.randint(25, 60)
        s.factors.add("seller.overloaded")
    s.reason_kinds = ("delay", "delay", "other", "changed_mind")
    bring_up_to_date(s)
    return True


def flag_stock_out(s: Story) -> bool:
    """The seller flags the item as gone in the system, with few words or none."""
    s.wait(1, 60)
    s.entry("stock_out_flagged", note=None)
    s.wait(0.05, 10)
    if s.chance(0.35):
        s.seller(s.one_of("no_stock", "ask_cancel", "only_other"))
        if s.chance(0.5):
            s.buyer(s.one_of("accept", "accept_cancel", "sarcasm"))
    elif s.chance(0.3):
        s.buyer(s.one_of("ask_when", "chase"))
        s.wait(2, 30)
    s.reason_kinds = ("blame", "other", "changed_mind", "wrong_details")
    return True


def phone(s: Story) -> bool:
    """A call, and the buyer cancels at once; the chat says little or nothing."""
    s.wait(0.5, 50)
    if s.chance(0.3):
        opening(s)
        s.wait(0.1, 4)
    if s.chance(0.4):
        s.call("seller", answered=False)
        s.wait(0.05, 3)
    s.call("seller", answered=True)
    s.seconds_to_cancel = 150.0
    if s.chance(0.3):
        s.seller(s.one_of("call_followup", "dictate_reason", "thanks"))
    if s.chance(0.45):
        s.buyer(s.one_of("phone_ok", "accept", "accept_cancel"))
    s.reason_kinds = ("changed_mind", "other", "wrong_details", "blame")
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
    for _ in range(s.rng.randint(1, 4)):
        chat_about_nothing(s)
    s.wait(0.2, 10)
    s.seller(s.one_of("no_stock", "price_up", "only_other"), s.one_of("ask_cancel", "ask_indirect", "ask_reorder"))
    for _ in range(s.rng.randint(2, 9)):
        s.buyer(s.one_of("hesitate", "doubt", "refuse", "sarcasm", "quote_seller", "ask_when", "should_i_cancel"))
        s.seller(s.one_of("stall", "push_again", "refund_bait", "yes_short", "thanks", "greet"))
    s.buyer(s.one_of("give_up", "accept_cancel", "accept"))
    s.reason_kinds = ASKED
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


def label_only(s: Story) -> bool:
    """A label is printed to stop the clock; no parcel ever follows it."""
    s.wait(4, 40)
    s.entry("label_created")
    s.now = max(s.now + 30 * HOUR, s.deadline_at - 20 * HOUR)
    for _ in range(s.rng.choice((1, 2, 3))):
        s.buyer(s.one_of("ask_when", "chase"))
        if s.chance(0.4):
            s.seller("stall")
        s.wait(12, 48)
    s.factors.add("fulfilment.no_shipping_update")
    if s.chat[-1].sender == "buyer":
        s.factors.add("chat.no_reply")
    s.reason_kinds = ("delay", "other", "blame")
    return True


TACTICS = (
    Cause("stock_request", stock_request, 1.6),
    Cause("stock_news", stock_news, 1.1),
    Cause("indirect_request", indirect_request, 1.5),
    Cause("plain_request", plain_request, 1.0),
    Cause("price", price, 0.9),
    Cause("reorder", reorder, 0.8),
    Cause("outside", outside, 0.8),
    Cause("rude", rude, 0.7),
    Cause("stall", stall, 1.2),
    Cause("silence", silence, 1.1),
    Cause("let_it_lapse", let_it_lapse, 1.3, quiet=True),
    Cause("flag_stock_out", flag_stock_out, 0.6, quiet=True),
    Cause("phone", phone, 0.8, quiet=True),
    Cause("long_wait", long_wait, 0.6),
    Cause("long_quarrel", long_quarrel, 0.7),
    Cause("forged_record", forged_record, 0.25),
    Cause("no_trace", no_trace, 1.8, quiet=True),
    Cause("plead", plead, 0.6, held_out=True),
    Cause("new_terms", new_terms, 0.6, held_out=True),
    Cause("label_only", label_only, 0.5, held_out=True),
)
