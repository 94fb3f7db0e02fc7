"""Rows of the table judge by the classes that a market has, as scoring does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cancellation.comparison.approaches import NetworkJudge, TreesJudge, collect_inputs
from cancellation.comparison.learners import TreeSettings
from cancellation.decision.policy import load_policy
from cancellation.events.factors import VERDICTS
from cancellation.events.files import EventRow
from cancellation.model.verdict_model import VerdictModel, load_verdict_model
from cancellation.new_market import check_old_markets
from cancellation.scoring.shard_steps import score_rows
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from tests.conftest import PROJECT

POLICY = load_policy()
SIMULATION = SimulationSettings(num_events=120, markets=("BR", "SG", "TW"))
EXAMPLES = list(simulated_examples(SIMULATION, 9000, range(120)))
EVENTS = [example.event for example in EXAMPLES]
TWO = np.array([POLICY.market(event.market).classes == 2 for event in EVENTS])


@pytest.fixture(scope="module")
def model() -> VerdictModel:
    return load_verdict_model(Path(PROJECT) / "cancellation" / "small_model")


def test_a_networks_row_says_what_scoring_says(model: VerdictModel) -> None:
    rows = [EventRow(str(number), event, None) for number, event in enumerate(EVENTS)]
    scored = score_rows(rows, model, POLICY)
    found = NetworkJudge(model, POLICY).judge(EVENTS)
    assert [VERDICTS[place] for place in found.verdicts] == scored["verdict"].to_pylist()
    assert found.probabilities[:, 0] == pytest.approx(scored["score"].to_numpy(), abs=1e-6)
    everywhere = NetworkJudge(model).judge(EVENTS).probabilities.argmax(axis=1)
    assert (everywhere[TWO] == 2).any(), "else nothing was left out"


def test_trees_say_nothing_that_a_market_does_not_know() -> None:
    unsure = [replace(one, label="inconclusive") if one.label == "not_induced" else one for one in EXAMPLES]
    taught = collect_inputs([*unsure, replace(EXAMPLES[0], label="not_induced")])
    with threadpool_limits(1):
        found, everywhere = (
            TreesJudge(TreeSettings(max_iter=4), taught, policy=policy).judge(EVENTS).probabilities
            for policy in (POLICY, None)
        )
    assert (everywhere[TWO].argmax(axis=1) == 2).any(), "else nothing was left out"
    assert (found[TWO, 2] == 0).all()
    assert found[TWO, 0] / found[TWO, 1] == pytest.approx(everywhere[TWO, 0] / everywhere[TWO, 1])
    assert found[~TWO] == pytest.approx(everywhere[~TWO])


def test_a_new_markets_model_is_held_against_the_old_one_by_verdicts_that_are_given(model: VerdictModel) -> None:
    """In Singapore a model that leans to `inconclusive` says what the other says there."""
    examples = [replace(one, label="not_induced") for one in EXAMPLES if one.event.market == "SG"]

    class Undecided:
        encoder, temperature, spec, version = model.encoder, model.temperature, model.spec, "undecided@1"

        def score(self, events):
            scores = model.score(events)
            scores.logits[:, 2] += 20.0
            return scores

    found = check_old_markets(model, Undecided(), examples, 0.02, policy=POLICY)
    assert found.done
    assert found.found.startswith("SG +0.0")
