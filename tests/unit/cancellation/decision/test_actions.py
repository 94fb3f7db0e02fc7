"""The one function from score to action: a penalty only on a proof of this model, this market and real sellers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cancellation.decision.actions import choose_action, demo_line, why_no_penalty
from cancellation.decision.policy import Evidence, MarketPolicy, Policy
from cancellation.model.spec import ModelIdentity

MODEL = ModelIdentity("m@1", 0.9, ("SG", "TH"))
PROOF = Evidence(100, 100, 0.97, "m@1", "2026-11-22", source="backfill", temperature=0.9)
LIVE = MarketPolicy("live", 3, "en", 0.45, 0.95, PROOF)


def policy_of(market: MarketPolicy, *, demo: bool = False) -> Policy:
    return Policy("1", MarketPolicy("off", 3, "en"), {"SG": market}, demo=demo)


@pytest.mark.parametrize(
    ("market", "score", "source", "expected"),
    [
        (LIVE, 0.951, "model", "penalty"),
        (LIVE, 0.95, "model", "investigate"),
        (LIVE, 0.45, "model", "none"),
        (LIVE, 1.0, "rules", "investigate"),
        (LIVE, 1.0, "fallback", "investigate"),
        (replace(LIVE, state="shadow"), 1.0, "model", "investigate"),
        (replace(LIVE, state="off"), 1.0, "model", "investigate"),
        (replace(LIVE, penalty=None), 1.0, "model", "investigate"),
    ],
)
def test_a_penalty_needs_a_live_market_its_model_and_a_score_above(
    market: MarketPolicy, score: float, source: str, expected: str
) -> None:
    assert choose_action(policy_of(market), "SG", score, source, MODEL) == expected


@pytest.mark.parametrize(
    ("model", "evidence", "why"),
    [
        (replace(MODEL, version="m@2"), PROOF, "the threshold was proven for model m@1, not for m@2"),
        (replace(MODEL, temperature=1.2), PROOF, "proven at temperature 0.9, the model has 1.2"),
        (replace(MODEL, temperature=0.90001), PROOF, "proven at temperature 0.9, the model has 0.90001"),
        (replace(MODEL, markets=("TH",)), PROOF, r"model m@1 was not trained on SG \(on TH\)"),
        (MODEL, replace(PROOF, source=None), r"does not say what it rests on \(source\)"),
        (MODEL, replace(PROOF, source="simulation"), "rests on simulated cases, and the policy does not say demo"),
        (MODEL, replace(PROOF, source="written"), "rests on written cases, and the policy does not say demo"),
    ],
)
def test_without_its_own_proof_people_look_and_the_reason_is_said(
    model: ModelIdentity, evidence: Evidence, why: str
) -> None:
    policy = policy_of(replace(LIVE, evidence=evidence))
    assert choose_action(policy, "SG", 1.0, "model", model) == "investigate"
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(why_no_penalty(policy, "SG", model))


@pytest.mark.parametrize("source", ["simulation", "written"])
def test_a_demo_punishes_on_simulated_proof_and_says_so(source: str) -> None:
    market = replace(LIVE, evidence=replace(PROOF, source=source))
    policy = policy_of(market, demo=True)
    assert choose_action(policy, "SG", 1.0, "model", MODEL) == "penalty"
    assert "1+demo" in (demo_line(policy) or "")
    assert choose_action(policy, "SG", 1.0, "model", replace(MODEL, version="m@2")) == "investigate"
    assert demo_line(policy_of(market)) is None


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1])
def test_a_score_that_is_none_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="a score from 0 to 1 is expected"):
        choose_action(policy_of(LIVE), "SG", score, "model", MODEL)
