"""Verdicts: always the contract's form, whoever judged and however many classes the market has."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cancellation.decision.policy import Evidence, MarketPolicy, Policy, load_policy
from cancellation.decision.verdicts import (
    VERDICT_SCHEMA,
    likeliest_verdict,
    model_verdict,
    rules_verdict,
    verdict_probabilities,
    verdicts_of_table,
)
from cancellation.events.event import parse_event
from cancellation.events.factors import FACTORS
from cancellation.model.spec import ModelIdentity
from tests.builders.cancellation_events import event_mappings, sample_event

CONTRACT = Draft202012Validator(
    json.loads((resources.files("cancellation.events") / "schemas" / "verdict.schema.json").read_text())
)
POLICY = load_policy()
LOGITS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)
FACTOR_PROBABILITIES = st.lists(st.floats(0, 1, width=32), min_size=18, max_size=18)


def verdict_of(logits: list[float], factors: list[float] | None = None, *, market: str = "TH") -> dict[str, Any]:
    factors = factors or [0.0] * len(FACTORS)
    return model_verdict("e1", market, logits, factors, policy=POLICY, model=ModelIdentity("m@1", 1.0, ("TH",)))


@given(
    logits=LOGITS,
    factors=FACTOR_PROBABILITIES,
    market=st.sampled_from([*POLICY.markets, "ZZ"]),
    temperature=st.floats(0.05, 20),
)
def test_any_scores_of_a_model_become_the_contracts_verdict(
    logits: list[float], factors: list[float], market: str, temperature: float
) -> None:
    verdict = model_verdict("e1", market, logits, factors, policy=POLICY, model=ModelIdentity("m@1", temperature, ()))
    CONTRACT.validate(verdict)
    probabilities = verdict["probabilities"]
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert verdict["score"] == probabilities["induced"]
    above = POLICY.market(market).induced
    accused = above is None or probabilities["induced"] > above
    possible = {name: share for name, share in probabilities.items() if accused or name != "induced"}
    assert possible[verdict["verdict"]] == max(possible.values())
    assert len(probabilities) == POLICY.market(market).classes
    assert [factor["probability"] for factor in verdict["decision_factors"]] == sorted(
        (factor for factor in factors if factor >= 0.5), reverse=True
    )


def test_two_classes_keep_the_ratio_of_the_two() -> None:
    three = verdict_probabilities([1.0, 0.0, 2.0], temperature=1.0, classes=3)
    two = verdict_probabilities([1.0, 0.0, 2.0], temperature=1.0, classes=2)
    assert three["induced"] / three["not_induced"] == pytest.approx(two["induced"] / two["not_induced"])
    assert max(three, key=three.__getitem__) == "inconclusive"
    assert set(two) == {"induced", "not_induced"}


def test_a_temperature_above_one_moves_probabilities_together_and_changes_no_verdict() -> None:
    sharp, flat = (verdict_probabilities([2.0, 0.0, -1.0], temperature=t, classes=3) for t in (1.0, 3.0))
    assert sharp["induced"] > flat["induced"] > flat["not_induced"] > sharp["not_induced"]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_broken_logits_are_refused_not_passed_on(broken: float, place: int) -> None:
    logits = [0.0, 1.0, 2.0]
    logits[place] = broken
    with pytest.raises(ValueError, match="finite logits are expected"):
        verdict_probabilities(logits, temperature=1.0, classes=2)


@given(event_mappings(), st.sampled_from(["rules", "fallback"]))
def test_the_rules_answer_in_the_same_form_and_never_punish(mapping: dict[str, Any], source: str) -> None:
    event = parse_event(mapping)
    proven = MarketPolicy("live", 3, "th", 0.0, 0.0, Evidence(100, 100, 0.97, "m", "2026-11-22"))
    policy = Policy("1", MarketPolicy("off", 3, "en"), {event.market: proven})
    verdict = rules_verdict(event, policy=policy, source=source)
    CONTRACT.validate(verdict)
    assert verdict["source"] == source
    assert verdict["action"] != "penalty"


def test_the_rules_verdicts_evidence_is_a_place_in_the_chat() -> None:
    mapping = {**sample_event(), "chat": [{"at": "2026-03-01T00:00:00Z", "sender": "seller", "text": "please cancel"}]}
    mapping["cancelled_at"] = "2026-03-02T00:00:00Z"
    mapping = {name: mapping[name] for name in mapping if name not in ("calls", "fulfilment", "seller_activity")}
    mapping.pop("concurrent_orders")
    mapping["order"] = {"placed_at": "2026-02-28T00:00:00Z", "promised_ship_at": "2026-03-04T00:00:00Z"}
    verdict = rules_verdict(parse_event(mapping), policy=POLICY, source="rules")
    evidence = {factor["code"]: factor["evidence"] for factor in verdict["decision_factors"]}
    assert evidence["chat.asked_to_cancel"] == "chat[0]"


def test_the_rules_cannot_pass_for_the_model() -> None:
    with pytest.raises(ValueError, match="expected rules or fallback"):
        rules_verdict(parse_event(sample_event()), policy=POLICY, source="model")


def test_a_table_gives_verdicts_back_within_a_floats_precision() -> None:
    factors = list(np.linspace(0, 1, 18))
    verdicts = [verdict_of([2.0, 0.0, 1.0], factors), verdict_of([0.0, 3.0, 1.0], market="SG")]
    back = verdicts_of_table(pa.Table.from_pylist(verdicts, schema=VERDICT_SCHEMA))
    for row, verdict in zip(back, verdicts, strict=True):
        CONTRACT.validate(row)
        assert row["probabilities"] == pytest.approx(verdict["probabilities"])
        assert [factor["code"] for factor in row["decision_factors"]] == [
            factor["code"] for factor in verdict["decision_factors"]
        ]
        assert {key: row[key] for key in ("event_id", "verdict", "action", "source", "policy_version")} == {
            key: verdict[key] for key in ("event_id", "verdict", "action", "source", "policy_version")
        }


@pytest.mark.parametrize(
    ("shares", "above", "said"),
    [
        ({"induced": 0.55, "not_induced": 0.45}, None, "induced"),
        ({"induced": 0.55, "not_induced": 0.45}, 0.55, "not_induced"),  # above it, not at it, as with every threshold
        ({"induced": 0.56, "not_induced": 0.44}, 0.55, "induced"),
        ({"induced": 0.5, "not_induced": 0.2, "inconclusive": 0.3}, 0.6, "inconclusive"),
        (
            {"induced": 0.4, "not_induced": 0.6},
            0.3,
            "not_induced",
        ),  # a low threshold accuses nobody who is likely innocent
    ],
)
def test_a_seller_is_accused_above_the_markets_threshold_alone(
    shares: dict[str, float], above: float | None, said: str
) -> None:
    assert likeliest_verdict(shares, above) == said
