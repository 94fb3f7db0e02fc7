"""What the communication features are made of, for one event and for many: counts, waits, last instants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan

import numpy as np
import numpy.typing as npt

from cancellation.events.event import Call, Event, Message
from cancellation.features.measures import Array, Groups, Measure, column, flat, later, number, spread_of

_SIDES = {"buyer": 0.0, "seller": 1.0, "system": -1.0}


@dataclass(slots=True)
class CommunicationSignals:
    """Instants in epoch seconds, waits in seconds, counts and flags; NaN where unknown or without meaning."""

    cancelled_at: Measure
    placed_at: Measure
    usual_reply_seconds: Measure
    num_messages: Measure
    num_buyer_messages: Measure
    num_seller_messages: Measure
    num_system_messages: Measure
    buyer_characters: Measure
    seller_characters: Measure
    buyer_longest: Measure
    seller_longest: Measure
    num_turns: Measure
    num_unanswered: Measure
    unanswered_since: Measure
    first_is_seller: Measure
    last_is_seller: Measure
    first_message_at: Measure
    last_message_at: Measure
    last_buyer_message_at: Measure
    last_seller_message_at: Measure
    longest_gap_seconds: Measure
    num_seller_replies: Measure
    seller_reply_mean: Measure
    seller_reply_median: Measure
    seller_reply_longest: Measure
    seller_reply_spread: Measure
    buyer_reply_mean: Measure
    buyer_reply_median: Measure
    buyer_reply_spread: Measure
    num_seller_calls: Measure
    num_buyer_calls: Measure
    num_answered_seller_calls: Measure
    talk_seconds: Measure
    last_call_at: Measure
    last_seller_contact_at: Measure


def communication_signals(event: Event) -> CommunicationSignals:
    """Collect the signals of one event."""
    chat = [message for message in event.chat if message.sender != "system"]
    buyer = [message for message in chat if message.sender == "buyer"]
    seller = [message for message in chat if message.sender == "seller"]
    num_turns, turn_at, buyer_waits, seller_waits = _waits(chat)
    num_unanswered, unanswered_since = _unanswered(chat, turn_at)
    reply_mean, reply_median, reply_longest, reply_spread = spread_of(buyer_waits)
    answer_mean, answer_median, _, answer_spread = spread_of(seller_waits)
    counts = [len(chat), len(buyer), len(seller), len(event.chat) - len(chat)]
    characters = [_characters(buyer), _characters(seller)]
    replies = float(len(buyer_waits))
    if "chat" in event.absent:
        counts, characters = [nan] * 4, [nan] * 2
        num_turns = num_unanswered = replies = nan
    *calls, last_seller_call_at = _call_signals(event)
    last_seller_message_at = seller[-1].at if seller else nan
    return CommunicationSignals(
        event.cancelled_at,
        event.order.placed_at,
        number(event.seller_history.mean_reply_seconds),
        *map(float, counts),
        *characters,
        float(max([len(message.text) for message in buyer])) if buyer else nan,
        float(max([len(message.text) for message in seller])) if seller else nan,
        num_turns,
        num_unanswered,
        unanswered_since,
        _SIDES[chat[0].sender] if chat else nan,
        _SIDES[chat[-1].sender] if chat else nan,
        chat[0].at if chat else nan,
        chat[-1].at if chat else nan,
        buyer[-1].at if buyer else nan,
        last_seller_message_at,
        max([after.at - before.at for before, after in pairwise(chat)]) if len(chat) > 1 else nan,
        replies,
        reply_mean,
        reply_median,
        reply_longest,
        reply_spread,
        answer_mean,
        answer_median,
        answer_spread,
        *calls,
        later(last_seller_message_at, last_seller_call_at),
    )


def _characters(messages: Sequence[Message]) -> float:
    return float(sum([len(message.text) for message in messages]))


def _waits(chat: Sequence[Message]) -> tuple[float, float, list[float], list[float]]:
    """Count turns; give the start of the last, the buyer's waits for the seller, the seller's for the buyer."""
    speaker, num_turns, turn_at = "", 0.0, nan
    buyer_waits: list[float] = []
    seller_waits: list[float] = []
    for message in chat:
        if message.sender != speaker:
            if speaker:
                (buyer_waits if speaker == "buyer" else seller_waits).append(message.at - turn_at)
            speaker, turn_at = message.sender, message.at
            num_turns += 1.0
    return num_turns, turn_at, buyer_waits, seller_waits


def _unanswered(chat: Sequence[Message], turn_at: float) -> tuple[float, float]:
    if not chat or chat[-1].sender != "buyer":
        return 0.0, nan
    count = 0.0
    for message in reversed(chat):
        if message.sender != "buyer":
            break
        count += 1.0
    return count, turn_at


def _call_signals(event: Event) -> tuple[float, float, float, float, float, float]:
    """Seller's calls, buyer's calls, seller's answered calls, talk seconds, last call, last call by the seller."""
    calls = event.calls
    seller = [call for call in calls if call.caller == "seller"]
    answered = [call for call in calls if call.answered]
    seconds = [_talk_seconds(call, event.cancelled_at) for call in answered if call.duration_seconds is not None]
    talk = 0.0
    for value in seconds:
        talk += value
    if answered and not seconds:
        talk = nan
    if "calls" in event.absent:
        return nan, nan, nan, nan, nan, nan
    return (
        float(len(seller)),
        float(len(calls) - len(seller)),
        float(len([call for call in seller if call.answered])),
        talk,
        calls[-1].at if calls else nan,
        seller[-1].at if seller else nan,
    )


def _talk_seconds(call: Call, cancelled_at: float) -> float:
    """How long a call lasted up to the cancellation: what was said after it cannot count."""
    left = cancelled_at - call.at
    duration = call.duration_seconds or 0.0
    return duration if duration < left else left


def communication_signal_table(events: Sequence[Event]) -> CommunicationSignals:
    """Collect the signals of many events as arrays."""
    everything = Groups.of_lengths([len(event.chat) for event in events])
    messages = [message for event in events for message in event.chat]
    side = flat(_SIDES[message.sender] for message in messages)
    spoken = side >= 0.0
    chat, side = everything.where(spoken), side[spoken]
    at = flat(message.at for message in messages)[spoken]
    length = flat(len(message.text) for message in messages)[spoken]
    is_buyer, is_seller = side == 0.0, side == 1.0
    buyer, seller = chat.where(is_buyer), chat.where(is_seller)
    unknown = np.array(["chat" in event.absent for event in events], dtype=bool)
    turns = _Turns(chat, at, is_seller)
    last_is_seller = chat.last(side)
    reply_mean, reply_median, reply_longest, reply_spread = turns.buyer_waits()
    answer_mean, answer_median, _, answer_spread = turns.seller_waits()
    last_seller_message_at = seller.last(at[is_seller])
    *calls, last_seller_call_at = _call_table(events)

    def known(values: Array) -> Array:
        return np.where(unknown, nan, values)

    return CommunicationSignals(
        column(event.cancelled_at for event in events),
        column(event.order.placed_at for event in events),
        column(event.seller_history.mean_reply_seconds for event in events),
        known(chat.count()),
        known(buyer.count()),
        known(seller.count()),
        known(everything.count() - chat.count()),
        known(buyer.total(length[is_buyer])),
        known(seller.total(length[is_seller])),
        buyer.largest(length[is_buyer]),
        seller.largest(length[is_seller]),
        known(turns.starts.count()),
        known(np.where(last_is_seller == 0.0, turns.last_length(), 0.0)),
        np.where(last_is_seller == 0.0, turns.starts.last(turns.at), nan),
        chat.first(side),
        last_is_seller,
        chat.first(at),
        chat.last(at),
        buyer.last(at[is_buyer]),
        last_seller_message_at,
        turns.longest_gap(),
        known(turns.num_seller_replies()),
        reply_mean,
        reply_median,
        reply_longest,
        reply_spread,
        answer_mean,
        answer_median,
        answer_spread,
        *calls,
        np.fmax(last_seller_message_at, last_seller_call_at),
    )


class _Turns:
    """The turns of many chats: where a turn starts, and how long the other side had waited for it."""

    def __init__(self, chat: Groups, at: Array, is_seller: npt.NDArray[np.bool_]) -> None:
        same_chat = np.zeros(len(at), dtype=bool)
        same_chat[1:] = chat.owner[1:] == chat.owner[:-1]
        begins = ~same_chat
        begins[1:] |= is_seller[1:] != is_seller[:-1]
        self.chat, self.message_at, self.same_chat = chat, at, same_chat
        self.turn_of_message = np.cumsum(begins) - 1
        self.starts = chat.where(begins)
        self.at = at[begins]
        self.answers = same_chat[begins]
        self.waits = np.diff(self.at, prepend=nan)
        self.by_seller = is_seller[begins]

    def buyer_waits(self) -> tuple[Array, Array, Array, Array]:
        mask = self.answers & self.by_seller
        return self.starts.where(mask).spread(self.waits[mask])

    def seller_waits(self) -> tuple[Array, Array, Array, Array]:
        mask = self.answers & ~self.by_seller
        return self.starts.where(mask).spread(self.waits[mask])

    def num_seller_replies(self) -> Array:
        return self.starts.where(self.answers & self.by_seller).count()

    def last_length(self) -> Array:
        """Messages in the last turn of each chat."""
        lengths = np.bincount(self.turn_of_message, minlength=len(self.at)).astype(np.float64)
        return self.starts.last(lengths)

    def longest_gap(self) -> Array:
        gaps = np.diff(self.message_at, prepend=nan)[self.same_chat]
        return self.chat.where(self.same_chat).largest(gaps)


def _call_table(events: Sequence[Event]) -> tuple[Array, ...]:
    groups = Groups.of_lengths([len(event.calls) for event in events])
    calls = [call for event in events for call in event.calls]
    at = flat(call.at for call in calls)
    by_seller = np.array([call.caller == "seller" for call in calls], dtype=bool)
    answered = np.array([call.answered for call in calls], dtype=bool)
    duration = column(call.duration_seconds for call in calls)
    cutoff = flat(event.cancelled_at for event in events)
    timed = answered & ~np.isnan(duration)
    talk = groups.where(timed).total(np.minimum(duration, cutoff[groups.owner] - at)[timed])
    untimed = (groups.where(answered).count() > 0.0) & (groups.where(timed).count() == 0.0)
    unknown = np.array(["calls" in event.absent for event in events], dtype=bool)
    counts = (by_seller, ~by_seller, by_seller & answered)
    return (
        *(np.where(unknown, nan, groups.where(mask).count()) for mask in counts),
        np.where(unknown | untimed, nan, talk),
        groups.last(at),
        groups.where(by_seller).last(at[by_seller]),
    )
