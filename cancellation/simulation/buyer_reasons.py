"""Why a buyer gives an order up without any push: one script per reason that the buyer writes down.

Honest sellers are late, say "out of stock" about another colour, explain how to cancel and advise to order
again. Who wanted it first decides. A script says whether its traces show that the buyer wanted out. Reasons
never written are in `buyer_silence`, words that are easily misread in `buyer_disputes`.
"""

from __future__ import annotations

from cancellation.simulation.buyer_disputes import (
    abuse,
    against_the_seller,
    calling_buyer,
    confirming_call,
    corrected_slip,
    false_accusation,
    forged_record,
    long_chat,
    other_order,
    other_shops_story,
    pasted_lines,
    rumour,
    unanswered_wish,
)
from cancellation.simulation.buyer_silence import (
    late_in_silence,
    left_quietly,
    said_nothing,
    said_nothing_cheaper,
    said_nothing_double,
    said_nothing_wrong,
)
from cancellation.simulation.buyer_wishes import CHANGED, CHEAPER, DOUBLE, WRONG, background, farewell, wish
from cancellation.simulation.circumstances import is_late
from cancellation.simulation.small_talk import aside, prepare_parcel
from cancellation.simulation.story import Cause, Story
from cancellation.simulation.unclear_traces import unclear


def changed_mind(s: Story) -> bool:
    """The buyer no longer wants it and says so, plainly or in passing."""
    background(s)
    wish(s, "want_out", "want_out", "want_out_soft", "own_not_yours", "plain_out")
    farewell(s)
    s.reason_kinds = ("changed_mind", "changed_mind", "other", "wrong_details")
    return True


def wrong_details(s: Story) -> bool:
    """The buyer's own mistake: the seller cannot edit it and advises to cancel and order again."""
    background(s)
    s.buyer(*(["greet"] if s.chance(0.3) else []), "wrong_details")
    if s.chance(0.4):
        s.seller("ask_which")
        s.buyer(s.one_of("wrong_details", "should_i_cancel", "ask_how_cancel"))
    s.seller(s.one_of("advise_reorder", "advise_reorder", "howto_cancel", "agree_cancel"))
    if s.chance(0.7):
        s.buyer(s.one_of("accept", "accept_cancel", "thanks", "should_i_cancel", "ask_how_cancel"))
        if s.chance(0.5):
            s.seller(s.one_of("yes_short", "dictate_reason", "thanks", "ready"))
        if s.chance(0.15):
            aside(s)
    s.reason_kinds = ("wrong_details", "wrong_details", "changed_mind", "other")
    return True


def found_cheaper(s: Story) -> bool:
    """Another shop is cheaper."""
    background(s)
    s.buyer("cheaper")
    if s.chance(0.7):
        s.seller(s.one_of("refuse_discount", "ok_cancel", "dont_cancel", "agree_cancel"))
        if s.chance(0.6):
            s.buyer(s.one_of("accept_cancel", "plain_out", "want_out"))
    s.reason_kinds = ("found_cheaper", "found_cheaper", "other", "changed_mind")
    return True


def duplicate_order(s: Story) -> bool:
    """Ordered twice."""
    background(s)
    s.buyer("duplicate")
    farewell(s)
    s.num_other_orders = max(1, s.num_other_orders)
    s.reason_kinds = ("duplicate_order", "duplicate_order", "other", "changed_mind")
    return True


def payment(s: Story) -> bool:
    """A voucher forgotten, another way to pay wanted: ordered again."""
    background(s)
    s.buyer("payment")
    if s.chance(0.7):
        s.seller(s.one_of("advise_reorder", "ok_cancel", "howto_cancel", "agree_cancel", "ask_reorder"))
        if s.chance(0.4):
            s.buyer(s.one_of("accept", "thanks"))
    s.reason_kinds = ("other", "wrong_details", "changed_mind")
    return True


def other_variant(s: Story) -> bool:
    """The buyer wants another variant, which is out; the one ordered is ready."""
    background(s)
    s.buyer("ask_variant")
    s.seller("variant_out")
    if s.chance(0.4):
        s.seller(s.one_of("ready", "packed"))
    if s.chance(0.8):
        s.buyer(s.one_of("want_out", "accept_cancel", "plain_out", "should_i_cancel"))
        if s.chance(0.5):
            s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel"))
    s.reason_kinds = ("changed_mind", "wrong_details", "other", "blame")
    return True


def outside_wish(s: Story) -> bool:
    """The buyer wants to pay outside, and the seller refuses."""
    background(s)
    s.buyer("offer_outside")
    s.seller("refuse_outside")
    if s.chance(0.7):
        s.buyer(s.one_of("plain_out", "accept_cancel", "want_out"))
        if s.chance(0.4):
            s.seller(s.one_of("dont_cancel", "ok_cancel", "agree_cancel"))
    s.reason_kinds = ("changed_mind", "other", "found_cheaper")
    return True


def no_trace(s: Story) -> bool:
    """A reason of their own that nothing in the record shows."""
    return unclear(s)


def haggling(s: Story) -> bool:
    """A discount asked and refused."""
    background(s)
    s.buyer("haggle")
    s.seller("refuse_discount")
    s.buyer(s.one_of("give_up", "accept_cancel", "cheaper", "want_out"))
    if s.chance(0.4):
        s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel"))
    s.reason_kinds = ("found_cheaper", "changed_mind", "other")
    return True


def in_a_hurry(s: Story) -> bool:
    """Needed sooner than was ever promised."""
    s.wait(0.1, 15)
    s.buyer(*(["ask_when"] if s.chance(0.4) else []), "faster")
    s.seller(s.one_of("ready", "packed", "firm"))
    if s.chance(0.7):
        s.buyer(s.one_of("give_up", "accept_cancel", "want_out"))
        if s.chance(0.4):
            s.seller(s.one_of("ok_cancel", "howto_cancel"))
    s.reason_kinds = ("delay", "changed_mind", "other")
    return True


def unsuitable(s: Story) -> bool:
    """The buyer asks, the seller answers honestly that it is not so, and then it is not what the buyer wants."""
    background(s)
    s.buyer("ask_product")
    s.seller("answer_no")
    s.buyer(s.one_of("not_suitable", "not_suitable", "short", "accept"))
    if s.wish is None:
        s.wait(0.02, 5)
        s.buyer("not_suitable")
    farewell(s)
    s.reason_kinds = ("changed_mind", "other", "wrong_details")
    return True


def distrust(s: Story) -> bool:
    """An earlier parcel or what others write: the buyer no longer wants to buy here."""
    background(s)
    wish(s, "bad_past")
    if s.chance(0.6):
        s.seller(s.one_of("dont_cancel", "ask_why", "ok_cancel", "agree_cancel", "deny"))
        if s.chance(0.4):
            s.buyer(s.one_of("plain_out", "bad_past", "accept_cancel"))
    s.reason_kinds = ("changed_mind", "other", "blame")
    return True


def carrier_late(s: Story) -> bool:
    """Packed in time and not picked up: the seller explains, the buyer does not want to wait for the carrier."""
    prepare_parcel(s)
    for _ in range(s.rng.choice((1, 2))):
        s.wait(3, 20)
        s.entry("pickup_failed")
    s.buyer(s.one_of("ask_when", "chase"))
    s.seller(s.one_of("packed", "late_honest"))
    if s.chance(0.4):
        s.buyer("courier")
    s.buyer(s.one_of("plain_out", "want_out", "give_up", "own_not_yours"))
    farewell(s)
    s.reason_kinds = ("delay", "changed_mind", "other")
    return s.wish is not None or not is_late(s)


def hurried_choice(s: Story) -> bool:
    """The buyer wants out, the seller asks whether to send it or not, and the buyer decides."""
    background(s)
    wish(s, "plain_out", "want_out_soft", "own_not_yours", "ask_how_cancel")
    s.seller(s.one_of("ask_why", "offer_choice", "if_cannot_wait", "ask_why"))
    s.buyer(s.one_of("want_out", "want_out_soft", "own_not_yours"))
    farewell(s)
    s.reason_kinds = ("changed_mind", "other", "wrong_details")
    return True


REASONS = (
    Cause("changed_mind", changed_mind, 2.2, factor=CHANGED),
    Cause("hurried_choice", hurried_choice, 0.8, factor=CHANGED),
    Cause("unsuitable", unsuitable, 0.9, factor=CHANGED),
    Cause("distrust", distrust, 0.6, factor=CHANGED),
    Cause("carrier_late", carrier_late, 0.5, factor=CHANGED),
    Cause("said_nothing", said_nothing, 1.8, factor=CHANGED, quiet=True),
    Cause("late_in_silence", late_in_silence, 1.0, factor=CHANGED, quiet=True),
    Cause("said_nothing_cheaper", said_nothing_cheaper, 0.5, factor=CHEAPER, quiet=True),
    Cause("said_nothing_wrong", said_nothing_wrong, 0.5, factor=WRONG, quiet=True),
    Cause("said_nothing_double", said_nothing_double, 0.4, factor=DOUBLE, quiet=True),
    Cause("left_quietly", left_quietly, 0.8, factor=CHANGED),
    Cause("wrong_details", wrong_details, 1.7, factor=WRONG),
    Cause("found_cheaper", found_cheaper, 0.9, factor=CHEAPER),
    Cause("duplicate_order", duplicate_order, 0.8, factor=DOUBLE),
    Cause("payment", payment, 0.7, factor=CHANGED),
    Cause("other_variant", other_variant, 1.1, factor=CHANGED),
    Cause("outside_wish", outside_wish, 0.5, factor=CHANGED),
    Cause("abuse", abuse, 0.8, factor=CHANGED),
    Cause("corrected_slip", corrected_slip, 0.9, factor=CHANGED),
    Cause("unanswered_wish", unanswered_wish, 1.1, factor=CHANGED),
    Cause("against_the_seller", against_the_seller, 0.8, factor=CHANGED),
    Cause("confirming_call", confirming_call, 0.9, factor=CHANGED),
    Cause("calling_buyer", calling_buyer, 0.4, factor=CHANGED),
    Cause("other_shops_story", other_shops_story, 0.5, factor=CHANGED),
    Cause("other_order", other_order, 0.6, factor=CHANGED),
    Cause("rumour", rumour, 0.5, factor=CHANGED),
    Cause("pasted_lines", pasted_lines, 0.5, factor=CHANGED),
    Cause("false_accusation", false_accusation, 0.6, factor=CHANGED),
    Cause("forged_record", forged_record, 0.5, factor=CHANGED),
    Cause("long_chat", long_chat, 0.6, factor=CHANGED),
    Cause("no_trace", no_trace, 2.4, quiet=True),
    Cause("haggling", haggling, 0.6, held_out=True, factor=CHANGED),
    Cause("in_a_hurry", in_a_hurry, 0.6, held_out=True, factor=CHANGED),
)
