"""Answers from a server with OpenAI's chat interface, streamed; one policy of retries, pace and payment.

Two kinds of failure are told apart. What the server refused (429, 5xx, no connection) costs nothing and is tried again
here, later and later, with jitter. What broke off (silence, half a stream, garbage) may have been paid: it is said to
the caller, with what it may have cost at most, and never repeated in secret.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from cluster.endpoint.purse import Purse
from cluster.endpoint.settings import EndpointSettings

_REPEATED = (408, 409, 425, 429)
_TURN_TOKENS = 16
"""Tokens that a chat template may put around a turn."""
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Delta:
    """What came of an answer; `alternatives` are log-probabilities by the tokens' bytes, where the server gave them."""

    text: str
    alternatives: Mapping[bytes, float] | None = None


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a request took, by the server's own figures; `estimated` ones are upper bounds, where it gave none."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float
    estimated: bool = False


NOTHING = Consumption(0, 0, 0, 0.0)


class EndpointError(RuntimeError):
    """A request without an answer, or with half of one; `consumption` is what it may have cost at most."""

    def __init__(self, problem: str, consumption: Consumption = NOTHING) -> None:
        super().__init__(problem)
        self.consumption = consumption


def most_tokens(turns: Sequence[str]) -> int:
    """Bound the tokens of a prompt: none is shorter than a byte."""
    return sum(len(turn.encode()) + _TURN_TOKENS for turn in turns) + _TURN_TOKENS


class ChatEndpoint:
    """One server. Safe to be used by several threads; more of them than `concurrency` wait here."""

    def __init__(self, settings: EndpointSettings, purse: Purse) -> None:
        self.settings, self.purse = settings, purse
        self._client = openai.OpenAI(
            base_url=settings.base_url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout_seconds,
            max_retries=0,  # it would repeat what timed out, which may have been paid
        )
        self._under_way = threading.Semaphore(settings.concurrency)
        self._pace = _Pace(settings.requests_per_minute)

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        regex: str | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Iterator[Delta | Consumption]:
        """Ask once; yield the answer as it comes, then what it took.

        Args:
            messages: Of `role` and `content`.
            max_tokens: Of the answer.
            temperature: Of the draw.
            seed: Of the draw, for servers that keep to it.
            regex: What the answer must match, where the server can be told.
            enough: Asked behind every piece; true closes the connection.

        Raises:
            BudgetSpentError: If the budget does not hold the request; nothing was sent.
            EndpointError: If there is no answer, or it broke off.
        """
        worst = self._worst(messages, max_tokens)
        self.purse.reserve(worst.cost_usd)
        paid = NOTHING
        try:
            with self._under_way:
                stream = self._open(self._request(messages, max_tokens, temperature, seed, regex), worst)
                paid = worst
                for piece in self._read(stream, worst, enough):
                    if isinstance(piece, Consumption):
                        paid = piece
                    yield piece
        except EndpointError as error:
            paid = error.consumption
            raise
        finally:
            self.purse.settle(worst.cost_usd, paid.cost_usd)

    def _worst(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Consumption:
        prompt = most_tokens([message["content"] for message in messages])
        return Consumption(prompt, 0, max_tokens, self.settings.cost(prompt, 0, max_tokens), estimated=True)

    def _request(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, temperature: float, seed: int, regex: str | None
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.settings.top_logprobs:
            request |= {"logprobs": True, "top_logprobs": self.settings.top_logprobs}
        if self.settings.structured == "vllm":
            request["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
            if regex:
                request["extra_body"] = {"structured_outputs": {"regex": regex}}
        return request

    def _open(self, request: dict[str, Any], worst: Consumption) -> openai.Stream:
        """Send a request until the server takes it."""
        for left in range(self.settings.max_tries - 1, -1, -1):
            self._pace.wait()
            try:
                return self._client.chat.completions.create(**request)
            except openai.APIStatusError as error:
                if not left or not (error.status_code in _REPEATED or error.status_code >= 500):
                    raise EndpointError(f"endpoint: refused with status {error.status_code}") from None
                wait = _retry_after(error)
            except openai.APITimeoutError:
                raise EndpointError(f"endpoint: silent for {self.settings.timeout_seconds:g} s", worst) from None
            except openai.APIConnectionError as error:
                if type(error.__cause__).__name__ != "ConnectError":
                    raise EndpointError("endpoint: hung up without an answer", worst) from None
                if not left:
                    raise EndpointError("endpoint: no connection") from None
                wait = None
            number = self.settings.max_tries - 1 - left
            time.sleep(random.uniform(0, min(self.settings.backoff_seconds * 2**number, _LONGEST_WAIT)) + (wait or 0))
        raise AssertionError("unreachable: the last try returns or raises")

    def _read(
        self, stream: openai.Stream, worst: Consumption, enough: Callable[[], bool]
    ) -> Iterator[Delta | Consumption]:
        deadline = time.monotonic() + self.settings.deadline_seconds
        finished, usage = None, None
        try:
            for chunk in stream:
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices or ():
                    yield from _deltas(choice)
                    finished = choice.finish_reason or finished
                if enough():
                    break
                if time.monotonic() > deadline:
                    raise EndpointError(f"endpoint: no end within {self.settings.deadline_seconds:g} s", worst)
            else:
                if finished not in ("stop", "length"):
                    reason = f"ended with {finished}" if finished else "broke off"
                    raise EndpointError(f"endpoint: the answer {reason}", self._taken(usage, worst))
        except (EndpointError, GeneratorExit):
            raise
        except Exception as error:  # whatever garbage does to a parser: this request failed, with a place to say so
            raise EndpointError(f"endpoint: the answer broke off ({type(error).__name__})", worst) from None
        finally:
            stream.close()
        yield self._taken(usage, worst)

    def _taken(self, usage: Any, worst: Consumption) -> Consumption:
        if usage is None:
            return worst
        cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None) or 0
        tokens = (usage.prompt_tokens, cached, usage.completion_tokens)
        return Consumption(*tokens, self.settings.cost(*tokens))


class _Pace:
    """So many starts a minute, evenly spread."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self) -> None:
        if not self._gap:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        time.sleep(max(start - time.monotonic(), 0.0))


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds that the server asks for, a minute at most."""
    try:
        return min(max(float(error.response.headers.get("retry-after", "")), 0.0), _LONGEST_WAIT)
    except ValueError:
        return None


def _deltas(choice: Any) -> Iterator[Delta]:
    """One piece for each token where the server names them, else one for what came."""
    text = choice.delta.content or ""
    tokens = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    if len(tokens) == 1:
        yield Delta(text, _alternatives(tokens[0]))
    elif tokens and "".join(token.token for token in tokens) == text:
        for token in tokens:
            yield Delta(token.token, _alternatives(token))
    elif text:
        yield Delta(text)


def _alternatives(token: Any) -> dict[bytes, float]:
    listed = [*(token.top_logprobs or ()), token]
    return {bytes(one.bytes) if one.bytes else one.token.encode(): one.logprob for one in listed}
