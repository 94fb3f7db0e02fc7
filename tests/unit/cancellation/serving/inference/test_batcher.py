"""Batches by tokens: budget, order, deadlines, and one answer per event."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np

from cancellation.model.spec import ModelIdentity
from cancellation.model.verdict_model import Scores
from cancellation.serving.inference.batcher import MicroBatcher
from cancellation.serving.inference.messages import (
    LATE,
    SHED,
    Scored,
    pack_event,
    pack_reply,
    unpack_event,
    unpack_reply,
)
from cancellation.serving.observability import metrics as m
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.settings import ModelSettings
from cancellation.text.encoding import EncodedEvent


def encoded(name: str, tokens: int = 10) -> EncodedEvent:
    return EncodedEvent(name, "TH", list(range(tokens)), (), np.full(68, np.nan, np.float32))


class Recorder:
    """A model that writes down its calls and may be held in the first of them."""

    identity = ModelIdentity("recorder@1", 1.0, ("TH",))

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.reached, self.released = threading.Event(), threading.Event()

    def score(self, events: Sequence[EncodedEvent]) -> Scores:
        self.calls.append([event.event_id for event in events])
        self.reached.set()
        self.released.wait(10)
        logits = np.array([[len(event.token_ids), 0, 0] for event in events], np.float32)
        return Scores(logits, np.zeros((len(events), 18), np.float32))


async def batched(model: Recorder, first: list, then: list, **settings: int) -> tuple[list, Metrics]:
    """Hold the model with the first events; offer the others; let go."""
    metrics = Metrics()
    batcher = MicroBatcher(model, ModelSettings(**{"hung_seconds": 60, "calls": 1, **settings}), metrics)
    soon = time.monotonic() + 20
    tasks = [asyncio.create_task(batcher.score(event, soon)) for event in first]
    await asyncio.to_thread(model.reached.wait, 10)
    tasks += [
        asyncio.create_task(batcher.score(event, soon if left is None else time.monotonic() + left, bulk=bulk))
        for event, left, bulk in then
    ]
    await asyncio.sleep(0.05)
    model.released.set()
    replies = await asyncio.gather(*tasks)
    await batcher.close()
    return replies, metrics


def test_what_came_in_meanwhile_is_batched_within_the_budget_of_padded_tokens() -> None:
    model = Recorder()
    waiting = [(encoded(f"e{number}", tokens), None, False) for number, tokens in enumerate((10, 30, 10, 40, 10))]
    replies, metrics = asyncio.run(batched(model, [encoded("first")], waiting, batch_tokens=90))
    assert model.calls == [["first"], ["e0", "e1", "e2"], ["e3", "e4"]]
    assert [reply.logits[0] for reply in replies] == [10, 10, 30, 10, 40, 10]
    assert metrics.total(m.EXPIRED) == 0


def test_an_event_longer_than_the_budget_goes_alone() -> None:
    model = Recorder()
    waiting = [(encoded("long", 200), None, False), (encoded("short"), None, False)]
    replies, _ = asyncio.run(batched(model, [encoded("first")], waiting, batch_tokens=90))
    assert model.calls == [["first"], ["long"], ["short"]]
    assert all(isinstance(reply, Scored) for reply in replies)


def test_expired_work_never_reaches_the_model() -> None:
    model = Recorder()
    waiting = [(encoded("expired"), 0.001, False), (encoded("alive"), None, False)]
    replies, metrics = asyncio.run(batched(model, [encoded("first")], waiting))
    assert model.calls == [["first"], ["alive"]]
    assert replies[1] == LATE
    assert metrics.total(m.EXPIRED) == 1


def test_live_events_go_before_bulk_but_do_not_starve_it() -> None:
    model = Recorder()
    live = [(encoded(f"live{number}"), None, False) for number in range(10)]
    waiting = [(encoded("bulk"), None, True), *live]
    asyncio.run(batched(model, [encoded("first")], waiting, batch_tokens=32))
    order = [name for call in model.calls for name in call]
    assert order[1:4] == ["live0", "live1", "live2"]
    assert order.index("bulk") <= 1 + 3 * 8


def test_more_than_may_wait_is_turned_away() -> None:
    model = Recorder()
    waiting = [(encoded(f"e{number}"), None, False) for number in range(5)]
    replies, _ = asyncio.run(batched(model, [encoded("first")], waiting, max_queue=3))
    assert replies.count(SHED) == 2


def test_as_many_calls_at_a_time_as_allowed_and_hung_only_if_all_are() -> None:
    async def scenario() -> None:
        model = Recorder()
        batcher = MicroBatcher(model, ModelSettings(calls=2, hung_seconds=0.05), Metrics())
        soon = time.monotonic() + 20
        first = asyncio.create_task(batcher.score(encoded("first"), soon))
        await asyncio.sleep(0.15)
        assert not batcher.hung
        second = asyncio.create_task(batcher.score(encoded("second"), soon))
        third = asyncio.create_task(batcher.score(encoded("third"), soon))
        for _ in range(1000):
            if batcher.hung:
                break
            await asyncio.sleep(0.01)
        assert model.calls == [["first"], ["second"]] or model.calls == [["first"], ["second", "third"]]
        assert batcher.hung
        model.released.set()
        replies = await asyncio.gather(first, second, third)
        assert all(isinstance(reply, Scored) for reply in replies)
        assert not batcher.hung
        await batcher.close()

    asyncio.run(scenario())


def test_messages_survive_the_way_between_processes() -> None:
    event = encoded("e-ü", 7)
    event.features[3] = 1.5
    back, head = unpack_event(pack_event(event, encoder="abc", left_ms=12.5, bulk=True))
    assert (back.event_id, back.market, back.token_ids) == (event.event_id, event.market, event.token_ids)
    np.testing.assert_array_equal(back.features, event.features)
    assert (head["encoder"], head["left_ms"], head["bulk"]) == ("abc", 12.5, True)
    scored = Scored([0.1, 0.2, 0.3], [0.5] * 18, "small@1", 1.25, 0.5, 3.0, ("ID", "TH"))
    assert unpack_reply(pack_reply(scored)) == scored
    assert unpack_reply(pack_reply(LATE)) == LATE
