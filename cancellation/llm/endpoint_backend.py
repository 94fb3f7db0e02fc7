"""A model behind OpenAI's interface: a hosted one, or `vllm serve`."""

from __future__ import annotations

from collections.abc import Iterator

from cancellation.llm.backend import BackendError, Enough, OutOfBudgetError, Piece, SamplingSettings, Sent, Usage
from cancellation.llm.prompt import Prompt
from cluster.endpoint import client
from cluster.endpoint.client import NOTHING, ChatEndpoint, Consumption, Delta, EndpointError
from cluster.endpoint.purse import BudgetSpentError, Purse
from cluster.endpoint.settings import EndpointSettings


class EndpointBackend:
    """Turns prompts into requests and deltas into pieces."""

    def __init__(self, settings: EndpointSettings, purse: Purse | None = None) -> None:
        """Prepare a client; nothing is sent yet. `purse` holds the budget, less what earlier runs spent."""
        self.version = settings.model
        self.purse = purse or Purse(settings.budget_usd)
        self._endpoint = ChatEndpoint(settings, self.purse)

    def stream(self, prompt: Prompt, sampling: SamplingSettings, enough: Enough) -> Iterator[Sent | Piece | Usage]:
        """See `Backend`."""
        try:
            for piece in self._endpoint.stream(
                prompt.messages,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                seed=sampling.seed,
                regex=prompt.form.regex,
                enough=enough,
            ):
                yield _taken_over(piece)
        except EndpointError as error:
            taken = error.consumption
            raise BackendError(str(error), _usage(taken), refused=taken == NOTHING) from None
        except BudgetSpentError as error:
            raise OutOfBudgetError(str(error)) from None


def _taken_over(part: client.Sent | Delta | Consumption) -> Sent | Piece | Usage:
    if isinstance(part, Delta):
        return Piece(part.text, part.alternatives)
    return _usage(part) if isinstance(part, Consumption) else Sent()


def _usage(taken: Consumption) -> Usage:
    tokens = (taken.prompt_tokens, taken.cached_tokens, taken.completion_tokens)
    return Usage(*tokens, taken.cost_usd, taken.estimated)
