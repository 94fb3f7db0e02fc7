"""What a new market must bring, and what it must not do to the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cancellation.new_market import NewMarketSettings, check_labels, check_old_markets, is_worse, paired_change
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from tests.builders.verdict_models import WordModel

SETTINGS = NewMarketSettings(min_labels=100)
EXAMPLES = list(simulated_examples(SimulationSettings(num_events=300, markets=("MX",)), 2, range(300)))


def test_labels_are_counted_or_what_is_missing_is_said() -> None:
    step = check_labels(EXAMPLES, "MX", "mx.jsonl", SETTINGS)
    assert step.done
    assert sum(int(part.split()[0]) for part in step.found.split(", ")) == 300
    with pytest.raises(ValueError, match=r"at least 5,000 .* of MX .*found 300: 4,700 more to label"):
        check_labels(EXAMPLES, "MX", "mx.jsonl", NewMarketSettings())
    with pytest.raises(ValueError, match=r"events of BR only are expected, found MX too"):
        check_labels(EXAMPLES, "BR", "mx.jsonl", SETTINGS)
    same = [replace(example, label="induced") for example in EXAMPLES]
    with pytest.raises(ValueError, match="no event is labelled not_induced"):
        check_labels(same, "MX", "mx.jsonl", SETTINGS)


def test_a_sure_loss_is_one_however_small_and_a_large_one_however_unsure() -> None:
    before = np.ones(20_000, bool)
    after = before.copy()
    after[:100] = False
    assert is_worse(paired_change(before, after), 0.02)
    rng = np.random.default_rng(0)
    noisy = [rng.random(60) < share for share in (0.8, 0.75)]
    change = paired_change(*noisy)
    assert change.high > 0
    assert is_worse(replace(change, value=-0.05), 0.02)
    assert not is_worse(replace(change, value=-0.01), 0.02)
    assert not is_worse(paired_change(before, before), 0.0)


def test_old_markets_are_compared_one_by_one() -> None:
    examples = EXAMPLES[:60] + list(
        simulated_examples(SimulationSettings(num_events=60, markets=("ID",)), 2, range(60))
    )
    same = check_old_markets(WordModel(), WordModel(), examples, 0.02)
    assert same.done
    assert same.found == "ID +0.0 [+0.0, +0.0], MX +0.0 [+0.0, +0.0]"
    accuser = WordModel(weights={}, bias=10.0)
    spoilt = check_old_markets(WordModel(weights={}), accuser, examples, 0.02)
    assert spoilt.line().startswith("- [ ] old markets no worse")
    assert "ID -" in spoilt.found
