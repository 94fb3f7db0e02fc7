"""Who is let in: a hiccup of the machine turns nobody away, a queue that does not empty does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cancellation.serving.answering.admission import Admission, Overloaded
from cancellation.serving.observability import metrics as m
from cancellation.serving.observability.metrics import Metrics
from cancellation.serving.settings import AdmissionSettings

SETTINGS = AdmissionSettings(
    max_queue_age_ms=500, standing_queue_age_ms=15, standing_ms=100, max_loop_lag_ms=60_000, max_ongoing=3
)


def admitted(admission: Admission) -> bool:
    try:
        with admission.admitted():
            return True
    except Overloaded:
        return False


def with_admission(work: Callable[[Admission, list[float], Metrics], object]) -> None:
    """Ask an admission whose queue is as old as the list's last entry says, in milliseconds."""

    async def scenario() -> None:
        ages, metrics = [0.0], Metrics()
        admission = Admission(SETTINGS, lambda: ages[-1] / 1e3, metrics)
        await work(admission, ages, metrics)
        admission.close()

    asyncio.run(scenario())


def test_a_queue_that_is_old_now_turns_away() -> None:
    async def work(admission: Admission, ages: list[float], metrics: Metrics) -> None:
        assert admitted(admission)
        ages.append(501.0)
        assert not admitted(admission)
        assert metrics.total(m.SHED, reason="queue_age") == 1
        ages.append(0.0)
        assert admitted(admission)

    with_admission(work)


def test_a_short_wait_is_let_pass_unless_it_lasts() -> None:
    async def work(admission: Admission, ages: list[float], metrics: Metrics) -> None:
        ages.append(20.0)
        assert admitted(admission)
        while admitted(admission):
            await asyncio.sleep(0.01)
        assert metrics.total(m.SHED, reason="standing_queue") == 1

    with_admission(work)


def test_a_queue_that_stays_is_held_at_its_target_until_it_is_gone_for_as_long() -> None:
    async def work(admission: Admission, ages: list[float], _metrics: Metrics) -> None:
        ages.append(20.0)
        while admitted(admission):
            await asyncio.sleep(0.01)
        ages.append(3.0)
        assert admitted(admission)
        ages.append(20.0)
        assert not admitted(admission)
        ages.append(3.0)
        await asyncio.sleep(0.3)  # for which the queue is short
        ages.append(20.0)
        assert admitted(admission)

    with_admission(work)


def test_waits_that_nobody_asked_about_do_not_count_as_lasting() -> None:
    async def work(admission: Admission, ages: list[float], metrics: Metrics) -> None:
        await asyncio.sleep(0.3)
        ages.append(20.0)
        assert admitted(admission)
        assert metrics.total(m.SHED) == 0

    with_admission(work)


def test_places_are_given_back() -> None:
    async def work(admission: Admission, _ages: list[float], metrics: Metrics) -> None:
        with admission.admitted(), admission.admitted(), admission.admitted():
            with pytest.raises(Overloaded, match="come back in 1 s"), admission.admitted():
                pass
            assert metrics.total(m.SHED, reason="ongoing") == 1
            with admission.admitted("batch"):
                assert admission.ongoing == 4
        assert admission.ongoing == 0

    with_admission(work)
