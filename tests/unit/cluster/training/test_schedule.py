"""The learning rate rises, falls as a cosine, and ends at its floor."""

from __future__ import annotations

import math

import pytest

from cluster.training.schedule import warmup_cosine


def test_the_rate_rises_to_its_peak_and_falls_to_the_floor() -> None:
    rates = [warmup_cosine(step, 100, warmup_fraction=0.1, floor=0.05) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(rates) == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx(0.05)
    assert rates[55] == pytest.approx(0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))


def test_a_run_of_one_step_has_its_peak() -> None:
    assert warmup_cosine(0, 1, warmup_fraction=0.05, floor=0.02) == 1.0
