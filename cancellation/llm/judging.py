"""One event judged by a language model: the answer read while it comes, timed, and asked again where that is set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cancellation.events.factors import FACTORS
from cancellation.llm.answer import Answer, AnswerError, AnswerReader, Part
from cancellation.llm.backend import Backend, BackendError, Enough, OutOfBudgetError, SamplingSettings, Sent, Usage
from cancellation.llm.prompt import Prompt
from cluster.settings import Settings

OnPart = Callable[[Part, AnswerReader], None]
"""Called with a part that has just closed, and the reader, which holds all that came so far."""


class JudgingSettings(Settings):
    """How an answer is got and read."""

    after_verdict: Literal["read", "cancel"] = "read"
    """What becomes of the rest of an answer: `cancel` saves its time and tokens, and leaves factors unknown."""

    reflect: bool = False
    """Show the model its first answer and let it change the verdict: twice the tokens, the prompt's mostly cached."""

    sampling: SamplingSettings = SamplingSettings()


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with what it took."""

    answer: Answer
    text: str
    """The answer as the model wrote it."""
    usage: Usage
    seconds_to_verdict: float
    """From the sending of the request on, as all seconds here: of a model in this process, from the asking on."""
    seconds: float
    first_verdict: str | None = None
    """Before reflection."""

    @property
    def factor_probabilities(self) -> tuple[float, ...]:
        """1 for a factor that was named, 0 for the others; (18,)."""
        return tuple(float(code in self.answer.factors) for code in FACTORS)


def judge(
    backend: Backend,
    prompt: Prompt,
    settings: JudgingSettings,
    *,
    on_part: OnPart | None = None,
    enough: Enough = lambda: False,
) -> Judged:
    """Ask for one answer, or for two with reflection.

    `on_part` is called as each part of the last one closes; once `enough` says so, the rest is cancelled.

    Raises:
        BackendError: If there was no answer, or one that is not of the form.
        OutOfBudgetError: If the budget does not hold it, or not the second one.
    """
    if not settings.reflect:
        return _ask(backend, prompt, settings, on_part, enough)
    first = _ask(backend, prompt, settings.model_copy(update={"after_verdict": "read"}), None, enough)
    try:
        second = _ask(backend, prompt.reflecting(first.text), settings, on_part, enough)
    except BackendError as error:
        took = first.seconds + error.seconds
        raise BackendError(str(error), first.usage + error.usage, refused=error.refused, seconds=took) from None
    except OutOfBudgetError as error:
        raise OutOfBudgetError(str(error), first.usage + error.usage) from None
    return replace(
        second,
        usage=first.usage + second.usage,
        seconds_to_verdict=first.seconds + second.seconds_to_verdict,
        seconds=first.seconds + second.seconds,
        first_verdict=first.answer.verdict,
    )


def _ask(backend: Backend, prompt: Prompt, settings: JudgingSettings, on_part: OnPart | None, enough: Enough) -> Judged:
    reader, started = AnswerReader(prompt.form), time.monotonic()
    to_verdict, usage, read = 0.0, Usage(), threading.Event()
    refused: AnswerError | None = None
    cancel = settings.after_verdict == "cancel"
    try:
        for piece in backend.stream(prompt, settings.sampling, lambda: read.is_set() or enough()):
            if isinstance(piece, Sent):
                started = time.monotonic()
            elif isinstance(piece, Usage):
                usage = piece
            elif refused is None:
                try:
                    for part, _ in reader.feed(piece.text, piece.alternatives):
                        if part == "verdict":
                            to_verdict = time.monotonic() - started
                            if cancel:
                                read.set()
                        if on_part:
                            on_part(part, reader)
                except AnswerError as error:
                    refused = error
                    read.set()
    except BackendError as error:
        if refused or not (reader.complete or (cancel and read.is_set())):
            error.seconds = time.monotonic() - started
            raise
        usage = error.usage  # whatever ended the stream, the answer had been there
    try:
        if refused:
            raise refused
        answer = reader.answer(cancelled=cancel)
        return Judged(answer, reader.text, usage, to_verdict, time.monotonic() - started)
    except AnswerError as error:
        raise BackendError(str(error), usage, seconds=time.monotonic() - started) from None
