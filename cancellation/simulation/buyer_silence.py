"""Buyers who go without a word: only the reason they tick and the state of the order speak.

Where the order is late and nothing is packed, a reason of the buyer's own does not settle who wanted it.
"""

from __future__ import annotations

from cancellation.simulation.buyer_wishes import CHANGED, CHEAPER, DOUBLE, WRONG
from cancellation.simulation.circumstances import is_late, is_ready, pause
from cancellation.simulation.small_talk import chat_about_nothing, prepare_parcel
from cancellation.simulation.story import Story


def _own_reason_counts(s: Story) -> bool:
    return is_ready(s) or not is_late(s)


def said_nothing(s: Story) -> bool:
    """The buyer cancels without a word to the seller, early or while the parcel waits."""
    pause(s)
    if s.chance(0.3):
        prepare_parcel(s)
    s.reason_kinds = ("changed_mind",)
    return _own_reason_counts(s)


def late_in_silence(s: Story) -> bool:
    """The seller slips, by an extension, a day or a wrong flag; mostly the parcel is ready when the buyer goes."""
    s.wait(6, 40)
    if s.chance(0.5):
        s.extend(24, 48)
    if s.chance(0.12):
        s.entry("stock_out_flagged")
        s.wait(0.2, 6)
        prepare_parcel(s)
    if s.chance(0.7):
        s.miss()
        s.wait(0.2, 30)
    if s.chance(0.7):
        prepare_parcel(s)
    s.wait(0.2, 10)
    s.reason_kinds = (s.one_of("changed_mind", "changed_mind", "found_cheaper", "duplicate_order", "wrong_details"),)
    s.wish = {"found_cheaper": CHEAPER, "duplicate_order": DOUBLE, "wrong_details": WRONG}.get(
        s.reason_kinds[0], CHANGED
    )
    return _own_reason_counts(s)


def said_nothing_cheaper(s: Story) -> bool:
    """The same, for a better price."""
    pause(s)
    s.reason_kinds = ("found_cheaper",)
    return _own_reason_counts(s)


def said_nothing_wrong(s: Story) -> bool:
    """The same, for an address or a size."""
    pause(s)
    s.reason_kinds = ("wrong_details",)
    return _own_reason_counts(s)


def said_nothing_double(s: Story) -> bool:
    """The same, for a second order."""
    pause(s)
    s.num_other_orders = max(1, s.num_other_orders)
    s.reason_kinds = ("duplicate_order",)
    return _own_reason_counts(s)


def left_quietly(s: Story) -> bool:
    """The chat is about nothing, and the reason given is the buyer's own."""
    chat_about_nothing(s)
    if s.chance(0.3):
        prepare_parcel(s)
    if s.chance(0.6):
        s.wait(0.2, 12)
    s.reason_kinds = (s.one_of("changed_mind", "changed_mind", "found_cheaper", "wrong_details"),)
    s.wish = {"found_cheaper": CHEAPER, "wrong_details": WRONG}.get(s.reason_kinds[0], CHANGED)
    return _own_reason_counts(s)
