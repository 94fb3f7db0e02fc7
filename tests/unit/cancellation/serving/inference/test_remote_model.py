"""Asking a model elsewhere: one second attempt within a budget, and none while it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from cancellation.events.event import parse_event
from cancellation.model.verdict_model import read_identity
from cancellation.serving.inference.messages import DEAD, LATE, STALE, Scored, pack_reply
from cancellation.serving.inference.model import model_folder
from cancellation.serving.inference.remote_model import Breaker, RemoteModel, RetryBudget
from cancellation.serving.observability import metrics as m
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.settings import ModelSettings, RetrySettings
from tests.servers.serving_replicas import simulated_event

SCORED = Scored([0.0, 1.0, 2.0], [0.0] * 18, "small@1", 1.0, 0.0, 1.0)


class Handle:
    """Answers as a Serve handle does: from a list of replies and failures, one per call."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[str] = []
        self.score = SimpleNamespace(remote=self._method("score"))
        self.score_body = SimpleNamespace(remote=self._method("score_body"))

    def _method(self, name: str) -> Callable[..., Awaitable[bytes]]:
        async def call(*_arguments: Any) -> bytes:
            self.calls.append(name)
            step = self.script.pop(0) if self.script else SCORED
            if isinstance(step, BaseException):
                raise step
            if step == "hang":
                await asyncio.Event().wait()
            return pack_reply(step)

        return call


def ask(handle: Handle, metrics: Metrics, times: int = 1, seconds: float = 0.2, **settings: Any) -> list[Any]:
    async def scenario() -> list[Any]:
        folder = model_folder(ModelSettings())
        model = RemoteModel(handle, folder, read_identity(folder), RetrySettings(**settings), metrics)
        event = model.encode(parse_event(simulated_event(1)))
        return [await model.score(event, b"{}", time.monotonic() + seconds) for _ in range(times)]

    return asyncio.run(scenario())


def test_a_dead_replica_is_asked_about_once_more() -> None:
    metrics, handle = Metrics(), Handle(RayError("gone"))
    assert ask(handle, metrics) == [SCORED]
    assert handle.calls == ["score", "score"]
    assert metrics.total(m.RETRIES, outcome="tried") == 1


def test_second_attempts_stay_within_their_budget() -> None:
    metrics = Metrics()
    handle = Handle(*[RayError("gone")] * 60)
    ask(handle, metrics, times=40, breaker_failures=1000)
    assert metrics.total(m.RETRIES, outcome="tried") <= 1 + 0.1 * 40
    assert metrics.total(m.RETRIES, outcome="over_budget") >= 30
    assert len(handle.calls) == 40 + metrics.total(m.RETRIES, outcome="tried")


def test_a_late_answer_is_no_reason_to_ask_again() -> None:
    metrics, handle = Metrics(), Handle("hang")
    assert ask(handle, metrics, seconds=0.05) == [LATE]
    assert handle.calls == ["score"]


def test_without_time_there_is_no_second_attempt() -> None:
    metrics, handle = Metrics(), Handle(RayError("gone"))
    assert ask(handle, metrics, seconds=0.01, min_left_ms=20) == [DEAD]
    assert handle.calls == ["score"]


def test_an_event_encoded_for_another_model_is_sent_whole() -> None:
    handle = Handle(STALE)
    assert ask(handle, Metrics()) == [SCORED]
    assert handle.calls == ["score", "score_body"]


def test_a_second_attempt_does_not_send_again_what_was_refused_as_stale() -> None:
    handle = Handle(STALE, RayError("gone"), STALE)
    assert ask(handle, Metrics()) == [SCORED]
    assert handle.calls == ["score", "score_body"] * 2


def test_a_model_that_fails_again_and_again_is_left_alone_for_a_while() -> None:
    handle = Handle(*[RayError("gone")] * 100)
    replies = ask(handle, Metrics(), times=20, budget_fraction=0.0, breaker_failures=5, breaker_seconds=60)
    assert replies == [DEAD] * 20
    assert len(handle.calls) == 5


def test_the_breaker_lets_one_try_after_its_pause_and_all_after_a_success() -> None:
    breaker = Breaker(RetrySettings(breaker_failures=2, breaker_seconds=0.05))
    for _ in range(2):
        assert breaker.allows()
        breaker.learn(LATE)
    assert not breaker.allows()
    time.sleep(0.06)
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.learn(SCORED)
    assert [breaker.allows(), breaker.allows()] == [True, True]
    assert not breaker.open


@pytest.mark.parametrize(("fraction", "spent"), [(0.0, 0), (0.1, 10), (1.0, 10)])
def test_a_budget_saves_ten_at_most(fraction: float, spent: int) -> None:
    budget = RetryBudget(fraction)
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == spent
