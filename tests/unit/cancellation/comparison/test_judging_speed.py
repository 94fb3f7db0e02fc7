"""What a language model's answers cost in a day, beside what every other judge costs."""

from __future__ import annotations

from typing import Any

import pytest

from cancellation.comparison.judging_speed import PriceSettings, answering_speed
from cancellation.llm.backends import BackendSettings

TAKEN = {"prompt_tokens": 1000, "completion_tokens": 50, "cost_usd": 0.001, "seconds_to_verdict": 2.0, "seconds": 3.0}
PRICE = PriceSettings(events_per_day=300_000, core_hour=0.05, utilization=0.5)


def _speed(price: PriceSettings = PRICE, **backend: Any) -> Any:
    return answering_speed([TAKEN] * 20, BackendSettings(**backend), price)


def test_seconds_of_cores_cost_what_any_judges_do() -> None:
    assert _speed().cost_per_day == pytest.approx(300_000 * 3 / 3600 / 0.5 * 0.05)
    assert _speed(local={"num_threads": 2}).cost_per_day == pytest.approx(2 * _speed().cost_per_day)
    dearer = PRICE.model_copy(update={"core_hour": 5.0})
    assert _speed(dearer).cost_per_day == pytest.approx(100 * _speed().cost_per_day)


@pytest.mark.parametrize("backend", [{"kind": "endpoint"}, {"local": {"device": "cuda"}}])
def test_a_server_and_a_gpu_have_prices_of_their_own(backend: dict[str, Any]) -> None:
    assert _speed(**backend).cost_per_day == pytest.approx(300.0)


def test_answers_come_as_many_at_once_as_are_asked_for() -> None:
    assert _speed().events_per_second == pytest.approx(1 / 3)
    served = _speed(kind="endpoint", endpoint={"concurrency": 8})
    assert served.events_per_second == pytest.approx(8 / 3)
    assert served.p50_ms == 2000
