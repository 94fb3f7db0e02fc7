"""Event to prompt: the same policy and examples for many events first, so that a server's prefix cache holds them.

A case is written as the lines of its timeline. Nothing that a person typed holds a bracket or a line break any more
(`events/clean_text.py`), so a chat can make neither a speaker nor a tag of the answer.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from math import isnan
from typing import Any, Literal

from jinja2 import TemplateError
from pydantic import Field

from cancellation.events.event import Event
from cancellation.events.examples import Example
from cancellation.events.factors import ADDED_FACTORS, FACTORS, VERDICTS
from cancellation.features.vector import feature_names, features
from cancellation.llm.answer import WORDS, AnswerForm, write_answer
from cancellation.text.timeline import CUT, KIND_TOKENS, TIME_TOKENS, Segment, span_words, timeline
from cancellation.text.token_budget import fit_timeline
from cluster.provenance import digest_of
from cluster.settings import Settings

Role = Literal["system", "user", "assistant"]
_PIECE = 4
"""Characters that count as a token when a case is fitted: about as many as one has in English."""
_STRUCTURE = (*KIND_TOKENS, *TIME_TOKENS, CUT)


class PromptSettings(Settings):
    """What a model is shown of an event, and in which order it answers."""

    reasoning_first: bool = False
    """Let the model reason before its verdict: slower to the verdict, kept to be measured."""

    max_case_characters: int = Field(default=3000, ge=200)
    """Of a case's lines, roughly; what is worth least is left out first, as for the fusion model."""

    max_reasoning_characters: int = Field(default=240, ge=20)
    """Of an answer's reasoning."""

    max_factors: int = Field(default=4, ge=1, le=len(FACTORS))
    """Decision factors that an answer may name."""

    def form(self, classes: int) -> AnswerForm:
        """The form of answers in markets of so many classes."""
        return AnswerForm(classes, self.reasoning_first, self.max_factors, self.max_reasoning_characters)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the conversation that a model continues."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Turns, the last of them the user's, and the form that the answer must have."""

    turns: tuple[Turn, ...]
    form: AnswerForm

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates and OpenAI's interface take them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]

    @property
    def num_bytes(self) -> int:
        """Bytes of all turns: at least as many as tokens, since no piece of a vocabulary is shorter than one."""
        return sum(len(turn.text.encode()) for turn in self.turns)

    def reflecting(self, answer: str) -> Prompt:
        """Ask again, with the first answer in sight."""
        second = Turn("user", _instructions()["reflection"])
        return Prompt((*self.turns, Turn("assistant", answer), second), self.form)


def build_prompt(
    event: Event, settings: PromptSettings, *, classes: int = 3, examples: Sequence[Example] = ()
) -> Prompt:
    """Write policy, then examples as earlier turns, then the case.

    Args:
        event: The case.
        settings: Lengths and order.
        classes: 3, or 2 where the market's policy knows no `inconclusive`.
        examples: Labelled events, in the order in which they are to be seen; equal ones first cache best.
    """
    form = settings.form(classes)
    turns = [Turn("system", policy_text(form))]
    for example in examples:
        turns.append(Turn("user", case_text(example.event, settings)))
        turns.append(Turn("assistant", write_answer(form, example.label, example.factors)))
    return Prompt((*turns, Turn("user", case_text(event, settings))), form)


def chat_text(tokenizer: Any, prompt: Prompt) -> str:
    """Write a prompt by a model's chat template; where that knows no system role, the policy opens the first turn."""
    write = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    try:
        return write(prompt.messages)
    except TemplateError:
        policy, first, *others = prompt.messages
        return write([{**first, "content": f"{policy['content']}\n\n{first['content']}"}, *others])


def turn_end(tokenizer: Any) -> list[int]:
    """Give the tokens that end an answer by a model's chat template: Gemma's `<end_of_turn>` is not its end token.

    Raises:
        ValueError: If neither template nor tokeniser have any.
    """
    said = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
    behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(said)[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    last = next((place for place, one in enumerate(ids) if one in tokenizer.added_tokens_decoder), None)
    if last is not None:
        return ids[: last + 1]
    if tokenizer.eos_token_id is None:
        raise ValueError("expected a chat template or tokeniser that ends a turn, found neither; give it an end token")
    return [tokenizer.eos_token_id]


@cache
def policy_text(form: AnswerForm) -> str:
    """Write what is the same for every event of a market: what the verdicts mean, the codes, the form."""
    told = _instructions()
    meanings = {**told["factors"], **ADDED_FACTORS}
    factors = "\n".join(f"{code}: {meanings[code]}" for code in FACTORS)
    text = told["policy"].format(unclear=told["unclear"] if form.classes == 3 else "", factors=factors)
    order = told["reasoning_first" if form.reasoning_first else "verdict_first"]
    words = " or ".join(WORDS[: form.classes])
    return f"{text.strip()}\n{order.format(max_factors=form.max_factors, words=words).rstrip()}"


def prompt_digest(settings: PromptSettings) -> str:
    """Digest what a model is told and shown; answers of two digests do not compare."""
    written = [write_answer(settings.form(3), label, factors) for label in VERDICTS for factors in (None, (), FACTORS)]
    return digest_of([settings.model_dump(mode="json"), _instructions(), written])


def factor_meanings() -> dict[str, str]:
    """Give what each code means, as models and people are told it, in the contract's order."""
    return dict(_instructions()["factors"])


def case_text(event: Event, settings: PromptSettings) -> str:
    """Write one event as lines: what happened, in order, then what was measured."""
    whole, pieces = timeline(event), _Pieces()
    budget = settings.max_case_characters // _PIECE
    fitted = fit_timeline(whole, pieces.cut, _STRUCTURE.index, max_tokens=budget)
    texts = pieces.texts(fitted.token_ids)
    lines = _lines([whole.segments[place] for place in fitted.positions], texts)
    if left_out := sum(fitted.num_dropped.values()):
        lines.append(f"{CUT} {left_out} lines left out")
    facts = facts_text(event)
    return "\n".join([*lines, *([f"[FACTS] {facts}"] if facts else [])])


def _lines(segments: Sequence[Segment], texts: Sequence[str]) -> list[str]:
    """Say when something happened where that differs from the line above: a time is most of a short message."""
    lines, said = [], None
    for segment, text in zip(segments, texts, strict=True):
        when = None if segment.kind in ("[ORDER]", "[HISTORY]", "[REASON]") else span_words(segment.seconds_before)
        lines.append(f"{segment.kind} {text}" if when in (None, said) else f"{segment.kind} {when} before: {text}")
        said = when or said
    return lines


_FACTS = (
    ("seller_reply_count", "seller answered {:.0f} times"),
    ("seller_reply_longest_minutes", "buyer waited up to {:.0f} min for an answer"),
    ("unanswered_buyer_message_count", "{:.0f} buyer messages unanswered at the end"),
    ("last_seller_contact_to_cancel_minutes", "seller's last contact {:.0f} min before the cancellation"),
    ("promise_elapsed_ratio", "{:.0%} of the promised time had passed"),
    ("extension_count", "deadline put off {:.0f} times"),
)
"""Of the 68 features those that the lines do not say already, in words; one that is missing is left out."""


def facts_text(event: Event) -> str:
    """Say in words what was measured."""
    values = dict(zip(feature_names(), features(event).tolist(), strict=True))
    return "; ".join(words.format(values[name]) for name, words in _FACTS if not isnan(values[name]))


class _Pieces:
    """A vocabulary for one case: every few characters a number, behind those of a timeline's structure."""

    def __init__(self) -> None:
        self._known: list[str] = list(_STRUCTURE)

    def cut(self, texts: list[str]) -> list[list[int]]:
        """Cut texts into pieces, by number."""
        numbers = []
        for text in texts:
            start = len(self._known)
            self._known += [text[place : place + _PIECE] for place in range(0, len(text), _PIECE)]
            numbers.append(list(range(start, len(self._known))))
        return numbers

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """Read a fitted timeline's texts back; each stands behind the two marks of its kind and its time."""
        texts: list[str] = []
        for number in numbers:
            piece = self._known[number]
            if number < len(KIND_TOKENS):
                texts.append("")
            elif number >= len(_STRUCTURE):
                texts[-1] += piece
            elif piece == CUT:
                texts[-1] += f" {CUT} "
        return texts


@cache
def _instructions() -> dict[str, Any]:
    table = tomllib.loads((resources.files("cancellation.llm") / "instructions.toml").read_text(encoding="utf-8"))
    if (*table["factors"], *ADDED_FACTORS) != FACTORS:
        raise ValueError("instructions.toml [factors]: expected a line for each of the 18 codes, in their order")
    return table
