"""A server with OpenAI's chat interface, its prices, and how gently it is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cluster.settings import Settings


class EndpointSettings(Settings):
    """A server, its prices, and how gently it is used."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """Up to and including /v1."""

    model: str = "default"
    """As the server knows it."""

    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a server without keys needs none."""

    structured: Literal["vllm", "none"] = "vllm"
    """How the form of answers is demanded: `vllm` sends it as structured_outputs, `none` trusts the model."""

    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the longest answer; newer hosted models refuse the older name."""

    left_out: tuple[Literal["temperature", "seed", "stream_options"], ...] = ()
    """Parameters that the server refuses. Without `stream_options` it may give no figures of what an answer took: costs
    are upper bounds then."""

    further: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of a request beyond these, as JSON: `{"reasoning_effort": "low"}` or, of vLLM,
    `{"chat_template_kwargs": {"enable_thinking": false}}` for a model that thinks before it answers."""

    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest silence, before the first byte and between any two."""

    deadline_seconds: float = Field(default=300.0, gt=0)
    """Longest time from sending a request to the end of its answer, whatever comes in between."""

    max_tries: int = Field(default=6, ge=1)
    """How often a request is sent that the server refuses."""

    backoff_seconds: float = Field(default=0.5, gt=0)
    """First wait between two tries, at most; it doubles each time, to a minute. A server's Retry-After is added."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    """At most; null: as fast as they are answered."""

    top_logprobs: int = Field(default=20, ge=0, le=20)
    """Alternatives asked for at each token; 0: the server gives none, and verdicts come without probability."""

    input_usd: float = Field(default=0.0, ge=0)
    """USD per million tokens of prompts."""

    cached_input_usd: float | None = Field(default=None, ge=0)
    """USD per million tokens of prompts that the server had cached; null: as much as the others."""

    output_usd: float = Field(default=0.0, ge=0)
    """USD per million tokens of answers."""

    budget_usd: float | None = Field(default=None, ge=0)
    """Stop before more than this is spent on one output, by all its runs together; null: no limit."""

    def cost(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """Price tokens in USD."""
        cached_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input_usd + cached_tokens * cached_usd + completion_tokens * self.output_usd) / 1e6
