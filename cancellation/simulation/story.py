"""A story: one order on its way to cancellation, told act by act while its clock runs.

Causes (`seller_tactics`, `buyer_reasons`) call the methods below; what they leave behind, messages, calls,
entries and instants, becomes the event.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log

from cancellation.events.event import Call, FulfilmentEntry, Message
from cancellation.events.markets import Market
from cancellation.simulation.wording import TypingStyle, Wording, type_text, wording

HOUR = 3600.0
DAY = 86_400.0

_FACTOR_OF_ACT = {
    "no_stock": "chat.out_of_stock",
    "only_other": "chat.out_of_stock",
    "delay_bad": "chat.out_of_stock",
    "ask_cancel": "chat.asked_to_cancel",
    "ask_indirect": "chat.asked_to_cancel",
    "soft_request": "chat.asked_to_cancel",
    "bribe": "chat.asked_to_cancel",
    "closed": "chat.asked_to_cancel",
    "this_order_request": "chat.asked_to_cancel",
    "if_cannot_wait": "chat.asked_to_cancel",
    "plead_rating": "chat.asked_to_cancel",
    "push_again": "chat.asked_to_cancel",
    "yes_short": "chat.asked_to_cancel",
    "ask_reorder": "chat.asked_to_reorder",
    "price_up": "chat.price_change",
    "terms": "chat.price_change",
    "pay_outside": "chat.off_platform",
    "rude": "chat.pressure_or_rudeness",
}
_CONCLUSIONS = frozenset(
    ("ask_cancel", "ask_indirect", "ask_reorder", "advise_reorder", "offer_choice", "if_cannot_wait", "plain_out")
)
"""Acts that may be said as what follows from the act before."""

_BARE = frozenset(("short", "greet", "thanks", "forge_seller", "instruction", "chase", "accept", "sarcasm", "abuse"))
"""Acts that people write without an address or a closing word."""

_ELABORATED = frozenset(
    (
        *("ask_cancel", "ask_indirect", "soft_request", "no_stock", "pay_outside", "stall", "rude", "closed", "bribe"),
        *("agree_cancel", "howto_cancel", "advise_reorder", "dont_cancel", "no_need_cancel", "late_honest", "firm"),
        *("want_out", "want_out_soft", "own_not_yours", "not_suitable", "bad_past", "give_up", "hesitate"),
    )
)
"""Acts that people at times say twice in one message, in other words."""

_FACTOR_OF_WISH = {
    "want_out": "buyer.changed_mind",
    "want_out_soft": "buyer.changed_mind",
    "plain_out": "buyer.changed_mind",
    "own_not_yours": "buyer.changed_mind",
    "not_suitable": "buyer.changed_mind",
    "bad_past": "buyer.changed_mind",
    "payment": "buyer.changed_mind",
    "faster": "buyer.changed_mind",
    "cheaper": "buyer.found_cheaper",
    "duplicate": "buyer.duplicate_order",
    "wrong_details": "buyer.wrong_details",
}
_FACTOR_OF_ENTRY = {
    "deadline_extended": "fulfilment.deadline_extended",
    "deadline_missed": "fulfilment.deadline_missed",
    "stock_out_flagged": "fulfilment.stock_out_flagged",
}


@dataclass(slots=True)
class Voice:
    """One side of the chat: its language, the one it borrows from, how it types, how fast it answers."""

    side: str
    grammar: Wording
    foreign: Wording | None
    foreign_fraction: float
    style: TypingStyle
    reply_seconds: float
    together: float
    framing: float
    fragments: float
    elaboration: float

    @classmethod
    def draw(cls, side: str, language: str, market: Market, rng: random.Random, reply_seconds: float) -> Voice:
        """Draw a person of a market."""
        foreign = rng.choices(list(market.foreign), list(market.foreign.values()))[0]
        fraction = market.foreign[foreign] * rng.choice((0.0, 1.0, 2.5)) if foreign != language else 0.0
        style = TypingStyle.draw(rng, careful=side == "seller")
        habits = (
            rng.choice((0.1, 0.4, 0.8)),
            rng.choice((0.0, 0.1, 0.3)),
            rng.choice((0.0, 0.3)),
            rng.choice((0.0, 0.1, 0.4)),
        )
        return cls(side, wording(language), wording(foreign), fraction, style, reply_seconds, *habits)


@dataclass(slots=True)
class Story:
    """The order so far. Instants are epoch seconds; `now` is the story's clock."""

    rng: random.Random
    market: Market
    placed_at: float
    deadline_at: float
    buyer_voice: Voice
    seller_voice: Voice
    held_out_wording: bool | None = False
    now: float = 0.0
    chat: list[Message] = field(default_factory=list)
    message_acts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    fulfilment: list[FulfilmentEntry] = field(default_factory=list)
    factors: set[str] = field(default_factory=set)
    wish: str | None = None
    reason_kinds: Sequence[str] = ("other",)
    trouble: float = 0.4
    seller_presence: float = 0.6
    num_other_orders: int = 3
    contagion: float = 0.1
    excerpt_chance: float = 0.15
    promised_at: float = 0.0
    seconds_to_cancel: float = 400.0
    topics: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = self.placed_at
        self.promised_at = self.deadline_at

    def chance(self, probability: float) -> bool:
        """Toss a coin."""
        return self.rng.random() < probability

    def one_of(self, *acts: str) -> str:
        """Choose one of several acts."""
        return acts[int(self.rng.random() * len(acts))]

    def wait(self, low_hours: float, high_hours: float) -> None:
        """Let time pass, log-uniformly between two durations."""
        low, high = log(low_hours), log(high_hours)
        self.now += HOUR * 2.718281828459045 ** (low + self.rng.random() * (high - low))

    def buyer(self, *acts: str) -> None:
        """Let the buyer say one or several things."""
        self._say(self.buyer_voice, acts)
        for act in acts:
            self.wish = _FACTOR_OF_WISH.get(act, self.wish)

    def seller(self, *acts: str) -> None:
        """Let the seller say one or several things; what they amount to becomes a factor."""
        self._say(self.seller_voice, acts)
        for act in acts:
            if act in _FACTOR_OF_ACT:
                self.factors.add(_FACTOR_OF_ACT[act])

    def seller_long(self, acts: Sequence[str], *, characters: int) -> None:
        """Let the seller say things over and over in one message of about so many characters."""
        sentences = " ".join(self._compose(self.seller_voice, act) for act in acts)
        self.now += 2.0 + int(self.rng.random() * 40)
        names = " ".join(f"seller.{act}" for act in dict.fromkeys(acts))
        self._add("seller", (f"{sentences} " * (1 + characters // max(len(sentences), 1)))[:characters], names)

    def seller_quotes(self, act: str) -> None:
        """Let the seller write what a buyer would say, at times with the buyer's name before it."""
        text = self.seller_voice.grammar.say(f"buyer.{act}", self.rng, held_out=self.held_out_wording)
        self.now += 2.0 + int(self.rng.random() * 40)
        self._add("seller", f"{self.one_of('', '', 'buyer: ', 'BUYER: ', '[BUYER] ')}{text}", "seller.instruction")

    def message(self, sender: str, text: str) -> None:
        """Let somebody write what was not made of acts."""
        self._add(sender, text, "")

    def system(self, act: str) -> None:
        """Let the marketplace say something."""
        grammar = self.buyer_voice.grammar
        text = grammar.say(f"system.{act}", self.rng, held_out=self.held_out_wording)
        self._add("system", text, f"system.{act}")

    def _say(self, voice: Voice, acts: Sequence[str]) -> None:
        last = self.chat[-1] if self.chat else None
        if last is not None and last.sender != voice.side and self.now < last.at + 1.0:
            self.now += min(self.rng.lognormvariate(log(voice.reply_seconds), 0.9), 20 * HOUR)
        texts = [self._compose(voice, act) for act in acts]
        names = [f"{voice.side}.{act}" for act in acts]
        if len(texts) > 1 and self.rng.random() < voice.together:
            texts, names = [self._joined(voice, texts, acts[-1])], [" ".join(names)]
        elif self.rng.random() < voice.fragments and ", " in texts[0]:
            texts, names = [*texts[0].split(", ", 1), *texts[1:]], [names[0], *names]
        for text, name in zip(texts, names, strict=True):
            if self.chat and self.chat[-1].at >= self.now:
                self.now += 2.0 + int(self.rng.random() * 40)
            self._add(voice.side, text, name)

    def _compose(self, voice: Voice, act: str) -> str:
        rng = self.rng
        grammar = voice.grammar
        if voice.foreign is not None and rng.random() < voice.foreign_fraction:
            grammar = voice.foreign
        sentence = grammar.say(f"{voice.side}.{act}", rng, held_out=self.held_out_wording, memory=self.topics)
        if act in _ELABORATED and rng.random() < voice.elaboration:
            again = grammar.say(f"{voice.side}.{act}", rng, held_out=self.held_out_wording, memory=self.topics)
            sentence = f"{sentence}{rng.choice((', ', '. ', ' '))}{again}" if again != sentence else sentence
        if rng.random() < voice.framing and act not in _BARE:
            sentence = grammar.framed(voice.side, sentence, rng, self.topics)
        return type_text(sentence, grammar, voice.style, self.market.code, rng)

    def _joined(self, voice: Voice, texts: Sequence[str], last: str) -> str:
        """Write several acts as one message, at times the last one as what follows from the others."""
        spaced = voice.grammar.language[:2] not in ("th", "zh")
        if last in _CONCLUSIONS and self.chance(0.35):
            so = voice.grammar.word("so", self.rng)
            head = (". " if spaced else " ").join(texts[:-1])
            return f"{head}, {so} {texts[-1]}" if spaced else f"{head} {so}{texts[-1]}"
        return (self.one_of(". ", ", ", " ", "\n", "... ") if spaced else " ").join(texts)

    def _add(self, sender: str, text: str, acts: str) -> None:
        if text:
            self.message_acts.append(acts)
            self.chat.append(Message(float(int(self.now)), sender, text, len(self.chat)))

    def entry(self, kind: str, *, note: str | None = None, new_deadline_at: float | None = None) -> None:
        """Add a fulfilment entry now."""
        at = float(int(self.now))
        self.fulfilment.append(FulfilmentEntry(at, kind, new_deadline_at, note, len(self.fulfilment)))
        if kind in _FACTOR_OF_ENTRY:
            self.factors.add(_FACTOR_OF_ENTRY[kind])

    def extend(self, low_hours: float = 24, high_hours: float = 72) -> None:
        """Put the deadline off."""
        days = max(1, round(self.rng.uniform(low_hours, high_hours) / 24))
        self.deadline_at = max(self.deadline_at, self.placed_at) + days * DAY
        known = self.deadline_at if self.chance(0.9) else None
        self.entry("deadline_extended", note=self._note(), new_deadline_at=known)
        if self.chat and self.chance(0.2):
            self.now += 1.0
            self.system("extended")

    def _note(self) -> str | None:
        if not self.chance(0.3):
            return None
        return self.seller_voice.grammar.say("seller.late_honest", self.rng, held_out=self.held_out_wording)

    def miss(self) -> None:
        """Let the deadline pass."""
        self.now = max(self.now, self.deadline_at + 60.0)
        self.entry("deadline_missed")

    def call(self, caller: str, *, answered: bool, seconds: float | None = None) -> None:
        """Let one side call the other."""
        self.now += 20.0
        duration = None
        if answered:
            duration = float(int(seconds if seconds is not None else self.rng.lognormvariate(4.4, 0.7)))
        self.calls.append(Call(float(int(self.now)), caller, answered, duration, len(self.calls)))
        self.now += (duration or 25.0) + 2.0
        if caller == "seller" and answered:
            self.factors.add("call.from_seller")


@dataclass(frozen=True, slots=True)
class Cause:
    """A seller's tactic or a buyer's reason.

    `held_out` ones are kept from training sets; `quiet` ones mostly come without a chat; `factor` is the
    decision factor where the chat names none.
    """

    name: str
    act: Callable[[Story], bool]
    weight: float
    held_out: bool = False
    factor: str | None = None
    quiet: bool = False
