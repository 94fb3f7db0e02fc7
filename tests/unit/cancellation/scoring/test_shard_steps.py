"""Shards of verdicts: rows conserved in order, the contract in every row, and figures that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import pytest
from jsonschema import Draft202012Validator

from cancellation.decision.policy import Evidence, MarketPolicy, Policy
from cancellation.decision.verdicts import verdicts_of_table
from cancellation.events.files import EventRow, read_event_line
from cancellation.scoring.explanations import explain_verdict
from cancellation.scoring.shard_steps import (
    SCORED_SCHEMA,
    ScoringCounts,
    count_rows,
    failed_rows,
    score_rows,
    verdict_quality,
)
from cancellation.simulation.simulator import SimulationSettings, simulate
from tests.builders.cancellation_events import before, sample_event
from tests.builders.verdict_models import WordModel

CONTRACT = Draft202012Validator(
    json.loads((resources.files("cancellation.events") / "schemas" / "verdict.schema.json").read_text())
)
EVIDENCE = Evidence(100, 100, 0.97, "words@1", "2026-11-22", source="backfill")
PROVEN = MarketPolicy("live", 3, "th", 0.45, 0.9, EVIDENCE)
POLICY = Policy("p1", MarketPolicy("off", 3, "en"), {"TH": PROVEN, "SG": MarketPolicy("live", 2, "en")})


def saying(text: str, *, market: str = "TH", label: str | None = None) -> EventRow:
    chat = [{"at": before(60), "sender": "seller", "text": text}]
    event = {**sample_event(), "market": market, "chat": chat, "concurrent_orders": [], "buyer_reason": None}
    return read_event_line(json.dumps({"event": event, "label": label}).encode(), f"x:{text}")


def test_rows_come_out_in_order_the_bad_ones_with_their_error() -> None:
    rows = [saying("cancel"), EventRow("x:2", None, error="event: broken"), saying("mind")]
    table = score_rows(rows, WordModel(), POLICY)
    assert table.schema.equals(SCORED_SCHEMA)
    assert table["place"].to_pylist() == ["x:cancel", "x:2", "x:mind"]
    assert table["error"].to_pylist() == [None, "event: broken", None]
    assert table["action"].to_pylist() == ["penalty", None, "none"]
    assert table["logits"].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("policy", "model"),
    [
        (POLICY, WordModel(version="words@2")),
        (
            replace(POLICY, markets={"TH": replace(PROVEN, evidence=replace(EVIDENCE, source="simulation"))}),
            WordModel(),
        ),
    ],
    ids=["another model's proof", "simulated proof"],
)
def test_no_penalty_without_a_proof_of_this_model_on_real_sellers(policy: Policy, model: WordModel) -> None:
    assert score_rows([saying("cancel")], model, policy)["action"].to_pylist() == ["investigate"]


def test_more_events_than_one_call_takes_are_scored_as_if_alone() -> None:
    rows = [
        EventRow(f"e:{number}", labelled.event, labelled.label)
        for number, labelled in enumerate(simulate(SimulationSettings(num_events=600), 5))
    ]
    model = WordModel()
    verdicts = verdicts_of_table(score_rows(rows, model, POLICY))
    assert model.calls == 3
    for row, verdict in list(zip(rows, verdicts, strict=True))[::97]:
        CONTRACT.validate(verdict)
        (alone,) = verdicts_of_table(score_rows([row], model, POLICY))
        assert alone == verdict


def test_a_shard_of_bad_rows_only_needs_no_model() -> None:
    model = WordModel()
    table = score_rows([EventRow("x:1", None, error="event: broken")], model, POLICY)
    assert (len(table), model.calls) == (1, 0)


def test_a_shard_that_was_given_up_keeps_its_rows() -> None:
    rows = [saying("cancel", label="induced"), EventRow("x:2", None, error="event: broken")]
    table = failed_rows(rows, "model: died 3 times")
    assert table["error"].to_pylist() == ["model: died 3 times", "event: broken"]
    assert count_rows(table).failed == 2


def test_evidence_is_added_where_it_is_asked_for_and_an_action_is() -> None:
    model = WordModel()
    table = score_rows(
        [saying("cancel"), saying("mind")],
        model,
        POLICY,
        explain=lambda event, verdict: explain_verdict(event, verdict, model),
    )
    first, second = table["decision_factors"].to_pylist()
    assert [factor["evidence"] for factor in first] == ["chat[0]"]
    assert second == []


def test_counts_of_parts_add_up_to_those_of_the_whole_and_survive_json() -> None:
    rows = [
        saying("cancel", label="induced"),
        saying("cancel", label="not_induced"),
        saying("mind", label="induced", market="SG"),
        saying("mind", market="SG"),
        EventRow("x:1", None, error="chat[3].at: too late"),
        EventRow("x:2", None, error="chat[17].at: too late"),
    ]
    model = WordModel()
    whole = count_rows(score_rows(rows, model, POLICY))
    parts = [count_rows(score_rows(part, model, POLICY)) for part in (rows[:2], rows[2:5], rows[5:])]
    total = ScoringCounts.sum(json.loads(json.dumps(part.as_dict())) for part in parts)
    assert total.as_dict() == whole.as_dict()
    assert (whole.read, whole.scored, whole.failed) == (6, 4, 2)
    assert dict(whole.errors) == {"chat[].at: too late": 2}
    assert whole.markets["TH"] == {"induced": 2, "penalty": 2}
    assert whole.penalties["TH"] == {"induced": 1, "not_induced": 1}


def test_quality_of_a_known_confusion() -> None:
    confusion = {
        "induced>induced": 8,
        "not_induced>induced": 2,
        "induced>not_induced": 4,
        "inconclusive>not_induced": 6,
    }
    quality = verdict_quality(confusion, {"induced": 3, "not_induced": 1})
    assert (quality.labelled, quality.accuracy) == (20, pytest.approx(0.4))
    assert (quality.precision, quality.recall) == (pytest.approx(0.8), pytest.approx(8 / 12))
    assert (quality.penalties, quality.penalty_precision) == (4, pytest.approx(0.75))
    assert quality.matrix == ((8, 4, 0), (2, 0, 0), (0, 6, 0))


def test_quality_of_nothing_is_not_zero() -> None:
    quality = verdict_quality({}, {})
    assert (quality.accuracy, quality.precision, quality.penalty_precision) == (None, None, None)
