"""The form of an answer, its grammar, and a reader that hands out each part as soon as its tag closes.

Words that stand for verdicts differ in their first letter. So one token decides between them, whatever a vocabulary
cuts words into, and its distribution is the distribution over verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from cancellation.events.factors import FACTORS, VERDICTS

WORDS = ("induced", "not_induced", "unclear")
"""What a model says for each of `VERDICTS`, in their order."""

Part = Literal["verdict", "decision_factors", "reasoning"]
_NONE = "none"
_MIN_PROBABILITY = 1e-6
"""Of a verdict that a model's token distribution does not hold: servers give the likeliest tokens only."""


class AnswerError(ValueError):
    """An answer that is not of the form; never holds its text, which may quote a chat."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer may look like."""

    classes: int = 3
    reasoning_first: bool = False
    max_factors: int = 4
    max_reasoning_characters: int = 240

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts, in the order in which they are written."""
        return (
            ("reasoning", "verdict", "decision_factors")
            if self.reasoning_first
            else ("verdict", "decision_factors", "reasoning")
        )

    @property
    def regex(self) -> str:
        """As servers with structured outputs take it."""
        code = f"({'|'.join(map(re.escape, FACTORS))})"
        inside: dict[Part, str] = {
            "verdict": f"({'|'.join(WORDS[: self.classes])})",
            "decision_factors": f"({_NONE}|{code}(, {code}){{0,{self.max_factors - 1}}})",
            "reasoning": f"[^<>\\n]{{1,{self.max_reasoning_characters}}}",
        }
        return "\\n".join(f"<{part}>{inside[part]}</{part}>" for part in self.parts)

    def lark(self, *, max_reasoning_tokens: int) -> str:
        """As llguidance takes it: with a bound on tokens too, so that an answer always ends."""
        codes = " | ".join(f'"{code}"' for code in FACTORS)
        rules = {
            "verdict": " | ".join(f'"{word}"' for word in WORDS[: self.classes]),
            "decision_factors": f'"{_NONE}" | code (", " code){{0,{self.max_factors - 1}}}',
        }
        start = ' "\\n" '.join(f'"<{part}>" {part} "</{part}>"' for part in self.parts)
        reasoning = f"reasoning[max_tokens={max_reasoning_tokens}]: /[^<>\\n]{{1,{self.max_reasoning_characters}}}/"
        return "\n".join([f"start: {start}", *(f"{n}: {r}" for n, r in rules.items()), f"code: {codes}", reasoning])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said of one event."""

    verdict: str
    """Of `VERDICTS`."""
    log_probabilities: tuple[float, float, float] | None
    """Of the verdicts in their order, from the token that decided; None: the server gave no distribution, so how sure
    the model was is not known."""
    factors: tuple[str, ...] = ()
    reasoning: str | None = None
    """None: not read, or cut off."""


_WITHOUT_FACTORS = {
    "induced": "No single factor, but the case as a whole points to the seller.",
    "not_induced": "Nothing here points to the seller.",
    "inconclusive": "What is known does not decide it.",
}


def write_answer(form: AnswerForm, label: str, factors: Sequence[str] | None, reasoning: str | None = None) -> str:
    """Write the answer that a model should give; without reasoning only what is known is said.

    `factors` None: nobody looked for them. The form has no word for that, so the reasoning says it.
    """
    named = ", ".join((factors or ())[: form.max_factors]) or _NONE
    if reasoning is None and factors is None:
        reasoning = "Only the verdict is known of this case."
    elif reasoning is None:
        reasoning = f"It rests on {named}." if factors else _WITHOUT_FACTORS[label]
    inside = {"verdict": WORDS[VERDICTS.index(label)], "decision_factors": named, "reasoning": reasoning}
    return "\n".join(f"<{part}>{inside[part]}</{part}>" for part in form.parts)


class AnswerReader:
    """Reads one answer piece by piece, as it is written."""

    def __init__(self, form: AnswerForm) -> None:
        self.form = form
        self.text = ""
        self._found: dict[Part, str] = {}
        self._log_probabilities: tuple[float, float, float] | None = None

    def feed(self, text: str, alternatives: Mapping[bytes, float] | None = None) -> Iterator[tuple[Part, str]]:
        """Read on; yield the parts that this piece closed.

        Args:
            text: What came.
            alternatives: Log-probabilities of the tokens that could have stood here, by their bytes, where known.

        Raises:
            AnswerError: If what came is not of the form.
        """
        before, self.text = self.text, self.text + text
        if alternatives and self._log_probabilities is None and _decides(before, self.text):
            self._log_probabilities = verdict_distribution(before, alternatives, self.form.classes)
        while len(self._found) < len(self.form.parts):
            part = self.form.parts[len(self._found)]
            closed = _PARTS[part].match(self.text, self._end())
            if closed is None:
                self._refuse_other(part)
                return
            yield part, self._keep(part, closed[1])

    def answer(self, *, cancelled: bool = False) -> Answer:
        """Give what was read; the reasoning may be missing, verdict and factors may not.

        The factors of an answer that was `cancelled` behind its verdict are not missing: nobody waited for them.

        Raises:
            AnswerError: If the text ended before both were closed.
        """
        for part in self.form.parts:
            if part not in self._found and (part == "verdict" or (part == "decision_factors" and not cancelled)):
                raise AnswerError(
                    f"answer: expected a closed <{part}>, found the text ended before it; if all are cut, raise "
                    "sampling.max_tokens, or switch a model's own thinking off (endpoint.further)"
                )
        factors = self._found.get("decision_factors", _NONE)
        codes = () if factors == _NONE else tuple(dict.fromkeys(factors.split(", ")))
        verdict = VERDICTS[WORDS.index(self._found["verdict"])]
        return Answer(verdict, self._log_probabilities, codes, self._found.get("reasoning"))

    def said(self, part: Part) -> str | None:
        """Give what stands in a part, or None before it was closed."""
        return self._found.get(part)

    @property
    def complete(self) -> bool:
        """Whether every part was closed."""
        return len(self._found) == len(self.form.parts)

    def _end(self) -> int:
        """Where the parts found so far end in the text."""
        if not self._found:
            return 0
        last = list(self._found)[-1]
        return self.text.index(f"</{last}>") + len(last) + 3

    def _keep(self, part: Part, inside: str) -> str:
        if part == "verdict" and inside not in WORDS[: self.form.classes]:
            raise AnswerError(f"answer: expected <verdict> of {', '.join(WORDS[: self.form.classes])}, found another")
        if part == "decision_factors":
            codes = [] if inside == _NONE else inside.split(", ")
            if not set(codes) <= set(FACTORS):
                raise AnswerError("answer: expected <decision_factors> of the contract or none, found others")
        self._found[part] = inside
        return inside

    def _refuse_other(self, part: Part) -> None:
        """Stop reading early where the text can no longer become the part."""
        rest = self.text[self._end() :].lstrip()
        opening, closing = f"<{part}>", f"</{part}>"
        _, bracket, after = rest[len(opening) :].partition("<")
        open_end = closing.startswith((bracket + after)[: len(closing)])
        if not opening.startswith(rest[: len(opening)]) or not open_end:
            raise AnswerError(
                f"answer: expected {opening}…{closing} next, found other text; let the server hold it to the form "
                "(endpoint.structured), and a model's own thinking apart (endpoint.further)"
            )


_PARTS: dict[Part, re.Pattern[str]] = {
    part: re.compile(rf"\s*<{part}>\s*([^<>]*?)\s*</{part}>") for part in ("verdict", "decision_factors", "reasoning")
}
_OPEN = "<verdict>"


def _decides(before: str, after: str) -> bool:
    """Whether the verdict's first letter came with the last piece."""
    place = after.find(_OPEN)
    return place >= 0 and not before[place + len(_OPEN) :].strip() and bool(after[place + len(_OPEN) :].strip())


def verdict_distribution(
    before: str, alternatives: Mapping[bytes, float], classes: int
) -> tuple[float, float, float] | None:
    """Add up the tokens that begin each verdict, of one place's distribution.

    Returns:
        Log-probabilities of the three verdicts, normalised over the classes; None if no token begins any.
    """
    opened = before.rfind("<")
    begun = before[opened:].rstrip() if opened >= 0 else ""
    missing = _OPEN[len(begun) :] if _OPEN.startswith(begun) else _OPEN
    mass = dict.fromkeys(WORDS[:classes], 0.0)
    for token, value in alternatives.items():
        text = token.decode("utf-8", "replace")
        inside = text[len(missing) :].lstrip() if text.startswith(missing) else ""
        for word in mass:
            if inside and (word.startswith(inside) or inside.startswith(word)):
                mass[word] += exp(value)
    total = sum(mass.values())
    if not total:
        return None
    shares = [max(mass.get(word, 0.0) / total, _MIN_PROBABILITY if word in mass else 0.0) for word in WORDS]
    one, other, third = (log(share) if share else log(_MIN_PROBABILITY) for share in shares)
    return one, other, third
