"""A labelled backfill becomes a calibrated model and a policy that says what it rests on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cancellation.decision.calibration_plot import draw_reliability
from cancellation.decision.calibration_run import (
    CalibrationSettings,
    calibrate_backfill,
    figures,
    threshold_rows,
    write_calibrated,
)
from cancellation.decision.policy import load_policy
from cancellation.decision.thresholds import ThresholdSettings
from cancellation.events.factors import VERDICTS
from cancellation.scoring.shard_steps import SCORED_SCHEMA
from cluster.statistics.temperature import class_probabilities

POLICY = load_policy()
SETTINGS = CalibrationSettings()


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
            "place": f"b.jsonl:{number}",
        }
        for number, (market, logits, label) in enumerate(zip(markets, right * temperature, labels, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=SCORED_SCHEMA)


def test_large_markets_are_proven_small_ones_pooled_and_the_rest_told_what_is_missing() -> None:
    found = calibrate_backfill(backfill({"ID": 3000, "SG": 350, "TW": 350}), POLICY, SETTINGS, day="2026-11-22")
    assert found.calibration.temperature == pytest.approx(2.0, rel=0.15)
    assert found.calibration.ece_after < found.calibration.ece_before
    indonesia, singapore, brazil = (found.policy.market(code) for code in ("ID", "SG", "BR"))
    assert indonesia.penalty is not None
    assert indonesia.evidence is not None
    assert indonesia.evidence.lower_bound >= 0.90
    assert (indonesia.evidence.model_version, indonesia.evidence.date) == ("m@1", "2026-11-22")
    assert singapore.evidence is not None
    assert singapore.evidence.pooled == ("SG", "TW")
    assert brazil.penalty is None
    assert brazil.evidence is not None
    assert "no labelled case" in brazil.evidence.note
    assert {code: market.state for code, market in found.policy.markets.items()} == {
        code: market.state for code, market in POLICY.markets.items()
    }


def test_a_market_of_few_labels_has_no_penalty_and_is_told_how_many_are_missing() -> None:
    found = calibrate_backfill(backfill({"ID": 3000, "SG": 130}, noise=0.02), POLICY, SETTINGS, day="2026-11-22")
    singapore = found.policy.market("SG")
    assert singapore.penalty is None
    assert singapore.evidence is not None
    assert singapore.evidence.cases_missing
    assert singapore.evidence.events_missing > singapore.evidence.cases_missing
    texts = {row[0]: row for row in threshold_rows(found)}
    assert texts["SG"][2] == "none"
    assert int(texts["SG"][7]) == singapore.evidence.cases_missing


def test_thresholds_rest_on_events_that_the_temperature_never_saw() -> None:
    table = backfill({"ID": 4000})
    found = calibrate_backfill(table, POLICY, SETTINGS, day="2026-11-22")
    assert found.calibration.fitted_events == pytest.approx(1000, abs=150)
    assert found.calibration.fitted_events + found.calibration.judged_events == 4000
    evidence = found.policy.market("ID").evidence
    assert evidence is not None
    assert evidence.cases <= found.calibration.judged_events


def test_an_earlier_threshold_falls_when_its_market_has_no_case_any_more() -> None:
    first = calibrate_backfill(backfill({"ID": 3000, "TH": 3000}), POLICY, SETTINGS, day="2026-11-22").policy
    assert first.market("TH").penalty is not None
    second = calibrate_backfill(backfill({"ID": 3000}), first, SETTINGS, day="2026-11-23").policy
    assert second.market("TH").penalty is None


def test_what_is_written_is_what_was_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"weights")
    found = calibrate_backfill(backfill({"ID": 3000, "ZZ": 500}), POLICY, SETTINGS, day="2026-11-22")
    write_calibrated(found, source, tmp_path / "out", source="backfill.jsonl", day="2026-11-22")
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


def test_an_evaluation_set_must_not_calibrate() -> None:
    table = backfill({"ID": 1500})
    places = [f"reviewed_cases.jsonl:{n}" if n == 700 else place for n, place in enumerate(table["place"].to_pylist())]
    table = table.set_column(table.schema.get_field_index("place"), SCORED_SCHEMA.field("place"), pa.array(places))
    with pytest.raises(ValueError, match="reviewed_cases is an evaluation set"):
        calibrate_backfill(table, POLICY, SETTINGS, day="2026-11-22")


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1,000 labelled events are expected .*, found 900"):
        calibrate_backfill(backfill({"ID": 900}), POLICY, SETTINGS, day="2026-11-22")


def test_two_models_in_one_backfill_are_refused() -> None:
    table = backfill({"ID": 1000})
    other = table.set_column(
        table.schema.get_field_index("model_version"),
        SCORED_SCHEMA.field("model_version"),
        pa.array(["m@2"] * 1000).dictionary_encode().cast(SCORED_SCHEMA.field("model_version").type),
    )
    with pytest.raises(ValueError, match=r"one model are expected, found m@1, m@2"):
        calibrate_backfill(pa.concat_tables([table, other]), POLICY, SETTINGS, day="2026-11-22")


def test_nobody_is_punished_where_nobody_would_look() -> None:
    with pytest.raises(ValidationError, match="at most the lowest penalty candidate"):
        CalibrationSettings(thresholds=ThresholdSettings(investigate=0.95))
