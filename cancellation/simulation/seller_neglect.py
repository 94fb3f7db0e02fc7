"""How a seller makes a buyer give up without asking for it in writing: delay, silence, a flag, a call."""

from __future__ import annotations

from cancellation.simulation.circumstances import is_late, is_ready, pause
from cancellation.simulation.small_talk import bring_up_to_date, opening
from cancellation.simulation.story import HOUR, Story


def stall(s: Story) -> bool:
    """Tomorrow, and tomorrow: promises and extensions until the buyer gives up."""
    for round_number in range(s.rng.choice((1, 2, 2, 3, 4, 6))):
        s.wait(3, 40)
        s.buyer(s.one_of("ask_when", "chase", "quote_seller", "worry") if round_number else "ask_when")
        if s.chance(0.85):
            s.seller(s.one_of("stall", "stall", "late_honest"))
        if s.chance(0.3):
            s.extend()
    if s.chance(0.55):
        s.miss()
    s.wait(1, 30)
    if s.chance(0.3):
        s.buyer("chase")
        s.seller(s.one_of("if_cannot_wait", "offer_choice", "delay_bad", "stall"))
    s.buyer(s.one_of("give_up", "give_up", "sarcasm", "accept_cancel"))
    s.reason_kinds = ("delay", "delay", "other", "changed_mind")
    bring_up_to_date(s)
    return bool(s.factors) and (is_late(s) or not is_ready(s))


def silence(s: Story) -> bool:
    """The buyer asks and is not answered; nothing is shipped."""
    if s.chance(0.25):
        opening(s)
        s.seller(s.one_of("ready", "greet", "stall"))
        s.wait(4, 30)
    s.seller_presence *= s.rng.choice((0.2, 0.6, 1.0))
    for _ in range(s.rng.choice((1, 2, 3, 4))):
        s.buyer(s.one_of("ask_when", "chase", "chase", "greet", "short"))
        s.wait(2, 30)
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
    if s.chance(0.3):
        s.extend()
    s.miss()
    s.wait(2, 60)
    if s.chance(0.3):
        s.extend()
        s.miss()
        s.wait(1, 30)
    if s.chance(0.3):
        s.seller_presence = s.rng.choice((0.03, 0.08))
        s.factors.add("seller.inactive")
    if s.chance(0.25):
        s.num_other_orders = s.rng.randint(25, 60)
        s.factors.add("seller.overloaded")
    s.reason_kinds = ("delay", "delay", "other", "blame", "none", "changed_mind")
    if is_ready(s):
        # What was packed in time may still have been taken back; only a buyer who names the delay settles it.
        s.reason_kinds = ("delay", "delay", "blame")
    bring_up_to_date(s)
    return True


def flag_stock_out(s: Story) -> bool:
    """The seller flags the item as gone in the system, with few words or none."""
    pause(s)
    s.entry("stock_out_flagged", note=None)
    s.wait(0.05, 10)
    if s.chance(0.35):
        s.seller(s.one_of("no_stock", "ask_cancel", "only_other", "soft_request"))
        if s.chance(0.5):
            s.buyer(s.one_of("accept", "accept_cancel", "sarcasm", "short"))
    elif s.chance(0.3):
        s.buyer(s.one_of("ask_when", "chase"))
        s.wait(2, 30)
    s.reason_kinds = ("blame", "other", "changed_mind", "wrong_details", "none")
    return True


def phone(s: Story) -> bool:
    """A call, and the buyer cancels at once; the chat says little or nothing."""
    pause(s)
    if s.chance(0.3):
        opening(s)
        s.wait(0.1, 4)
    if s.chance(0.4):
        s.call("seller", answered=False)
        s.wait(0.05, 3)
    s.call("seller", answered=True)
    s.seconds_to_cancel = 100.0
    if s.chance(0.3):
        s.seller(s.one_of("call_followup", "dictate_reason", "call_followup"))
    if s.chance(0.4):
        s.buyer(s.one_of("phone_ok", "accept", "accept_cancel", "pretext_ok"))
    s.reason_kinds = ("changed_mind", "other", "wrong_details", "blame", "none")
    return True


def pattern(s: Story) -> bool:
    """Little is said here, and other buyers of the same days were all sent away."""
    s.num_other_orders = max(s.num_other_orders, s.rng.randint(6, 14))
    s.contagion, s.excerpt_chance = 0.75, 0.7
    pause(s)
    if s.chance(0.5):
        s.call("seller", answered=True)
        s.seconds_to_cancel = 300.0
    if s.chance(0.7):
        s.seller(s.one_of("greet", "call_followup", "refund_bait", "push_again", "see_message"))
        if s.chance(0.5):
            s.buyer(s.one_of("accept", "accept_cancel", "short"))
    s.factors.add("chat.asked_to_cancel")
    s.reason_kinds = ("changed_mind", "other", "blame", "none")
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
