"""Ways to say things: for each language a grammar of acts (ask to cancel, chase, thank), and how people type.

A template is text with choices `(a|b|c)`, options `(a|)` and slots `{item}`; the files are `wording/<language>.toml`.
A quarter of the templates of every act is held out, chosen by a digest, so that a test set can be made of
wordings that no training event contains.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

LANGUAGES = ("id", "th", "vi", "tl", "ms", "en", "zh", "zh-Hans", "pt", "es")
"""Grammars; `zh-Hans` is `zh` in simplified characters."""

Part = str | tuple["Parts", ...]
Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """A reference to a list of the grammar."""

    name: str


@dataclass(frozen=True, slots=True)
class Wording:
    """One language's grammar, compiled. `shared` and `held_out` map an act, `side.name`, to its templates."""

    language: str
    shared: Mapping[str, Sequence[Parts]]
    held_out: Mapping[str, Sequence[Parts]]
    slots: Mapping[str, Sequence[Parts]]
    slang: Mapping[str, str]
    suffixes: Mapping[str, Sequence[str]]

    def say(
        self, act: str, rng: random.Random, *, held_out: bool | None = False, memory: dict[str, int] | None = None
    ) -> str:
        """Compose one sentence of an act; `held_out` picks those templates, None any.

        `memory` keeps what a conversation is about: the item, the app, the question last asked.
        """
        memory = {} if memory is None else memory
        if act in _PAIRED:
            templates = self.shared[act]
            if _PAIRED[act]:
                memory["topic"] = int(rng.random() * 100)
            return self._text(templates[memory.get("topic", 0) % len(templates)], rng, memory)
        if held_out is None:
            shared, kept = self.shared[act], self.held_out[act]
            index = int(rng.random() * (len(shared) + len(kept)))
            template = shared[index] if index < len(shared) else kept[index - len(shared)]
        else:
            templates = self.held_out[act] if held_out else self.shared[act]
            template = templates[int(rng.random() * len(templates))]
        return self._text(template, rng, memory)

    def framed(self, side: str, text: str, rng: random.Random, memory: dict[str, int]) -> str:
        """Put an address before a sentence, a closing word after it, or both."""
        kind = rng.random()
        before = f"{self.word(f'{side}_open', rng, memory)} " if kind < 0.6 else ""
        pause = rng.choice(_BREAKS) if text[-1:].isalnum() else " "
        after = f"{pause}{self.word(f'{side}_close', rng, memory)}" if kind > 0.4 else ""
        return " ".join(f"{before}{text}{after}".split())

    def word(self, slot: str, rng: random.Random, memory: dict[str, int] | None = None) -> str:
        """Compose one entry of a slot."""
        return self._text((Slot(slot),), rng, {} if memory is None else memory)

    def _text(self, template: Parts, rng: random.Random, memory: dict[str, int]) -> str:
        pieces: list[str] = []
        self._expand(template, rng, pieces, memory)
        return " ".join("".join(pieces).split())

    def _expand(self, parts: Parts, rng: random.Random, pieces: list[str], memory: dict[str, int]) -> None:
        for part in parts:
            if type(part) is str:
                pieces.append(part)
                continue
            if type(part) is Slot:
                options = self.slots[part.name]
                index = int(rng.random() * 1000)
                if part.name in _REMEMBERED:
                    index = memory.setdefault(part.name, index)
                self._expand(options[index % len(options)], rng, pieces, memory)
            else:
                self._expand(part[int(rng.random() * len(part))], rng, pieces, memory)


_BREAKS = (" ", ", ", ". ", " ")

# The same place in the lists of all languages means the same thing, so that a borrowed sentence stays on topic.
_REMEMBERED = frozenset({"item", "other_item", "variant", "app", "own_life", "fake_reason"})
_PAIRED = {"buyer.ask_product": True, "seller.answer_product": False, "seller.answer_no": False}
"""Question and answers by place in the list; neutral, so nothing of them is held out. True starts a topic."""


@cache
def wording(language: str) -> Wording:
    """Load and compile the grammar of a language."""
    base, _, script = language.partition("-")
    path = resources.files("cancellation.simulation") / "phrases" / f"{base}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    characters = str.maketrans(table["simplified"]["from"], table["simplified"]["to"]) if script == "Hans" else {}

    def compiled(templates: Sequence[str]) -> list[Parts]:
        return [compile_template(template.translate(characters)) for template in templates]

    shared: dict[str, Sequence[Parts]] = {}
    held_out: dict[str, Sequence[Parts]] = {}
    for side in ("seller", "buyer", "system", "reasons"):
        for name, templates in table[side].items():
            act = f"{side}.{name}"
            if act in _PAIRED:
                shared[act] = held_out[act] = compiled(templates)
                continue
            kept = _held_out(base, act, templates)
            held_out[act] = compiled([template for template in templates if template in kept])
            shared[act] = compiled([template for template in templates if template not in kept])
    slots = {name: compiled(options) for name, options in table["slots"].items()}
    return Wording(language, shared, held_out, slots, table.get("slang", {}), table.get("suffixes", {}))


def _held_out(language: str, act: str, templates: Sequence[str]) -> frozenset[str]:
    """A quarter of the templates, at least one; which ones does not change when others are added far away."""
    ranked = sorted(templates, key=lambda text: hashlib.sha256(f"{language}/{act}/{text}".encode()).digest())
    return frozenset(ranked[: max(1, round(0.25 * len(ranked)))])


def compile_template(template: str) -> Parts:
    """Compile a template into texts, slots and tuples of choices.

    Raises:
        ValueError: If brackets do not match.
    """
    options, end = _options(template, 0)
    if end != len(template) or len(options) != 1:
        raise ValueError(f"template {template!r}: expected matching brackets and choices only within them")
    return options[0]


def _options(template: str, start: int) -> tuple[tuple[Parts, ...], int]:
    """Read choices up to a closing bracket or the end; a position beyond the end means that it is missing."""
    options: list[Parts] = []
    parts: list[Part] = []
    position = start
    while position < len(template) and template[position] != ")":
        character = template[position]
        if character == "|":
            options.append(tuple(parts))
            parts, position = [], position + 1
        elif character == "(":
            choice, closing = _options(template, position + 1)
            if closing >= len(template):
                return (), len(template) + 1
            parts.append(choice)
            position = closing + 1
        elif character == "{":
            closing = template.find("}", position)
            if closing < 0:
                return (), len(template) + 1
            parts.append(Slot(template[position + 1 : closing]))
            position = closing + 1
        else:
            end = position + 1
            while end < len(template) and template[end] not in "()|{":
                end += 1
            parts.append(template[position:end])
            position = end
    return (*options, tuple(parts)), position


@dataclass(frozen=True, slots=True)
class TypingStyle:
    """How one person types, as probabilities per message."""

    lower: float
    no_accents: float
    typo: float
    slang: float
    emoji: float
    stretch: float
    suffix: float
    bare: float
    capitals: float

    @classmethod
    def draw(cls, rng: random.Random, *, careful: bool) -> TypingStyle:
        """Draw a person: careful ones mistype less, but everybody on a phone does."""
        scale = 0.4 if careful else 1.0
        return cls(
            lower=scale if rng.random() < 0.5 else 0.1,
            no_accents=0.9 if rng.random() < 0.35 * scale else 0.05,
            typo=scale * rng.choice((0.0, 0.05, 0.1, 0.25)),
            slang=scale * rng.choice((0.0, 0.3, 0.8)),
            emoji=rng.choice((0.0, 0.05, 0.25)),
            stretch=scale * rng.choice((0.0, 0.05, 0.2)),
            suffix=rng.choice((0.0, 0.1, 0.4)),
            bare=rng.choice((0.0, 0.2, 0.7)),
            capitals=0.3 if rng.random() < 0.04 else 0.0,
        )


_EMOJI = ("🙏", "😊", "😭", "😅", "👍", "🥺", "😡", "❤️", "😂", "🙂", "💔", "🫶", "✨", "😔")
_ACCENTED = frozenset({"vi", "pt", "es", "tl"})
_UNSPACED = frozenset({"th", "zh", "zh-Hans"})
_NO_PUNCTUATION = str.maketrans(dict.fromkeys(",.!?¿¡,。?!;:", " "))


def type_text(text: str, grammar: Wording, style: TypingStyle, market: str, rng: random.Random) -> str:
    """Write a sentence as a person would type it in a hurry."""
    if rng.random() < style.slang and grammar.slang:
        slang = grammar.slang
        text = " ".join([slang.get(word, word) for word in text.split(" ")])
    suffixes = grammar.suffixes.get(market)
    if suffixes and rng.random() < style.suffix:
        space = "" if grammar.language in _UNSPACED else " "
        text = f"{text}{space}{rng.choice(suffixes)}"
    if rng.random() < style.lower:
        text = text.lower()
    if grammar.language in _ACCENTED and rng.random() < style.no_accents:
        text = without_accents(text)
    if rng.random() < style.bare and len(text) > 3:
        text = text.translate(_NO_PUNCTUATION)
    if rng.random() < style.capitals:
        text = text.upper()
    if rng.random() < style.typo:
        text = _mistype(text, rng)
    if rng.random() < style.stretch and text[-1:].isalpha():
        text += text[-1] * rng.randint(1, 4)
    if rng.random() < style.emoji:
        text = f"{text} {rng.choice(_EMOJI) * rng.randint(1, 2)}"
    return text


def without_accents(text: str) -> str:
    """Drop diacritics, as phones without the right keyboard do (đ included)."""
    decomposed = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join([character for character in decomposed if unicodedata.category(character) != "Mn"])


def _mistype(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter somewhere."""
    if len(text) < 6:
        return text
    position = rng.randrange(1, len(text) - 2)
    one, other = text[position], text[position + 1]
    if not (one.isalpha() and other.isalpha()):
        return text
    replacement = rng.choice((other + one, one, one + one + other))
    return text[:position] + replacement + text[position + 2 :]
