"""Own GPUs against a hosted model: the arithmetic by hand, and the page that shows it."""

from __future__ import annotations

import re

import pytest

from cluster.settings import load_settings
from jobs.relevance_cost import CostJob
from relevance.cost import Day, HostedModel, OwnGpu, break_even_pairs, cost_lines
from relevance.scoring.run import ScoringSettings
from tests.conftest import PROJECT

DAY = Day(pairs=3_600_000, window_hours=1.5)
GPU = OwnGpu(name="a", pairs_per_second=100, usd_per_hour=2, wait_fraction=0, start_minutes=30, fixed_usd_per_day=8)
HOSTED = HostedModel(name="b", input_usd=1.0, output_usd=6.0)


def test_own_gpus_by_hand() -> None:
    assert GPU.gpu_hours(DAY) == 10
    assert GPU.gpus(DAY) == 10  # an hour of each is left behind its start
    assert GPU.usd_per_day(DAY) == pytest.approx(10 * 2 + 10 * 0.5 * 2 + 8)
    waiting = GPU.model_copy(update={"wait_fraction": 0.5})
    assert waiting.gpu_hours(DAY) == 20


def test_a_hosted_model_by_hand() -> None:
    assert HOSTED.usd_per_pair(DAY) == pytest.approx((654 * 1.0 + 6.0) / 1e6)


@pytest.mark.parametrize(
    ("guidelines", "shortest", "cached"),
    [
        (384, 1024, 0.0),  # the common beginning is too short for a discount
        (384, 600, 0.9 * 634),  # all but the first pair of a product
        (384, 300, 0.9 * 634 + 0.1 * 384),  # and the first one shares the guidelines
    ],
)
def test_what_a_prefix_discount_covers(guidelines: int, shortest: int, cached: float) -> None:
    model = HOSTED.model_copy(update={"cached_input_usd": 0.5, "cached_from_tokens": shortest})
    day = DAY.model_copy(update={"guidelines_tokens": guidelines})
    assert model.cached_tokens(day) == pytest.approx(cached)
    assert model.usd_per_pair(day) == pytest.approx((654 - cached + cached * 0.5 + 6) / 1e6)


def test_at_the_break_even_volume_both_cost_the_same() -> None:
    volume = break_even_pairs(GPU, HOSTED, DAY)
    assert volume is not None
    at = DAY.model_copy(update={"pairs": round(volume), "window_hours": 24.0})
    assert GPU.gpus(at) == 1
    assert GPU.usd_per_day(at) == pytest.approx(HOSTED.usd_per_pair(at) * at.pairs, rel=1e-3)
    cheap = HostedModel(name="c", input_usd=0.001, output_usd=0.0)
    assert break_even_pairs(GPU, cheap, DAY) is None
    assert "no volume" in cost_lines(DAY, [GPU], [cheap])[-1]


def test_a_window_shorter_than_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match=r"day.window_hours=0.25: a takes 30 minutes to start; give the day more time"):
        cost_lines(DAY.model_copy(update={"window_hours": 0.25}), [GPU], [HOSTED])


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(ValueError, match="expected at least one of each; name them in the settings file"):
        cost_lines(DAY, [], [HOSTED])


def test_the_page_shows_what_the_command_prints_with_rates_that_were_measured() -> None:
    job = load_settings(CostJob, [], defaults=PROJECT / "jobs" / "relevance_cost.toml")
    page = (PROJECT / "docs" / "cost.md").read_text(encoding="utf-8")
    assert "\n".join(line.rstrip() for line in cost_lines(job.day, job.own, job.hosted)) in page
    measured = (PROJECT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = measured.partition("## Relevance engines on a GPU")[2].partition("\n## ")[0]
    for gpu in job.own:
        assert re.search(rf"\b{gpu.pairs_per_second:.0f}\b", section), gpu.name
    named = set(re.findall(r"`scoring\.(\w+)`", page))
    assert named
    assert named <= ScoringSettings.model_fields.keys()
