"""The seam to a language model: a prompt in, an answer out piece by piece, and what it took at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from cancellation.llm.prompt import Prompt
from cluster.endpoint.purse import BudgetSpentError
from cluster.settings import Settings

Enough = Callable[[], bool]
"""Asked behind every piece: has enough of the answer been read?"""


class SamplingSettings(Settings):
    """How tokens are drawn."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """0: always the likeliest token."""

    seed: int = Field(default=0, ge=0)
    """Of the draw; the same seed gives the same answer as far as the backend can promise it."""

    max_tokens: int = Field(default=220, ge=160)
    """Of an answer; 100 of them are for verdict, factors and tags, the others for the reasoning."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of an answer: usually one token."""

    text: str
    alternatives: Mapping[bytes, float] | None = None
    """Log-probabilities of the tokens that could have stood here, by their bytes; None: not known."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A server is asked from now on; what was waited for before is the client's own pace."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's: not computed again, since an earlier prompt began alike."""
    completion_tokens: int = 0
    cost_usd: float = 0.0
    estimated: bool = False
    """The server gave no figures, so these are upper bounds."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_usd + other.cost_usd,
            self.estimated or other.estimated,
        )


class BackendError(RuntimeError):
    """A request that found no answer, or no usable one; the text names the reason, never what was asked or said."""

    def __init__(
        self, problem: str, usage: Usage | None = None, *, refused: bool = False, seconds: float = 0.0
    ) -> None:
        super().__init__(problem)
        self.usage = usage or Usage()
        """What it may have taken at most."""
        self.refused = refused
        """The last request was not taken, so it surely cost nothing, and asking at once again is no use."""
        self.seconds = seconds
        """How long the answer was waited for, in vain."""


class OutOfBudgetError(BudgetSpentError):
    """The budget does not hold the next request of an answer."""

    def __init__(self, problem: str, usage: Usage | None = None) -> None:
        super().__init__(problem)
        self.usage = usage or Usage()
        """What earlier requests of the same answer took."""


class Backend(Protocol):
    """A language model. Safe to be called by several threads."""

    version: str
    """Of the model, for records and plans."""

    def stream(self, prompt: Prompt, sampling: SamplingSettings, enough: Enough) -> Iterator[Sent | Piece | Usage]:
        """Answer a prompt: pieces as they come, then what they took; a server's begin with `Sent`.

        The rest of the answer is cancelled when `enough` says so behind a piece; what it took is still said.

        Raises:
            BackendError: If there is no answer, or it broke off.
            OutOfBudgetError: If the budget does not hold the request; nothing was sent.
        """
        ...
