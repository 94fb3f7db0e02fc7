"""Answers from a server with OpenAI's chat interface, streamed; one policy of retries, pace and payment.

Two kinds of failure are told apart. What the server refused (429, most 5xx, no connection) costs nothing and is tried
again here, later and later, with jitter. What broke off (silence, half a stream, garbage, a proxy that gave up waiting)
may have been paid: it is said to the caller, with what it may have cost at most, and never repeated in secret.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isnan
from typing import Any

import openai

from cluster.endpoint.purse import Purse
from cluster.endpoint.settings import EndpointSettings
from cluster.endpoint.waiting import LateError, UnwantedError, event_loop, rest, wait_for

_REPEATED = (409, 425, 429)
_MAYBE_PAID = (408, 502, 504, 524)
"""What a proxy says when the server behind it was too slow, or hung up: that one may have answered, and charges."""
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""Of httpx's errors those before the first byte of a request."""
_CODE = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
"""What a server's code or parameter may look like; anything else might quote the request."""
_REFUSAL = "a refusal"
_UNWANTED = "endpoint: nobody waits for the answer any more"
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


@dataclass(frozen=True, slots=True)
class Sent:
    """A request is about to be sent: whatever it waited for until now, it was not for the server."""


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
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout_seconds,
            max_retries=0,  # it would repeat what timed out, which may have been paid
        )
        weakref.finalize(self, _close, self._client).atexit = False
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
    ) -> Iterator[Sent | Delta | Consumption]:
        """Ask once; say when, yield the answer as it comes, then what it took.

        Args:
            messages: Of `role` and `content`.
            max_tokens: Of the answer.
            temperature: Of the draw.
            seed: Of the draw, for servers that keep to it.
            regex: What the answer must match, where the server can be told.
            enough: Asked behind every piece, and now and then while none comes; true closes the connection.

        Raises:
            BudgetSpentError: If the budget does not hold the request; nothing was sent.
            EndpointError: If there is no answer, or it broke off.
        """
        worst = self._worst(messages, max_tokens)
        self.purse.reserve(worst.cost_usd)
        paid = NOTHING
        try:
            with self._under_way:
                request = self._request(messages, max_tokens, temperature, seed, regex)
                self._wait(0.0, enough)
                yield Sent()
                stream, deadline = self._open(request, worst, enough)
                paid = worst
                for piece in self._read(stream, deadline, worst, enough):
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
            self.settings.max_tokens_name: max_tokens,
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
        if self.settings.further:
            request["extra_body"] = {**request.get("extra_body", {}), **self.settings.further}
        return {name: value for name, value in request.items() if name not in self.settings.left_out}

    def _open(
        self, request: dict[str, Any], worst: Consumption, enough: Callable[[], bool]
    ) -> tuple[openai.AsyncStream, float]:
        """Send a request until the server takes it; the stream, and by when it has to end."""
        for left in range(self.settings.max_tries - 1, -1, -1):
            deadline = time.monotonic() + self.settings.deadline_seconds
            try:
                sending = self._client.chat.completions.create(**request)
                return wait_for(sending, deadline=deadline, enough=enough), deadline
            except (LateError, UnwantedError) as error:
                raise self._given_up(error, worst) from None
            except openai.APIStatusError as error:
                wait = _retry_after(error)
                if error.status_code in _MAYBE_PAID:
                    raise EndpointError(f"endpoint: gave up with status {error.status_code}", worst) from None
                if not left or not (error.status_code in _REPEATED or error.status_code >= 500):
                    raise EndpointError(f"endpoint: refused with status {error.status_code}{_code(error)}") from None
            except openai.APIConnectionError as error:  # a timeout is one of them
                if type(error.__cause__).__name__ not in _NOT_SENT:
                    silence = f"silent for {self.settings.timeout_seconds:g} s"
                    problem = silence if isinstance(error, openai.APITimeoutError) else "hung up without an answer"
                    raise EndpointError(f"endpoint: {problem}", worst) from None
                if not left:
                    raise EndpointError("endpoint: no connection") from None
                wait = 0.0
            number = self.settings.max_tries - 1 - left
            wait += random.uniform(0, min(self.settings.backoff_seconds * 2**number, _LONGEST_WAIT))
            self._wait(wait, enough)
        raise AssertionError("unreachable: the last try returns or raises")

    def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Wait so long, then for one's turn."""
        try:
            rest(seconds, enough)
            self._pace.wait(enough)
        except UnwantedError:
            raise EndpointError(_UNWANTED) from None

    def _given_up(self, error: LateError | UnwantedError, worst: Consumption) -> EndpointError:
        late = f"endpoint: no end within {self.settings.deadline_seconds:g} s"
        return EndpointError(late if isinstance(error, LateError) else _UNWANTED, worst)

    def _read(
        self, stream: openai.AsyncStream, deadline: float, worst: Consumption, enough: Callable[[], bool]
    ) -> Iterator[Delta | Consumption]:
        finished, usage, characters = None, None, _Characters()
        try:
            while not enough():
                try:
                    chunk = wait_for(stream.__anext__(), deadline=deadline, enough=enough)
                except UnwantedError:
                    break
                except StopAsyncIteration:
                    if finished not in ("stop", "length"):
                        reason = f"ended with {finished}" if finished else "broke off"
                        raise EndpointError(f"endpoint: the answer {reason}", self._taken(usage, worst)) from None
                    break
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices or ():
                    for delta in _deltas(choice):
                        yield Delta(characters.whole(delta.text), delta.alternatives)
                    finished = _finished(choice, finished)
        except LateError as error:
            raise self._given_up(error, worst) from None
        except (EndpointError, GeneratorExit):
            raise
        except Exception as error:  # whatever garbage does to a parser: this request failed, with a place to say so
            what = f"{type(error).__name__}{_code(error)}"
            raise EndpointError(f"endpoint: the answer broke off ({what})", worst) from None
        finally:
            # Nobody waits for it: a connection that does not close is closed at its own time.
            asyncio.run_coroutine_threadsafe(stream.close(), event_loop())
        yield self._taken(usage, worst)

    def _taken(self, usage: Any, worst: Consumption) -> Consumption:
        """Price the server's own figures; without them, or with a part, the upper bound."""
        prompt, completion = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return worst
        cached = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
        tokens = (prompt, min(cached, prompt) if isinstance(cached, int) else 0, completion)
        return Consumption(*tokens, self.settings.cost(*tokens))


class _Pace:
    """So many starts a minute, evenly spread."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Wait for one's turn.

        Raises:
            UnwantedError: If `enough` says that nobody waits for the answer.
        """
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        rest(start - time.monotonic(), enough)


class _Characters:
    """Joins characters whose halves (surrogates) came in two pieces, as some servers cut emoji."""

    def __init__(self) -> None:
        self._half = ""

    def whole(self, text: str) -> str:
        """Give a piece's text with the half that came before; a half at its end waits for the next piece."""
        text = self._half + text
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text.removesuffix(self._half)
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _close(client: openai.AsyncOpenAI) -> None:
    asyncio.run_coroutine_threadsafe(client.close(), event_loop())


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds that the server asks for, given as such or as a date; a minute at most, 0 where it says nothing."""
    said = error.response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            at = parsedate_to_datetime(said)
        except ValueError:
            return 0.0
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return 0.0 if isnan(seconds) else min(max(seconds, 0.0), _LONGEST_WAIT)


def _code(error: Exception) -> str:
    """What the server says is wrong, where it says it in a code and a parameter; never its message."""
    status, *said = (str(getattr(error, name, None)) for name in ("status_code", "code", "param"))
    named = [one for one in said if _CODE.fullmatch(one) and one not in (status, "None")]
    return f" ({', '.join(named)})" if named else ""


def _finished(choice: Any, before: str | None) -> str | None:
    """Why an answer ended, as far as is known; a refusal in words ends with stop and is none."""
    refused = before == _REFUSAL or getattr(getattr(choice, "delta", None), "refusal", None)
    return _REFUSAL if refused else choice.finish_reason or before


def _deltas(choice: Any) -> Iterator[Delta]:
    """One piece for each token where the server names them, else one for what came."""
    text = getattr(getattr(choice, "delta", None), "content", None) or ""  # some servers' last piece has no delta
    tokens = getattr(getattr(choice, "logprobs", None), "content", None) or []
    if len(tokens) == 1:
        yield Delta(text, _alternatives(tokens[0]))
    elif tokens and "".join(token.token for token in tokens) == text:
        for token in tokens:
            yield Delta(token.token, _alternatives(token))
    elif text:
        yield Delta(text)


def _alternatives(token: Any) -> dict[bytes, float] | None:
    """Log-probabilities of what could have stood here; of the token that does stand here alone nothing follows."""
    if not token.top_logprobs:
        return None
    return {
        bytes(one.bytes) if one.bytes else one.token.encode("utf-8", "surrogatepass"): one.logprob
        for one in (*token.top_logprobs, token)
        if one.logprob is not None
    }
