"""A labelled backfill becomes a calibrated model and a policy that says what it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cancellation.decision.calibration import split_events
from cancellation.decision.calibration_plot import draw_reliability
from cancellation.decision.calibration_run import (
    CalibrationSettings,
    calibrate_backfill,
    figures,
    threshold_rows,
    write_calibrated,
)
from cancellation.decision.policy import load_policy
from cancellation.decision.sample import LabelledSample
from cancellation.decision.thresholds import ThresholdSettings
from cancellation.events.factors import VERDICTS
from cancellation.scoring.shard_steps import SCORED_SCHEMA
from cluster.statistics.temperature import class_probabilities

POLICY = load_policy()
SETTINGS = CalibrationSettings()
SAMPLE = LabelledSample(source="backfill", drawn="random", outcomes=("penalty", "investigate", "none"))
NOON = 1_793_448_000.0


def backfill(sizes: dict[str, int], *, temperature: float = 2.0, noise: float = 0.0, seed: int = 0) -> pa.Table:
    """Scored rows of a model that is right once its logits are divided by a temperature; some labels are wrong."""
    rng = np.random.default_rng(seed)
    markets = [market for market, size in sizes.items() for _ in range(size)]
    right = rng.normal(0, 3.0, (len(markets), 3))
    right[:, 0] += np.where(rng.random(len(markets)) < 0.4, 6.0, -6.0)
    probabilities = class_probabilities(right, 1.0)
    labels = np.minimum((rng.random((len(markets), 1)) > probabilities.cumsum(axis=1)).sum(axis=1), 2)
    labels = np.where(rng.random(len(markets)) < noise, rng.integers(0, 3, len(markets)), labels)
    rows = [
        {
            "event_id": f"e{number}",
            "market": market,
            "model_version": "m@1",
            "logits": logits,
            "label": VERDICTS[label],
            "seller_id": f"s{number}",
            "cancelled_at": NOON + 60.0 * order,
            "place": f"b.jsonl:{number}",
        }
        for number, (market, logits, label, order) in enumerate(
            zip(markets, right * temperature, labels, rng.permutation(len(markets)).tolist(), strict=True)
        )
    ]
    return pa.Table.from_pylist(rows, schema=SCORED_SCHEMA)


def test_large_markets_are_proven_small_ones_pooled_and_the_rest_told_what_is_missing() -> None:
    found = calibrate_backfill(
        backfill({"ID": 3000, "SG": 350, "TW": 350}), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22"
    )
    assert found.calibration.temperature == pytest.approx(2.0, rel=0.15)
    assert found.calibration.ece_after < found.calibration.ece_before
    indonesia, singapore, brazil = (found.policy.market(code) for code in ("ID", "SG", "BR"))
    assert indonesia.penalty is not None
    assert indonesia.evidence is not None
    assert indonesia.evidence.lower_bound >= 0.90
    assert (indonesia.evidence.model_version, indonesia.evidence.date) == ("m@1", "2026-11-22")
    assert (indonesia.evidence.source, indonesia.evidence.sampling) == ("backfill", "random")
    assert indonesia.evidence.period.startswith("2026-11-01/2026-11-0")
    assert indonesia.evidence.sellers == indonesia.evidence.cases
    assert indonesia.evidence.temperature == found.calibration.temperature
    assert (POLICY.demo, found.policy.demo) == (True, False), "real labels end a demo"
    assert singapore.evidence is not None
    assert singapore.evidence.pooled == ("SG", "TW")
    assert brazil.penalty is None
    assert brazil.evidence is not None
    assert "no labelled case" in brazil.evidence.note
    assert {code: market.state for code, market in found.policy.markets.items()} == {
        code: market.state for code, market in POLICY.markets.items()
    }


def test_a_market_of_few_labels_has_no_penalty_and_is_told_how_many_are_missing() -> None:
    found = calibrate_backfill(
        backfill({"ID": 3000, "SG": 130}, noise=0.02), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22"
    )
    singapore = found.policy.market("SG")
    assert singapore.penalty is None
    assert singapore.evidence is not None
    assert singapore.evidence.cases_missing
    assert singapore.evidence.events_missing > singapore.evidence.cases_missing
    texts = {row[0]: row for row in threshold_rows(found)}
    singapores = dict(zip(texts["market"], texts["SG"], strict=True))
    assert singapores["penalty"] == "none"
    assert int(singapores["cases missing"]) == singapore.evidence.cases_missing


def test_thresholds_rest_on_events_that_the_temperature_never_saw() -> None:
    table = backfill({"ID": 4000})
    found = calibrate_backfill(table, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")
    assert found.calibration.fitted_events == pytest.approx(1000, abs=150)
    assert found.calibration.fitted_events + found.calibration.judged_events == 4000
    evidence = found.policy.market("ID").evidence
    assert evidence is not None
    assert evidence.cases <= found.calibration.judged_events


def test_an_earlier_threshold_falls_when_its_market_has_no_case_any_more() -> None:
    first = calibrate_backfill(
        backfill({"ID": 3000, "TH": 3000}), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22"
    ).policy
    assert first.market("TH").penalty is not None
    second = calibrate_backfill(backfill({"ID": 3000}), first, SETTINGS, sample=SAMPLE, day="2026-11-23").policy
    assert second.market("TH").penalty is None


def test_no_earlier_threshold_stands_in_a_new_ones_way() -> None:
    events = backfill({"ID": 3000})
    first = calibrate_backfill(events, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22").policy
    assert (proven := first.market("ID").penalty) is not None
    strict = replace(first.market("ID"), induced=0.999, penalty=0.999)
    assert proven < 0.999
    again = replace(first, markets={**first.markets, "ID": strict})
    found = calibrate_backfill(events, again, SETTINGS, sample=SAMPLE, day="2026-11-23").policy.market("ID")
    assert found.thresholds == first.market("ID").thresholds


def test_what_is_written_is_what_was_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"weights")
    found = calibrate_backfill(backfill({"ID": 3000, "ZZ": 500}), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")
    write_calibrated(found, source, str(tmp_path / "out"), source="backfill.jsonl", day="2026-11-22")
    assert load_policy(tmp_path / "out" / "policy.toml") == found.policy
    record = json.loads((tmp_path / "out" / "model" / "calibration.json").read_text())
    assert record["temperature"] == found.calibration.temperature
    assert {"ece_before", "ece_after", "fitted_events", "judged_events", "backfill", "date"} <= record.keys()
    assert (tmp_path / "out" / "model" / "model.onnx").read_bytes() == b"weights"
    assert not (source / "calibration.json").exists()
    assert found.unknown_markets == ("ZZ",)
    assert figures(found)["penalty.ID"] == found.policy.market("ID").penalty
    draw_reliability(found.calibration).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize("folder", ["", "eval/market=ID/"])
def test_an_evaluation_set_must_not_calibrate(folder: str) -> None:
    table = backfill({"ID": 1500})
    places = [
        f"{folder}reviewed_cases.jsonl:{n}" if n == 700 else place for n, place in enumerate(table["place"].to_pylist())
    ]
    table = table.set_column(table.schema.get_field_index("place"), SCORED_SCHEMA.field("place"), pa.array(places))
    with pytest.raises(ValueError, match="reviewed_cases is an evaluation set"):
        calibrate_backfill(table, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def without(table: pa.Table, keep: Callable[[dict[str, Any]], bool]) -> pa.Table:
    return pa.Table.from_pylist([row for row in table.to_pylist() if keep(row)], schema=SCORED_SCHEMA)


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        (lambda row: row["label"] == "induced", "none is labelled not_induced; label a random sample"),
        (lambda row: row["label"] != "inconclusive", "none is labelled inconclusive"),
        (lambda row: row["label"] == "induced" or row["market"] == "TH", "of ID are labelled induced; label a random"),
        (lambda row: row["logits"][0] > max(row["logits"][1:]) + 3.0, "are flagged ones; label a random sample"),
    ],
    ids=["one class", "two classes", "one class in a market", "flagged cases only"],
)
def test_a_one_sided_backfill_is_refused_and_what_is_missing_is_named(
    keep: Callable[[dict[str, Any]], bool], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        calibrate_backfill(
            without(backfill({"ID": 9000, "TH": 9000}), keep), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22"
        )


def test_what_was_not_drawn_at_random_from_all_outcomes_is_refused() -> None:
    table = backfill({"ID": 3000})
    chosen = SAMPLE.model_copy(update={"drawn": "chosen"})
    with pytest.raises(ValueError, match="a random sample of all cancellations is expected"):
        calibrate_backfill(table, POLICY, SETTINGS, sample=chosen, day="2026-11-22")
    upheld = SAMPLE.model_copy(update={"outcomes": ("penalty",)})
    with pytest.raises(ValueError, match="those with investigate and none are missing"):
        calibrate_backfill(table, POLICY, SETTINGS, sample=upheld, day="2026-11-22")


def test_later_cases_of_other_sellers_prove_what_was_fitted_on_earlier_ones() -> None:
    rng = np.random.default_rng(1)
    at, sellers = rng.permutation(4000).astype(float), [f"s{number}" for number in rng.integers(0, 500, 4000)]
    fit, prove = split_events(at, sellers, 0.25)
    assert at[fit].max() < at[prove].min()
    assert not set(np.array(sellers)[fit]) & set(np.array(sellers)[prove])
    assert 100 < fit.sum() < 1000 < prove.sum() < 3000


def test_cases_of_few_sellers_prove_nothing() -> None:
    table = backfill({"ID": 6000})
    few = [f"s{number % 20}" for number in range(6000)]
    place = table.schema.get_field_index("seller_id")
    found = calibrate_backfill(
        table.set_column(place, SCORED_SCHEMA.field("seller_id"), pa.array(few)),
        POLICY,
        SETTINGS,
        sample=SAMPLE,
        day="2026-11-22",
    ).policy.market("ID")
    assert found.penalty is None
    assert found.evidence is not None
    assert "sellers: at least 30 are needed" in found.evidence.note


def test_simulated_cases_keep_a_demo_a_demo() -> None:
    simulated = SAMPLE.model_copy(update={"source": "simulation"})
    found = calibrate_backfill(backfill({"ID": 3000}), POLICY, SETTINGS, sample=simulated, day="2026-11-22")
    assert found.policy.demo
    assert found.policy.market("ID").evidence.source == "simulation"


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1,000 labelled events are expected .*, found 900"):
        calibrate_backfill(backfill({"ID": 900}), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def test_two_models_in_one_backfill_are_refused() -> None:
    table = backfill({"ID": 1000})
    other = table.set_column(
        table.schema.get_field_index("model_version"),
        SCORED_SCHEMA.field("model_version"),
        pa.array(["m@2"] * 1000).dictionary_encode().cast(SCORED_SCHEMA.field("model_version").type),
    )
    with pytest.raises(ValueError, match=r"one model are expected, found m@1, m@2"):
        calibrate_backfill(pa.concat_tables([table, other]), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def test_a_part_that_was_uploaded_twice_proves_nothing() -> None:
    table, settings = backfill({"ID": 600}), SETTINGS.model_copy(update={"min_events": 100})
    found = calibrate_backfill(table, POLICY, settings, sample=SAMPLE, day="2026-11-22").policy.market("ID")
    assert found.penalty is None
    twice = pa.concat_tables([table, table.slice(0, 300)])
    with pytest.raises(ValueError, match=r"300 events are labelled twice"):
        calibrate_backfill(twice, POLICY, settings, sample=SAMPLE, day="2026-11-22")


def test_nobody_is_punished_where_nobody_would_look() -> None:
    with pytest.raises(ValidationError, match="at most the lowest penalty candidate"):
        CalibrationSettings(thresholds=ThresholdSettings(investigate=0.95))


def test_a_weighted_sample_proves_by_its_weights_and_not_without() -> None:
    """Half of the innocent flagged cases were left out of the sample; the others stand for them."""
    table, weighted = backfill({"ID": 6000}), SAMPLE.model_copy(update={"drawn": "weighted"})
    with pytest.raises(
        ValueError, match="a weighted sample is expected to say sampling_weight in its rows, found none"
    ):
        calibrate_backfill(table, POLICY, SETTINGS, sample=weighted, day="2026-11-22")
    rows = table.to_pylist()
    innocent = [row["label"] != "induced" and row["logits"][0] > max(row["logits"][1:]) for row in rows]
    left_out = [one and number % 2 == 0 for number, one in enumerate(innocent)]
    kept = [
        {**row, "sampling_weight": 2.0 if one else 1.0}
        for row, one, out in zip(rows, innocent, left_out, strict=True)
        if not out
    ]
    sampled = pa.Table.from_pylist(kept, schema=SCORED_SCHEMA)
    plain = sampled.drop_columns("sampling_weight")
    whole, by_weight, without = (
        calibrate_backfill(rows, POLICY, SETTINGS, sample=sample, day="2026-11-22")
        for rows, sample in ((table, SAMPLE), (sampled, weighted), (plain, SAMPLE))
    )
    found, expected = by_weight.thresholds["ID"].nearest, whole.thresholds["ID"].nearest
    assert by_weight.calibration.temperature == pytest.approx(whole.calibration.temperature, rel=0.02)
    assert without.calibration.temperature < by_weight.calibration.temperature
    assert by_weight.policy.market("ID").evidence.sampling == "weighted"
    assert found.precision == pytest.approx(expected.precision, abs=0.01)
    assert found.lower_bound <= expected.lower_bound + 0.005


def changed(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = SCORED_SCHEMA.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def test_rows_with_weights_are_no_sample_that_was_drawn_at_random() -> None:
    weighted = changed(backfill({"ID": 3000}), "sampling_weight", [0.5, 1.5] * 1500)
    with pytest.raises(ValueError, match=r"drawn random.*3,000 rows have a sampling_weight.*\"drawn\": \"weighted\""):
        calibrate_backfill(weighted, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")
    ones = changed(backfill({"ID": 3000}), "sampling_weight", [1.0] * 3000)
    calibrate_backfill(ones, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def test_an_event_that_two_files_label_is_refused() -> None:
    table = backfill({"ID": 3000})
    others = changed(table.slice(0, 2), "label", ["not_induced", "induced"])
    with pytest.raises(ValueError, match=r"2 events are labelled twice, the first at b.jsonl:0; keep one of its rows"):
        calibrate_backfill(pa.concat_tables([table, others]), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")
    elsewhere = changed(backfill({"TH": 3000}, seed=1), "event_id", table["event_id"].to_pylist())
    calibrate_backfill(pa.concat_tables([table, elsewhere]), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def test_what_is_not_labelled_or_not_readable_is_missing_from_a_sample() -> None:
    """Hard cases stay open, and one labeller spells in another way: without them, precision is another."""
    table = backfill({"ID": 3000})
    open_ones = changed(table, "label", [None, *table["label"].to_pylist()[1:]])
    with pytest.raises(ValueError, match=r"all 3,000 rows are expected to be labelled, 1 are not, the first at b.jso"):
        calibrate_backfill(open_ones, POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")
    spelt = pa.Table.from_pylist([{"place": "b.jsonl:9", "error": "label: expected one of"}], schema=SCORED_SCHEMA)
    with pytest.raises(ValueError, match=r"1 of 3,001 rows could not be read.*b.jsonl:9: label: expected one of"):
        calibrate_backfill(pa.concat_tables([table, spelt]), POLICY, SETTINGS, sample=SAMPLE, day="2026-11-22")


def test_a_proof_is_at_the_confidence_that_policy_and_card_say() -> None:
    with pytest.raises(ValidationError, match="confidence"):
        ThresholdSettings(confidence=0.6)
