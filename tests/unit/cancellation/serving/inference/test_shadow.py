"""Shadows are not felt: hung, crashing or slow, they lose their own copies and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cancellation.serving.inference.messages import POISON, Reply
from cancellation.serving.inference.shadow import Copy, Shadow
from cancellation.serving.observability import metrics as m
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.settings import ShadowSettings
from tests.servers.serving_replicas import serving, simulated_event


async def hang(_copies: Sequence[Any], _seconds: float) -> Any:
    await asyncio.Event().wait()
    raise AssertionError


async def crash(_copies: Sequence[Any], _seconds: float) -> Any:
    raise ConnectionError("the shadow is gone")


async def dawdle(bodies: Sequence[bytes], _seconds: float) -> list[Reply]:
    await asyncio.sleep(0.1)
    return [POISON for _ in bodies]


SHADOW = {"name": "next", "source": "somewhere", "share": 1.0, "max_queue": 2, "concurrency": 1, "timeout_seconds": 0.2}


@pytest.mark.parametrize("ask", [hang, crash, dawdle])
def test_a_bad_shadow_changes_no_answer_and_every_copy_is_accounted_for(tmp_path: Path, ask: Any) -> None:
    events = [simulated_event(index) for index in range(12)]

    async def answers(folder: Path, **settings: Any) -> list[bytes]:
        async with serving(folder, **settings) as client:
            found = [(await client.judge(event)).content for event in events]
            assert all(record["shadow"] is None for record in client.log())
            await asyncio.sleep(0.05)
        copies = client.metrics.total(m.SHADOW_COPIES, shadow="next")
        if settings:
            assert copies == len(events)
            assert client.metrics.total(m.SHADOW_COPIES, shadow="next", outcome="dropped") >= 1
        return found

    alone = asyncio.run(answers(tmp_path / "alone"))
    beside = asyncio.run(answers(tmp_path / "beside", shadows=[SHADOW], shadow_models={"next": ask}))
    assert beside == alone


def test_the_rules_as_a_shadow_are_logged_beside_the_model(tmp_path: Path) -> None:
    async def scenario() -> None:
        shadow = {"name": "v1", "source": "rules", "share": 1.0}
        async with serving(tmp_path, shadows=[shadow]) as client:
            answer = (await client.judge(simulated_event(1))).json()
            (record,) = await client.logged("shadow")
            assert record["verdict"] == answer
            assert record["shadow"]["model_version"] == "rules-1"

    asyncio.run(scenario())


def test_copies_gather_into_few_calls_and_each_gets_its_own_verdict() -> None:
    calls: list[list[str]] = []
    recorded: dict[str, str] = {}

    async def ask(copies: Sequence[Copy], _seconds: float) -> list[Mapping[str, Any] | None]:
        calls.append([copy.event_id for copy in copies])
        return [None if copy.event_id == "e-3" else {"verdict": f"of {copy.event_id}"} for copy in copies]

    async def scenario() -> Metrics:
        metrics = Metrics()
        settings = ShadowSettings(name="next", share=1.0, batch_events=5)
        shadow = Shadow(
            settings, ask, lambda copy, verdict: recorded.update({copy.event_id: verdict["verdict"]}), metrics
        )
        for number in range(12):
            shadow.offer(Copy(f"e-{number}", "TH", b"{}", {"verdict": {"verdict": f"of e-{number}"}}))
        while metrics.total(m.SHADOW_COPIES) < 12:
            await asyncio.sleep(0.01)
        await shadow.close()
        return metrics

    metrics = asyncio.run(scenario())
    assert sorted(len(call) for call in calls) == [2, 5, 5]
    assert recorded == {f"e-{number}": f"of e-{number}" for number in range(12) if number != 3}
    assert metrics.total(m.SHADOW_COPIES, outcome="failed") == 1
    assert metrics.total(m.SHADOW_COPIES, outcome="scored") == 11
    assert metrics.total(m.SHADOW_DISAGREEMENTS) == 0


def test_the_share_is_of_the_events_and_the_same_everywhere() -> None:
    async def chosen(name: str, share: float) -> set[str]:
        shadow = Shadow(ShadowSettings(name=name, share=share), crash, lambda _copy, _verdict: None, Metrics())
        found = {f"e-{number}" for number in range(2000) if shadow.wants(f"e-{number}")}
        await shadow.close()
        return found

    first, again = asyncio.run(chosen("next", 0.3)), asyncio.run(chosen("next", 0.3))
    assert first == again
    assert 500 < len(first) < 700
    assert asyncio.run(chosen("next", 0.0)) == set()
    assert len(asyncio.run(chosen("next", 1.0))) == 2000


def test_offering_to_a_hung_shadow_takes_microseconds() -> None:
    async def scenario() -> float:
        shadow = Shadow(ShadowSettings(name="next", share=1.0), hang, lambda _copy, _verdict: None, Metrics())
        copy = Copy("e", "TH", b"{}", {})
        started = time.perf_counter()
        for _ in range(1000):
            shadow.offer(copy)
        each = (time.perf_counter() - started) / 1000
        await shadow.close()
        return each

    assert asyncio.run(scenario()) < 1e-3
