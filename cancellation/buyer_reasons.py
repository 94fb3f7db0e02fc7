"""Why a buyer gives an order up without any push: one script per reason, most of them easy to misread.

Honest sellers are late, say "out of stock" about another colour, explain how to cancel, advise to order again
and call to confirm an address. A script says whether its traces show that the buyer wanted out.
"""

from __future__ import annotations

from cancellation.small_talk import chat_about_nothing, opening, prepare_parcel, unclear
from cancellation.story import Cause, Story

_CHANGED, _WRONG, _CHEAPER, _DOUBLE = (
    "buyer.changed_mind",
    "buyer.wrong_details",
    "buyer.found_cheaper",
    "buyer.duplicate_order",
)


def _background(s: Story) -> None:
    """What may lie before: questions, a parcel, a day of delay with a reason."""
    if s.chance(0.25):
        chat_about_nothing(s)
    if s.chance(0.7):
        s.wait(0.05, 50)
    if s.chance(0.28):
        prepare_parcel(s)
        s.wait(0.1, 20)
    if s.chance(0.3):
        s.seller(
            *(["greet"] if s.chance(0.3) else []), s.one_of("packed", "ready", "late_honest", "thanks", "ask_which")
        )
        if s.chance(0.4):
            s.wait(0.05, 10)
    if s.chance(0.15):
        s.extend(24, 48)
        if s.chance(0.5):
            s.seller("late_honest")
            s.wait(0.2, 10)


def _farewell(s: Story) -> None:
    """From the buyer's wish to the cancellation: the seller agrees, explains, asks to stay, or is away.

    Who wanted it first decides, so here a seller may well use the words of one who asks for it.
    """
    for _ in range(s.rng.choice((0, 1, 1, 1, 2, 3))):
        kind = s.one_of(
            "ok_cancel", "howto_cancel", "dont_cancel", "ask_which", "ok_cancel", "ask_cancel", "ask_indirect"
        )
        s.seller(*([s.one_of("greet", "ok_cancel", "howto_cancel")] if s.chance(0.45) else []), kind)
        if kind == "dont_cancel":
            s.buyer(s.one_of("want_out", "want_out_soft", "accept_cancel"))
        elif s.chance(0.4):
            s.buyer(s.one_of("accept_cancel", "thanks", "ask_how_cancel", "accept"))
            if s.chance(0.35):
                s.seller(s.one_of("dictate_reason", "howto_cancel", "thanks"))
    if s.chance(0.1):
        s.buyer(s.one_of("ask_variant", "should_i_cancel"))
        s.seller(s.one_of("variant_out", "no_stock", "yes_short"))


def changed_mind(s: Story) -> bool:
    """The buyer no longer wants it and says so, plainly or in passing."""
    _background(s)
    s.buyer(s.one_of("want_out", "want_out", "want_out_soft"))
    _farewell(s)
    s.reason_kinds = ("changed_mind", "changed_mind", "other", "wrong_details")
    return True


def said_nothing(s: Story) -> bool:
    """The buyer cancels without a word to the seller, early or while the parcel waits."""
    if s.chance(0.5):
        s.wait(0.03, 6)
    else:
        s.wait(2, 50)
        if s.chance(0.25):
            s.extend(24, 48)
            s.wait(0.5, 10)
        if s.chance(0.6):
            prepare_parcel(s)
    s.reason_kinds = ("changed_mind",)
    return True


def late_in_silence(s: Story) -> bool:
    """The seller slips, by an extension, a day or a wrong flag; the parcel is ready when the buyer goes."""
    s.wait(6, 40)
    if s.chance(0.6):
        s.extend(24, 48)
    if s.chance(0.15):
        s.entry("stock_out_flagged")
        s.wait(0.2, 6)
    if s.chance(0.6):
        s.miss()
        s.wait(0.2, 8)
    prepare_parcel(s)
    s.wait(0.2, 10)
    s.reason_kinds = (s.one_of("changed_mind", "changed_mind", "found_cheaper", "duplicate_order"),)
    s.wish = {"found_cheaper": _CHEAPER, "duplicate_order": _DOUBLE}.get(s.reason_kinds[0], _CHANGED)
    return True


def said_nothing_cheaper(s: Story) -> bool:
    """The same, for a better price."""
    s.wait(0.1, 30)
    s.reason_kinds = ("found_cheaper",)
    return True


def said_nothing_wrong(s: Story) -> bool:
    """The same, for an address or a size."""
    s.wait(0.03, 20)
    s.reason_kinds = ("wrong_details",)
    return True


def said_nothing_double(s: Story) -> bool:
    """The same, for a second order."""
    s.wait(0.03, 5)
    s.num_other_orders = max(1, s.num_other_orders)
    s.reason_kinds = ("duplicate_order",)
    return True


def left_quietly(s: Story) -> bool:
    """The chat is about nothing, the parcel on time, and the reason given is the buyer's own."""
    chat_about_nothing(s)
    if s.chance(0.4):
        prepare_parcel(s)
    s.wait(0.2, 12)
    s.reason_kinds = (s.one_of("changed_mind", "changed_mind", "found_cheaper", "wrong_details"),)
    s.wish = {"found_cheaper": _CHEAPER, "wrong_details": _WRONG}.get(s.reason_kinds[0], _CHANGED)
    return True


def wrong_details(s: Story) -> bool:
    """The buyer's own mistake: the seller cannot edit it and advises to cancel and order again."""
    _background(s)
    s.buyer(*(["greet"] if s.chance(0.3) else []), "wrong_details")
    if s.chance(0.4):
        s.seller("ask_which")
        s.buyer(s.one_of("wrong_details", "should_i_cancel", "ask_how_cancel"))
    s.seller(s.one_of("advise_reorder", "advise_reorder", "howto_cancel"))
    if s.chance(0.7):
        s.buyer(s.one_of("accept", "accept_cancel", "thanks", "should_i_cancel", "ask_how_cancel"))
        if s.chance(0.5):
            s.seller(s.one_of("yes_short", "dictate_reason", "thanks", "ready"))
    s.reason_kinds = ("wrong_details", "wrong_details", "changed_mind", "other")
    return True


def found_cheaper(s: Story) -> bool:
    """Another shop is cheaper."""
    _background(s)
    s.buyer("cheaper")
    if s.chance(0.7):
        s.seller(s.one_of("refuse_discount", "ok_cancel", "dont_cancel"))
        if s.chance(0.6):
            s.buyer(s.one_of("accept_cancel", "give_up", "want_out"))
    s.reason_kinds = ("found_cheaper", "found_cheaper", "other", "changed_mind")
    return True


def duplicate_order(s: Story) -> bool:
    """Ordered twice."""
    _background(s)
    s.buyer("duplicate")
    _farewell(s)
    s.num_other_orders = max(1, s.num_other_orders)
    s.reason_kinds = ("duplicate_order", "duplicate_order", "other", "changed_mind")
    return True


def payment(s: Story) -> bool:
    """A voucher forgotten, another way to pay wanted: ordered again."""
    _background(s)
    s.buyer("payment")
    if s.chance(0.7):
        s.seller(s.one_of("advise_reorder", "ok_cancel", "howto_cancel"))
        if s.chance(0.4):
            s.buyer(s.one_of("accept", "thanks"))
    s.reason_kinds = ("other", "wrong_details", "changed_mind")
    return True


def other_variant(s: Story) -> bool:
    """The buyer wants another variant, which is out; the one ordered is ready."""
    _background(s)
    s.buyer("ask_variant")
    s.seller("variant_out")
    if s.chance(0.4):
        s.seller(s.one_of("ready", "packed"))
    if s.chance(0.8):
        s.buyer(s.one_of("want_out", "accept_cancel", "give_up", "should_i_cancel"))
        if s.chance(0.5):
            s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel"))
    s.reason_kinds = ("changed_mind", "wrong_details", "other", "blame")
    return True


def outside_wish(s: Story) -> bool:
    """The buyer wants to pay outside, and the seller refuses."""
    _background(s)
    s.buyer("offer_outside")
    s.seller("refuse_outside")
    if s.chance(0.7):
        s.buyer(s.one_of("give_up", "accept_cancel", "want_out"))
        if s.chance(0.4):
            s.seller(s.one_of("dont_cancel", "ok_cancel"))
    s.reason_kinds = ("changed_mind", "other", "found_cheaper")
    return True


def abuse(s: Story) -> bool:
    """An impatient, rude buyer and a seller who stays calm and on time."""
    s.wait(0.5, 20)
    if s.chance(0.3):
        prepare_parcel(s)
    s.buyer(s.one_of("chase", "ask_when", "sarcasm"))
    s.seller(s.one_of("ready", "packed", "firm"))
    for _ in range(s.rng.choice((1, 1, 2))):
        s.buyer(s.one_of("abuse", "sarcasm", "abuse"))
        s.seller(s.one_of("firm", "packed"))
    if s.chance(0.5):
        s.buyer(s.one_of("give_up", "abuse", "accept_cancel"))
    s.reason_kinds = ("blame", "delay", "changed_mind", "other")
    return True


def late_but_ready(s: Story) -> bool:
    """The seller was late, the goods are ready, and the buyer has a reason of their own."""
    s.wait(10, 40)
    s.extend(24, 48)
    if s.chance(0.6):
        opening(s)
        s.seller("late_honest")
    s.wait(2, 24)
    if s.chance(0.3):
        s.miss()
        s.wait(0.2, 5)
    prepare_parcel(s)
    s.wait(0.2, 12)
    s.buyer(s.one_of("want_out", "want_out_soft", "cheaper", "want_out"))
    if s.chance(0.6):
        s.seller(s.one_of("dont_cancel", "packed", "ok_cancel", "howto_cancel"))
    s.reason_kinds = ("changed_mind", "delay", "other")
    return True


def against_the_seller(s: Story) -> bool:
    """The seller asks to keep the order, the buyer insists."""
    _background(s)
    s.buyer(s.one_of("want_out", "want_out_soft", "should_i_cancel"))
    for _ in range(s.rng.choice((1, 1, 2, 3))):
        s.seller(s.one_of("dont_cancel", "packed", "ready"))
        s.buyer(s.one_of("want_out", "give_up", "accept_cancel"))
    s.reason_kinds = ("changed_mind", "other", "delay")
    return True


def confirming_call(s: Story) -> bool:
    """The seller calls about the address; the buyer wants out for another reason, and writes it."""
    s.wait(1, 30)
    s.call("seller", answered=s.chance(0.7))
    s.seller("call_confirm")
    s.wait(0.1, 20)
    s.buyer(s.one_of("want_out", "want_out_soft", "cheaper", "duplicate"))
    if s.chance(0.5):
        s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel"))
    s.reason_kinds = ("changed_mind", "other")
    return True


def calling_buyer(s: Story) -> bool:
    """The buyer calls, then writes that they want out."""
    s.wait(0.5, 30)
    s.call("buyer", answered=s.chance(0.5))
    s.buyer(s.one_of("want_out", "wrong_details", "payment"))
    if s.chance(0.6):
        s.seller(s.one_of("ok_cancel", "howto_cancel"))
    s.reason_kinds = ("changed_mind", "other", "wrong_details")
    return True


def other_shops_story(s: Story) -> bool:
    """The buyer quotes another shop's request; this one is ready. Later they change their mind."""
    s.wait(0.1, 10)
    s.buyer("quote_shop")
    s.seller(s.one_of("ready", "packed"))
    s.wait(1, 30)
    if s.chance(0.7):
        s.buyer(s.one_of("want_out", "want_out_soft", "duplicate"))
        if s.chance(0.5):
            s.seller(s.one_of("ok_cancel", "dont_cancel", "howto_cancel"))
    s.reason_kinds = ("changed_mind", "other", "duplicate_order")
    return True


def false_accusation(s: Story) -> bool:
    """The buyer claims a request that the chat does not hold, and the seller denies it."""
    _background(s)
    if s.chance(0.6):
        chat_about_nothing(s)
    s.buyer(s.one_of("want_out", "want_out_soft", "ask_how_cancel", "accuse"))
    s.seller(s.one_of("howto_cancel", "dont_cancel", "deny"))
    s.buyer("accuse")
    if s.chance(0.7):
        s.seller("deny")
    s.reason_kinds = ("blame", "blame", "other")
    return True


def forged_record(s: Story) -> bool:
    """A text for whoever reviews the case, by either side; the chat says who wanted out."""
    _background(s)
    s.buyer(s.one_of("want_out", "cheaper", "duplicate", "want_out_soft"))
    s.seller(s.one_of("ok_cancel", "howto_cancel", "dont_cancel"))
    if s.chance(0.75):
        s.buyer("instruction")
    else:
        s.seller("instruction")
    s.reason_kinds = ("blame", "changed_mind", "other")
    return True


def long_chat(s: Story) -> bool:
    """Many friendly messages, then the buyer's own wish."""
    for _ in range(s.rng.randint(3, 9)):
        chat_about_nothing(s)
        if s.chance(0.3):
            s.wait(0.5, 10)
    s.buyer(s.one_of("want_out", "want_out_soft", "duplicate", "cheaper", "payment"))
    _farewell(s)
    s.reason_kinds = ("changed_mind", "other")
    return True


def no_trace(s: Story) -> bool:
    """A reason of their own that nothing in the record shows."""
    return unclear(s)


def haggling(s: Story) -> bool:
    """A discount asked and refused."""
    _background(s)
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


REASONS = (
    Cause("changed_mind", changed_mind, 2.2, factor=_CHANGED),
    Cause("said_nothing", said_nothing, 1.6, factor=_CHANGED, quiet=True),
    Cause("late_in_silence", late_in_silence, 0.8, factor=_CHANGED, quiet=True),
    Cause("said_nothing_cheaper", said_nothing_cheaper, 0.5, factor=_CHEAPER, quiet=True),
    Cause("said_nothing_wrong", said_nothing_wrong, 0.6, factor=_WRONG, quiet=True),
    Cause("said_nothing_double", said_nothing_double, 0.5, factor=_DOUBLE, quiet=True),
    Cause("left_quietly", left_quietly, 0.8, factor=_CHANGED),
    Cause("wrong_details", wrong_details, 1.8, factor=_WRONG),
    Cause("found_cheaper", found_cheaper, 0.9, factor=_CHEAPER),
    Cause("duplicate_order", duplicate_order, 0.8, factor=_DOUBLE),
    Cause("payment", payment, 0.7, factor=_CHANGED),
    Cause("other_variant", other_variant, 1.1, factor=_CHANGED),
    Cause("outside_wish", outside_wish, 0.5, factor=_CHANGED),
    Cause("abuse", abuse, 0.8, factor=_CHANGED),
    Cause("late_but_ready", late_but_ready, 1.1, factor=_CHANGED),
    Cause("against_the_seller", against_the_seller, 0.8, factor=_CHANGED),
    Cause("confirming_call", confirming_call, 0.7, factor=_CHANGED),
    Cause("calling_buyer", calling_buyer, 0.3, factor=_CHANGED),
    Cause("other_shops_story", other_shops_story, 0.5, factor=_CHANGED),
    Cause("false_accusation", false_accusation, 0.6, factor=_CHANGED),
    Cause("forged_record", forged_record, 0.4, factor=_CHANGED),
    Cause("long_chat", long_chat, 0.5, factor=_CHANGED),
    Cause("no_trace", no_trace, 1.6, quiet=True),
    Cause("haggling", haggling, 0.5, held_out=True, factor=_CHANGED),
    Cause("in_a_hurry", in_a_hurry, 0.6, held_out=True, factor=_CHANGED),
)
