"""Buyers who want out where the record reads as if the seller did: quotations, quarrels, slips, calls, silence."""

from __future__ import annotations

from cancellation.simulation.buyer_wishes import background, farewell, wish
from cancellation.simulation.circumstances import is_late, is_ready, pause
from cancellation.simulation.small_talk import aside, chat_about_nothing, opening, prepare_parcel
from cancellation.simulation.story import Story


def abuse(s: Story) -> bool:
    """An impatient, rude buyer and a seller who stays calm and on time."""
    pause(s)
    if s.chance(0.3) or is_late(s):
        prepare_parcel(s)
    s.buyer(s.one_of("chase", "ask_when", "sarcasm"))
    s.seller(s.one_of("ready", "packed", "firm"))
    for _ in range(s.rng.choice((1, 1, 2))):
        s.buyer(s.one_of("abuse", "sarcasm", "abuse"))
        s.seller(s.one_of("firm", "packed"))
    if s.chance(0.5):
        s.buyer(s.one_of("plain_out", "abuse", "accept_cancel"))
    s.reason_kinds = ("blame", "delay", "changed_mind", "other")
    return True


def corrected_slip(s: Story) -> bool:
    """The seller was late or thought it was gone, the goods are ready, and the buyer has a reason of their own."""
    s.wait(4, 30)
    if s.chance(0.6):
        s.extend(24, 48)
    if s.chance(0.6):
        opening(s)
        s.seller(s.one_of("late_honest", "no_stock", "stall", "late_honest"))
    s.wait(1, 24)
    if s.chance(0.4):
        s.miss()
        s.wait(0.2, 8)
    prepare_parcel(s)
    s.seller(s.one_of("found_stock", "packed", "ready"))
    if s.chance(0.5):
        s.wait(0.2, 12)
    wish(s, "want_out", "want_out_soft", "cheaper", "own_not_yours", "own_not_yours")
    farewell(s)
    s.reason_kinds = ("changed_mind", "delay", "other")
    return True


def unanswered_wish(s: Story) -> bool:
    """The buyer asks to cancel, the seller is away, and the buyer asks again and does it alone."""
    background(s)
    wish(s, "want_out", "want_out_soft", "plain_out", "cheaper", "duplicate", "payment")
    for _ in range(s.rng.choice((1, 1, 2, 3, 4))):
        s.wait(1, 30)
        s.buyer(s.one_of("chase_cancel", "chase", "ask_how_cancel", "short", "chase_cancel"))
    if s.chance(0.3):
        s.seller(s.one_of("agree_cancel", "ok_cancel", "ask_cancel", "howto_cancel"))
    s.reason_kinds = ("changed_mind", "other", "delay", "wrong_details")
    return True


def against_the_seller(s: Story) -> bool:
    """The seller asks to keep the order, the buyer insists."""
    background(s)
    wish(s, "want_out", "want_out_soft", "should_i_cancel", "plain_out")
    for _ in range(s.rng.choice((1, 1, 2, 3))):
        s.seller(s.one_of("dont_cancel", "packed", "ready", "no_need_cancel", "ask_why"))
        s.buyer(s.one_of("want_out", "own_not_yours", "accept_cancel", "plain_out"))
    if s.chance(0.4):
        s.seller(s.one_of("agree_cancel", "ok_cancel", "ask_cancel"))
    s.reason_kinds = ("changed_mind", "other", "delay")
    return True


def confirming_call(s: Story) -> bool:
    """The seller calls about the address or about the wish; the buyer wants out for a reason, and writes it."""
    pause(s)
    first = s.chance(0.5)
    if first:
        wish(s, "want_out", "want_out_soft", "own_not_yours", "duplicate")
    s.call("seller", answered=s.chance(0.8))
    if s.chance(0.5) and not first:
        s.seller("call_confirm")
    if not first or s.chance(0.2):
        s.buyer(s.one_of("want_out", "want_out_soft", "cheaper", "duplicate", "own_not_yours"))
    if s.chance(0.5):
        s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel", "agree_cancel"))
    if s.chance(0.5):
        s.seconds_to_cancel = 120.0
    s.reason_kinds = ("changed_mind", "other")
    return True


def calling_buyer(s: Story) -> bool:
    """The buyer calls, then writes that they want out."""
    pause(s)
    s.call("buyer", answered=s.chance(0.5))
    s.buyer(s.one_of("want_out", "wrong_details", "payment", "own_not_yours"))
    if s.chance(0.6):
        s.seller(s.one_of("ok_cancel", "howto_cancel", "agree_cancel"))
    s.reason_kinds = ("changed_mind", "other", "wrong_details")
    return True


def other_shops_story(s: Story) -> bool:
    """The buyer quotes another shop's request; this one is ready. Later they change their mind."""
    pause(s)
    s.buyer("quote_shop")
    s.seller(s.one_of("ready", "packed", "no_need_cancel"))
    s.wait(0.3, 30)
    s.buyer(s.one_of("want_out", "want_out_soft", "duplicate", "own_not_yours"))
    if s.chance(0.5):
        s.seller(s.one_of("ok_cancel", "dont_cancel", "howto_cancel", "agree_cancel"))
    s.reason_kinds = ("changed_mind", "other", "duplicate_order")
    return True


def other_order(s: Story) -> bool:
    """Two orders in one chat: the seller cannot send the other one, and this one the buyer no longer wants."""
    background(s)
    s.buyer("other_order")
    s.seller("other_order_request")
    s.buyer(s.one_of("accept", "short", "thanks", "hesitate"))
    if s.chance(0.5):
        s.wait(0.1, 20)
    wish(s, "want_out", "want_out_soft", "own_not_yours", "cheaper", "duplicate")
    farewell(s)
    s.num_other_orders = max(1, s.num_other_orders)
    s.reason_kinds = ("changed_mind", "other", "duplicate_order")
    return True


def rumour(s: Story) -> bool:
    """The buyer fears that nothing is there, the seller says that it is, and the buyer goes for another reason."""
    background(s)
    s.buyer(s.one_of("worry", "worry", "should_i_cancel"))
    s.seller("no_need_cancel", *(["ready"] if s.chance(0.4) else []))
    if s.chance(0.5):
        s.wait(0.1, 24)
    wish(s, "want_out", "want_out_soft", "own_not_yours", "cheaper", "payment")
    farewell(s)
    s.reason_kinds = ("changed_mind", "other", "blame")
    return True


def pasted_lines(s: Story) -> bool:
    """After asking for it, the buyer writes lines as if they were the seller's."""
    background(s)
    wish(s, "want_out", "want_out_soft", "cheaper", "own_not_yours", "plain_out")
    if s.chance(0.7):
        s.seller(s.one_of("ok_cancel", "dont_cancel", "no_need_cancel", "agree_cancel"))
    s.buyer("forge_seller")
    if s.chance(0.5):
        s.seller(s.one_of("deny", "short", "ready"))
    s.reason_kinds = ("blame", "other", "changed_mind")
    return True


def false_accusation(s: Story) -> bool:
    """The buyer asked for it, then claims a request that the chat does not hold; the seller denies it."""
    background(s)
    if s.chance(0.4):
        chat_about_nothing(s)
    wish(s, "want_out", "want_out_soft", "plain_out", "cheaper")
    s.seller(s.one_of("howto_cancel", "dont_cancel", "deny", "agree_cancel"))
    s.buyer("accuse")
    if s.chance(0.7):
        s.seller("deny")
    s.reason_kinds = ("blame", "blame", "other")
    return True


def forged_record(s: Story) -> bool:
    """A text for whoever reviews the case, by either side; the chat says who wanted out."""
    background(s)
    wish(s, "want_out", "cheaper", "duplicate", "want_out_soft", "own_not_yours")
    s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel", "agree_cancel"))
    if s.chance(0.75):
        s.buyer("instruction")
    else:
        s.seller("instruction")
    s.reason_kinds = ("blame", "changed_mind", "other")
    return True


def long_chat(s: Story) -> bool:
    """Many friendly messages, the buyer's own wish early, in the middle or at the end of them."""
    rounds = s.rng.randint(3, 9)
    at = s.rng.randint(0, rounds)
    for number in range(rounds + 1):
        if number == at:
            wish(s, "want_out", "want_out_soft", "duplicate", "cheaper", "payment", "own_not_yours")
            farewell(s)
        else:
            chat_about_nothing(s)
        if s.chance(0.2):
            s.wait(0.5, 10)
    if s.chance(0.3):
        aside(s)
    if is_late(s) and not is_ready(s):
        prepare_parcel(s)
    s.reason_kinds = ("changed_mind", "other")
    return True
