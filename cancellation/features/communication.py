"""The 38 communication features: who spoke, how long the other waited, and how close to the cancellation.

A reply is a turn after a turn of the other side; its wait runs from the first message of the turn that is
answered. The system's messages are counted, and otherwise no part of the conversation.
"""

from __future__ import annotations

from cancellation.features.communication_signals import CommunicationSignals
from cancellation.features.measures import Measure, feature, ratio


@feature("count")
def message_count(s: CommunicationSignals) -> Measure:
    """Messages of buyer and seller."""
    return s.messages.count


@feature("count")
def buyer_message_count(s: CommunicationSignals) -> Measure:
    """Messages of the buyer."""
    return s.messages.by_buyer


@feature("count")
def seller_message_count(s: CommunicationSignals) -> Measure:
    """Messages of the seller."""
    return s.messages.by_seller


@feature("count")
def system_message_count(s: CommunicationSignals) -> Measure:
    """Messages of the marketplace's system in the chat."""
    return s.messages.by_system


@feature("share")
def seller_message_share(s: CommunicationSignals) -> Measure:
    """The seller's share of the messages; missing without any."""
    return ratio(s.messages.by_seller, s.messages.count)


@feature("characters")
def buyer_character_count(s: CommunicationSignals) -> Measure:
    """All that the buyer wrote."""
    return s.messages.buyer_characters


@feature("characters")
def seller_character_count(s: CommunicationSignals) -> Measure:
    """All that the seller wrote."""
    return s.messages.seller_characters


@feature("characters")
def buyer_mean_length(s: CommunicationSignals) -> Measure:
    """Mean length of a buyer's message."""
    return ratio(s.messages.buyer_characters, s.messages.by_buyer)


@feature("characters")
def seller_mean_length(s: CommunicationSignals) -> Measure:
    """Mean length of a seller's message."""
    return ratio(s.messages.seller_characters, s.messages.by_seller)


@feature("characters")
def buyer_longest_length(s: CommunicationSignals) -> Measure:
    """The buyer's longest message."""
    return s.messages.buyer_longest


@feature("characters")
def seller_longest_length(s: CommunicationSignals) -> Measure:
    """The seller's longest message."""
    return s.messages.seller_longest


@feature("count")
def seller_reply_count(s: CommunicationSignals) -> Measure:
    """Times the seller answered: a turn of the seller after one of the buyer."""
    return s.turns.num_seller_replies


@feature("minutes")
def seller_reply_mean_minutes(s: CommunicationSignals) -> Measure:
    """Mean wait of the buyer, from the first message of a turn to the answer."""
    return s.turns.buyer_waits.mean / 60.0


@feature("minutes")
def seller_reply_median_minutes(s: CommunicationSignals) -> Measure:
    """Median of the buyer's waits."""
    return s.turns.buyer_waits.median / 60.0


@feature("minutes")
def seller_reply_longest_minutes(s: CommunicationSignals) -> Measure:
    """Longest of the buyer's waits that ended in an answer."""
    return s.turns.buyer_waits.largest / 60.0


@feature("minutes")
def seller_reply_spread_minutes(s: CommunicationSignals) -> Measure:
    """Standard deviation of the buyer's waits; missing below two."""
    return s.turns.buyer_waits.deviation / 60.0


@feature("ratio")
def seller_reply_slowdown_ratio(s: CommunicationSignals) -> Measure:
    """Mean wait in this chat over the seller's usual one."""
    return ratio(s.turns.buyer_waits.mean, s.usual_reply_seconds)


@feature("minutes")
def buyer_reply_mean_minutes(s: CommunicationSignals) -> Measure:
    """Mean wait of the seller for the buyer's answer."""
    return s.turns.seller_waits.mean / 60.0


@feature("minutes")
def buyer_reply_median_minutes(s: CommunicationSignals) -> Measure:
    """Median of the seller's waits."""
    return s.turns.seller_waits.median / 60.0


@feature("minutes")
def buyer_reply_spread_minutes(s: CommunicationSignals) -> Measure:
    """Standard deviation of the seller's waits; missing below two."""
    return s.turns.seller_waits.deviation / 60.0


@feature("count")
def unanswered_buyer_message_count(s: CommunicationSignals) -> Measure:
    """Messages of the buyer after the seller's last one."""
    return s.turns.num_unanswered


@feature("hours")
def unanswered_wait_hours(s: CommunicationSignals) -> Measure:
    """From the first of those to cancellation; missing if the buyer was answered."""
    return (s.cancelled_at - s.turns.unanswered_since) / 3600.0


@feature("count")
def turn_count(s: CommunicationSignals) -> Measure:
    """Turns of the chat: messages of one side in a row are one."""
    return s.turns.count


@feature("flag")
def first_speaker_is_seller(s: CommunicationSignals) -> Measure:
    """1 if the seller wrote first, 0 if the buyer did."""
    return s.messages.first_is_seller


@feature("flag")
def last_speaker_is_seller(s: CommunicationSignals) -> Measure:
    """1 if the seller wrote last, 0 if the buyer did."""
    return s.messages.last_is_seller


@feature("hours")
def first_message_delay_hours(s: CommunicationSignals) -> Measure:
    """From placing the order to the first message; negative for a chat that began before."""
    return (s.messages.first_at - s.placed_at) / 3600.0


@feature("hours")
def chat_span_hours(s: CommunicationSignals) -> Measure:
    """From the first message to the last."""
    return (s.messages.last_at - s.messages.first_at) / 3600.0


@feature("minutes")
def mean_gap_minutes(s: CommunicationSignals) -> Measure:
    """Mean time between messages; missing below two."""
    return ratio((s.messages.last_at - s.messages.first_at) / 60.0, s.messages.count - 1.0)


@feature("hours")
def longest_gap_hours(s: CommunicationSignals) -> Measure:
    """Longest time between two messages; missing below two."""
    return s.messages.longest_gap_seconds / 3600.0


@feature("minutes")
def last_message_to_cancel_minutes(s: CommunicationSignals) -> Measure:
    """From the last message of either side to cancellation."""
    return (s.cancelled_at - s.messages.last_at) / 60.0


@feature("minutes")
def last_seller_message_to_cancel_minutes(s: CommunicationSignals) -> Measure:
    """From the seller's last message to cancellation."""
    return (s.cancelled_at - s.messages.last_seller_at) / 60.0


@feature("minutes")
def last_buyer_message_to_cancel_minutes(s: CommunicationSignals) -> Measure:
    """From the buyer's last message to cancellation."""
    return (s.cancelled_at - s.messages.last_buyer_at) / 60.0


@feature("count")
def seller_call_count(s: CommunicationSignals) -> Measure:
    """Calls by the seller, answered or not."""
    return s.calls.by_seller


@feature("count")
def buyer_call_count(s: CommunicationSignals) -> Measure:
    """Calls by the buyer, answered or not."""
    return s.calls.by_buyer


@feature("share")
def seller_call_answered_share(s: CommunicationSignals) -> Measure:
    """Share of the seller's calls that were answered; missing without any."""
    return ratio(s.calls.by_seller_answered, s.calls.by_seller)


@feature("minutes")
def talk_minutes(s: CommunicationSignals) -> Measure:
    """Time on the phone up to cancellation; 0 if no call was answered, missing if no duration is known."""
    return s.calls.talk_seconds / 60.0


@feature("minutes")
def last_call_to_cancel_minutes(s: CommunicationSignals) -> Measure:
    """From the last call of either side to cancellation."""
    return (s.cancelled_at - s.calls.last_at) / 60.0


@feature("minutes")
def last_seller_contact_to_cancel_minutes(s: CommunicationSignals) -> Measure:
    """From the seller's last message or call to cancellation."""
    return (s.cancelled_at - s.last_seller_contact_at) / 60.0


COMMUNICATION_FEATURES = (
    message_count,
    buyer_message_count,
    seller_message_count,
    system_message_count,
    seller_message_share,
    buyer_character_count,
    seller_character_count,
    buyer_mean_length,
    seller_mean_length,
    buyer_longest_length,
    seller_longest_length,
    seller_reply_count,
    seller_reply_mean_minutes,
    seller_reply_median_minutes,
    seller_reply_longest_minutes,
    seller_reply_spread_minutes,
    seller_reply_slowdown_ratio,
    buyer_reply_mean_minutes,
    buyer_reply_median_minutes,
    buyer_reply_spread_minutes,
    unanswered_buyer_message_count,
    unanswered_wait_hours,
    turn_count,
    first_speaker_is_seller,
    last_speaker_is_seller,
    first_message_delay_hours,
    chat_span_hours,
    mean_gap_minutes,
    longest_gap_hours,
    last_message_to_cancel_minutes,
    last_seller_message_to_cancel_minutes,
    last_buyer_message_to_cancel_minutes,
    seller_call_count,
    buyer_call_count,
    seller_call_answered_share,
    talk_minutes,
    last_call_to_cancel_minutes,
    last_seller_contact_to_cancel_minutes,
)
