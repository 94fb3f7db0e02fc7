"""What the communication features are made of, for one event and for many: counts, waits, last instants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan

import numpy as np

from cancellation.events.event import Call, Event, Message
from cancellation.features.measures import Array, Groups, Measure, Spread, column, flat, later, number, spread_of

_SIDES = {"buyer": 0.0, "seller": 1.0, "system": -1.0}


@dataclass(slots=True)
class MessageSignals:
    """What buyer and seller wrote: counts, lengths in characters, instants in epoch seconds."""

    count: Measure
    by_buyer: Measure
    by_seller: Measure
    by_system: Measure
    buyer_characters: Measure
    seller_characters: Measure
    buyer_longest: Measure
    seller_longest: Measure
    first_is_seller: Measure
    last_is_seller: Measure
    first_at: Measure
    last_at: Measure
    last_buyer_at: Measure
    last_seller_at: Measure
    longest_gap_seconds: Measure


@dataclass(slots=True)
class TurnSignals:
    """Messages of one side in a row: how many such turns, how long each side waited for the other's, in seconds."""

    count: Measure
    num_unanswered: Measure
    """Messages of the buyer in the last turn, if it is the buyer's."""
    unanswered_since: Measure
    num_seller_replies: Measure
    buyer_waits: Spread
    """For the seller's reply."""
    seller_waits: Spread
    """For the buyer's reply."""


@dataclass(slots=True)
class CallSignals:
    """Calls: counts, seconds of talk, instants in epoch seconds."""

    by_seller: Measure
    by_buyer: Measure
    by_seller_answered: Measure
    talk_seconds: Measure
    last_at: Measure
    last_seller_at: Measure


@dataclass(slots=True)
class CommunicationSignals:
    """All of an event, or of each of many; NaN where unknown or without meaning."""

    cancelled_at: Measure
    placed_at: Measure
    usual_reply_seconds: Measure
    messages: MessageSignals
    turns: TurnSignals
    calls: CallSignals
    last_seller_contact_at: Measure


def communication_signals(event: Event) -> CommunicationSignals:
    """Collect the signals of one event."""
    chat = [message for message in event.chat if message.sender != "system"]
    messages, calls = _message_signals(event, chat), _call_signals(event)
    return CommunicationSignals(
        event.cancelled_at,
        event.order.placed_at,
        number(event.seller_history.mean_reply_seconds),
        messages,
        _turn_signals(chat, is_known="chat" not in event.absent),
        calls,
        later(messages.last_seller_at, calls.last_seller_at),
    )


def _message_signals(event: Event, chat: Sequence[Message]) -> MessageSignals:
    buyer = [message for message in chat if message.sender == "buyer"]
    seller = [message for message in chat if message.sender == "seller"]
    counts = [len(chat), len(buyer), len(seller), len(event.chat) - len(chat)]
    lengths = [[len(message.text) for message in side] for side in (buyer, seller)]
    is_known = "chat" not in event.absent
    return MessageSignals(
        *(float(value) if is_known else nan for value in (*counts, *map(sum, lengths))),
        *(float(max(of_side)) if of_side else nan for of_side in lengths),
        _SIDES[chat[0].sender] if chat else nan,
        _SIDES[chat[-1].sender] if chat else nan,
        chat[0].at if chat else nan,
        chat[-1].at if chat else nan,
        buyer[-1].at if buyer else nan,
        seller[-1].at if seller else nan,
        max([after.at - before.at for before, after in pairwise(chat)]) if len(chat) > 1 else nan,
    )


def _turn_signals(chat: Sequence[Message], *, is_known: bool) -> TurnSignals:
    speaker, num_turns, length, turn_at = "", 0.0, 0.0, nan
    waits: dict[str, list[float]] = {"buyer": [], "seller": []}
    for message in chat:
        if message.sender != speaker:
            if speaker:
                waits[speaker].append(message.at - turn_at)
            speaker, turn_at, length = message.sender, message.at, 0.0
            num_turns += 1.0
        length += 1.0
    is_open = speaker == "buyer"
    return TurnSignals(
        num_turns if is_known else nan,
        (length if is_open else 0.0) if is_known else nan,
        turn_at if is_open else nan,
        float(len(waits["buyer"])) if is_known else nan,
        spread_of(waits["buyer"]),
        spread_of(waits["seller"]),
    )


def _call_signals(event: Event) -> CallSignals:
    if "calls" in event.absent:
        return CallSignals(nan, nan, nan, nan, nan, nan)
    calls = event.calls
    seller = [call for call in calls if call.caller == "seller"]
    answered = [call for call in calls if call.answered]
    timed = [call for call in answered if call.duration_seconds is not None]
    talk = nan if answered and not timed else 0.0
    for call in timed:
        talk += _talk_seconds(call, event.cancelled_at)
    return CallSignals(
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
    chats = _Chats(events)
    messages, calls = _message_table(chats), _call_table(events)
    return CommunicationSignals(
        column(event.cancelled_at for event in events),
        column(event.order.placed_at for event in events),
        column(event.seller_history.mean_reply_seconds for event in events),
        messages,
        _turn_table(chats),
        calls,
        np.fmax(messages.last_seller_at, calls.last_seller_at),
    )


class _Chats:
    """The messages of many chats, those of the system counted and left out."""

    def __init__(self, events: Sequence[Event]) -> None:
        everything = Groups.of_lengths([len(event.chat) for event in events])
        messages = [message for event in events for message in event.chat]
        side = flat(_SIDES[message.sender] for message in messages)
        spoken = side >= 0.0
        self.groups, self.side = everything.where(spoken), side[spoken]
        self.by_system = everything.count() - self.groups.count()
        self.at = flat(message.at for message in messages)[spoken]
        self.length = flat(len(message.text) for message in messages)[spoken]
        self.is_buyer, self.is_seller = self.side == 0.0, self.side == 1.0
        self.follows = np.zeros(len(self.at), dtype=bool)
        """Whether the message before is of the same chat."""
        self.follows[1:] = self.groups.owner[1:] == self.groups.owner[:-1]
        self._unknown = np.array(["chat" in event.absent for event in events], dtype=bool)

    def known(self, values: Array) -> Array:
        """Values (events,), NaN where there is no telling what was written."""
        return np.where(self._unknown, nan, values)


def _message_table(chats: _Chats) -> MessageSignals:
    groups, at, length, follows = chats.groups, chats.at, chats.length, chats.follows
    buyer, seller = groups.where(chats.is_buyer), groups.where(chats.is_seller)
    return MessageSignals(
        chats.known(groups.count()),
        chats.known(buyer.count()),
        chats.known(seller.count()),
        chats.known(chats.by_system),
        chats.known(buyer.total(length[chats.is_buyer])),
        chats.known(seller.total(length[chats.is_seller])),
        buyer.largest(length[chats.is_buyer]),
        seller.largest(length[chats.is_seller]),
        groups.first(chats.side),
        groups.last(chats.side),
        groups.first(at),
        groups.last(at),
        buyer.last(at[chats.is_buyer]),
        seller.last(at[chats.is_seller]),
        groups.where(follows).largest(np.diff(at, prepend=nan)[follows]),
    )


def _turn_table(chats: _Chats) -> TurnSignals:
    groups, at, is_seller, follows = chats.groups, chats.at, chats.is_seller, chats.follows
    begins = ~follows
    begins[1:] |= is_seller[1:] != is_seller[:-1]
    turns, turn_at, by_seller = groups.where(begins), at[begins], is_seller[begins]
    lengths = np.bincount(np.cumsum(begins) - 1, minlength=len(turn_at)).astype(np.float64)
    waits = np.diff(turn_at, prepend=nan)
    replies, answers = follows[begins] & by_seller, follows[begins] & ~by_seller
    is_open = groups.last(chats.side) == 0.0
    return TurnSignals(
        chats.known(turns.count()),
        chats.known(np.where(is_open, turns.last(lengths), 0.0)),
        np.where(is_open, turns.last(turn_at), nan),
        chats.known(turns.where(replies).count()),
        turns.where(replies).spread(waits[replies]),
        turns.where(answers).spread(waits[answers]),
    )


def _call_table(events: Sequence[Event]) -> CallSignals:
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
    return CallSignals(
        *(np.where(unknown, nan, groups.where(mask).count()) for mask in counts),
        np.where(unknown | untimed, nan, talk),
        groups.last(at),
        groups.where(by_seller).last(at[by_seller]),
    )
