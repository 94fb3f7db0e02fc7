"""Traces that fit both sides: what is on record proves neither a push nor a wish of the buyer's own.

The cause behind may be either; whoever reads the record cannot tell, so the right label is inconclusive.
"""

from __future__ import annotations

from cancellation.simulation.circumstances import is_late, is_ready, pause
from cancellation.simulation.small_talk import chat_about_nothing, opening, prepare_parcel
from cancellation.simulation.story import HOUR, Story

_SILENT_REASONS = ("other", "none", "none", "other", "blame")


def unclear(s: Story) -> bool:
    """Leave one of the traces below, after which the buyer cancels without a reason that counts."""
    s.reason_kinds = _SILENT_REASONS
    if is_late(s) and not is_ready(s):
        prepare_parcel(s)
    pause(s)
    s.rng.choice(_TRACES)(s)
    last = s.calls[-1] if s.calls else None
    if last is not None and last.caller == "seller" and last.answered and s.now - last.at < 3 * HOUR:
        s.wait(3, 30)
    return False


def _missed_call(s: Story) -> None:
    s.call("seller", answered=False)
    if s.chance(0.5):
        s.wait(0.1, 8)
    s.reason_kinds = ("other", "none", "changed_mind", "blame")


def _old_call(s: Story) -> None:
    s.call("seller", answered=True)
    s.wait(4, 30)
    s.reason_kinds = ("changed_mind", "other", "none", "blame")


def _buyers_call(s: Story) -> None:
    s.call("buyer", answered=True)
    if s.chance(0.3):
        s.buyer("phone_ok")


def _withdrawn(s: Story) -> None:
    opening(s)
    s.system("deleted")
    s.now += 40.0
    s.buyer(s.one_of("accept", "thanks", "accept_cancel", "short"))


def _said_elsewhere(s: Story) -> None:
    if s.chance(0.6):
        s.buyer(s.one_of("accuse_phone", "phone_ok"))
        s.seller(s.one_of("deny", "greet", "short"))
    else:
        s.seller("see_message")
        s.buyer(s.one_of("accept", "short", "accept_cancel"))


def _nothing(s: Story) -> None:
    s.now = max(s.now, s.deadline_at - 30 * HOUR) if s.chance(0.4) else s.now
    s.wait(0.1, 20)


def _small_talk(s: Story) -> None:
    chat_about_nothing(s)
    s.wait(0.2, 20)


def _mild_delay(s: Story) -> None:
    """One delay, well explained, and a buyer who goes: neither asked to nor with a reason of their own."""
    if s.chance(0.4):
        s.buyer("ask_when")
    s.seller("late_honest")
    s.buyer(s.one_of("accept_cancel", "short", "accept"))
    if s.chance(0.3):
        s.seller(s.one_of("ok_cancel", "short"))


def _open_choice(s: Story) -> None:
    """The buyer asks about time, the seller leaves it open, and the buyer goes without a word of their own."""
    s.buyer(s.one_of("ask_when", "chase"))
    s.seller(s.one_of("late_honest", "ready"), s.one_of("if_cannot_wait", "offer_choice"))
    if s.chance(0.6):
        s.buyer(s.one_of("accept", "short", "accept_cancel"))


def _bare_question(s: Story) -> None:
    """Somebody talks of cancelling, but who wanted it is not on record."""
    s.buyer(s.one_of("ask_how_cancel", "should_i_cancel", "short"))
    if s.chance(0.5):
        s.seller(s.one_of("short", "howto_cancel", "ask_which"))


def _pasted(s: Story) -> None:
    """The buyer writes a line as if it were the seller's; the seller never wrote it, and denies it or is silent."""
    s.buyer("forge_seller")
    if s.chance(0.6):
        s.seller(s.one_of("deny", "ready", "short"))
    s.reason_kinds = ("blame", "other", "none")


def _word_against_word(s: Story) -> None:
    s.buyer("accuse")
    s.seller(s.one_of("deny", "short", "no_need_cancel"))
    s.reason_kinds = ("blame", "other", "none")


_TRACES = (
    _missed_call,
    _old_call,
    _buyers_call,
    _withdrawn,
    _said_elsewhere,
    _nothing,
    _nothing,
    _nothing,
    _small_talk,
    _mild_delay,
    _open_choice,
    _bare_question,
    _pasted,
    _word_against_word,
)
