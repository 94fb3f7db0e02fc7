"""The calibration as a user calls it, with the model that ships, on a local Ray."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.decision.calibration_run import CalibrationSettings
from cancellation.decision.policy import load_policy
from cancellation.decision.sample import LabelledSample, write_sample
from cancellation.decision.thresholds import ThresholdSettings
from cancellation.events.factors import VERDICTS
from cancellation.events.identity import content_number
from cancellation.events.table import write_labelled
from cancellation.model.learnt import write_learnt
from cancellation.model.verdict_model import load_verdict_model
from cancellation.scoring.run import ScoringSettings
from cancellation.serving.records.people import PersonKey
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.storage import fetch_folder
from cluster.tracking import TrackingSettings, tracking_uri
from jobs.cancellation_calibrate import CalibrateJob, main
from jobs.cancellation_score import ScoreJob
from jobs.cancellation_score import main as score
from tests.builders.backfills import read_rows
from tests.conftest import PROJECT

SAMPLE = LabelledSample(source="simulation", drawn="random", outcomes=("penalty", "investigate", "none"))

pytestmark = [
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.skipif(not (PROJECT / "cancellation/small_model/model.json").exists(), reason="no model ships yet"),
]


def test_a_backfill_gives_a_calibrated_model_and_a_policy_that_the_score_job_takes_from_s3_too(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(simulate(SimulationSettings(num_events=900, split="all", markets=("ID", "TH")), 7900))
    write_labelled(str(tmp_path / "backfill.parquet"), events)
    with pytest.raises(ValueError, match="expected how they were drawn"):
        main(CalibrateJob(input=str(tmp_path / "backfill.parquet"), output=str(tmp_path / "out")))
    write_sample(str(tmp_path / "backfill.parquet"), SAMPLE)
    thresholds = ThresholdSettings(min_cases=29, min_precision=0.51, penalty_grid=(0.7, 0.6, 0.5))
    job = CalibrateJob(
        input=str(tmp_path / "backfill.parquet"),
        output=f"{bucket}/out",
        date="2026-11-22",
        calibration=CalibrationSettings(min_events=500, thresholds=thresholds),
        scoring=ScoringSettings(max_actors=1),
        tracking=TrackingSettings(experiment="calibrate-test"),
    )
    main(job)
    printed = capsys.readouterr().out
    assert "temperature" in printed
    policy = load_policy(f"{bucket}/out/policy.toml")
    shipped = load_verdict_model(PROJECT / "cancellation" / "small_model")
    calibrated = load_verdict_model(Path(fetch_folder(f"{bucket}/out/model", str(tmp_path / "cache"))))
    assert calibrated.version == shipped.version  # the same raw scores: evidence keeps its meaning
    assert f"temperature {calibrated.temperature:.3f}" in printed
    for code in ("ID", "TH"):
        evidence = policy.known_market(code).evidence
        assert evidence is not None
        assert evidence.model_version == shipped.version
        assert (policy.market(code).penalty is None) == (evidence.lower_bound < 0.51)
    assert policy.market("BR").penalty is None
    client = mlflow.MlflowClient(tracking_uri(None))
    experiment = client.get_experiment_by_name("calibrate-test")
    (run,) = client.search_runs([experiment.experiment_id])
    assert {"temperature", "ece_before", "ece_after"} <= run.data.metrics.keys()
    assert {"reliability.png", "policy.toml"} <= {file.path for file in client.list_artifacts(run.info.run_id)}

    score(
        ScoreJob(
            input=job.input,
            output=str(tmp_path / "verdicts"),
            model=f"{bucket}/out/model",
            policy=f"{bucket}/out/policy.toml",
            cache_dir=str(tmp_path / "cache"),
            scoring=ScoringSettings(max_actors=1),
        )
    )
    rows = read_rows(str(tmp_path / "verdicts"))
    assert {row["policy_version"] for row in rows} == {policy.stamp} == {f"{policy.version}+demo"}
    for row in rows:
        market = policy.market(row["market"])
        punished = market.penalty is not None and row["score"] > market.penalty
        assert row["action"] == ("penalty" if punished else "investigate" if row["score"] > 0.45 else "none")


def test_a_backfill_of_too_few_labels_is_refused_and_leaves_no_policy(tmp_path: Path) -> None:
    events = simulate(SimulationSettings(num_events=30), 1)
    write_labelled(str(tmp_path / "backfill.jsonl"), events)
    write_sample(str(tmp_path / "backfill.jsonl"), SAMPLE)
    job = CalibrateJob(input=str(tmp_path / "backfill.jsonl"), output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="at least 1,000 labelled events are expected"):
        main(job)
    assert not (tmp_path / "out" / "policy.toml").exists()


def test_events_that_taught_a_model_prove_nothing_of_it_under_whatever_ids(tmp_path: Path) -> None:
    drawn = list(simulate(SimulationSettings(num_events=60), 1))
    model = shutil.copytree(PROJECT / "cancellation" / "small_model", tmp_path / "model")
    write_learnt(model / "trained", np.array([content_number(one.event) for one in drawn[:40]], np.uint64))
    others = {"event_id": "e", "seller_id": "s", "buyer_id": "b", "order_id": "o"}
    renamed = [replace(one, event=replace(one.event, **others)) for one in drawn[:1]]
    write_labelled(str(tmp_path / "backfill.jsonl"), drawn[40:] + renamed)
    write_sample(str(tmp_path / "backfill.jsonl"), SAMPLE)
    job = CalibrateJob(input=str(tmp_path / "backfill.jsonl"), output=str(tmp_path / "out"), model=str(model))
    with pytest.raises(ValueError, match=r"1 of 21 events taught the model.* the first at backfill.jsonl:21; they pr"):
        main(job)
    assert not (tmp_path / "out").exists()


def _judged(folder: Path, named: Callable[[int], str]) -> str:
    """What a language model said of labelled events, of sixty sellers in turn."""
    rng, rows = random.Random(0), []
    for number, one in enumerate(simulate(SimulationSettings(num_events=700, markets=("ID",)), 5)):
        said = one.true_label if rng.random() < 0.9 else rng.choice(VERDICTS)
        rows.append(
            {
                "event_id": one.event.event_id,
                "market": "ID",
                "model_version": "llm@1",
                "logits": [rng.uniform(1, 4) if name == said else 0.0 for name in VERDICTS],
                "seller_id": named(number),
                "place": f"events.jsonl:{number + 1}",
                "error": None,
                "given_label": one.label,
                "cancelled_at": datetime.fromtimestamp(1.79e9 + 3600 * number, UTC).isoformat(),
            }
        )
    folder.mkdir()
    table = pa.Table.from_pylist(rows)
    place = table.schema.get_field_index("error")
    pq.write_table(table.set_column(place, "error", pa.nulls(len(rows), pa.string())), folder / "part-0.parquet")
    (folder / "_SUCCESS").write_text(json.dumps({"files": ["part-0.parquet"]}))
    write_sample(str(folder / "part-0.parquet"), SAMPLE)
    return str(folder)


def test_a_seller_under_an_id_and_under_the_archives_digest_is_one(tmp_path: Path) -> None:
    (tmp_path / "person.key").write_text("k" * 40)
    (tmp_path / "person.key").chmod(0o600)
    key = PersonKey.load(tmp_path / "person.key")

    def both(number: int) -> str:
        name = f"seller-{number % 60}"
        return name if number % 7 else key.digest("seller", name)

    def calibrated(source: str, **more: str) -> dict:
        thresholds = ThresholdSettings(min_cases=29, min_sellers=10, min_precision=0.51, penalty_grid=(0.7, 0.6, 0.5))
        job = CalibrateJob(
            model=None,
            input=source,
            output=f"{source}-out",
            calibration=CalibrationSettings(min_events=500, thresholds=thresholds),
            **more,
        )
        main(job)
        return asdict(load_policy(Path(job.output) / "policy.toml").known_market("ID").evidence)

    alone = calibrated(_judged(tmp_path / "ids", lambda number: f"seller-{number % 60}"), date="2026-11-22")
    mixed = _judged(tmp_path / "mixed", both)
    with pytest.raises(ValueError, match="person_key_file: 60 of 120 sellers stand under keyed digests"):
        calibrated(mixed, date="2026-11-22")
    assert calibrated(mixed, date="2026-11-22", person_key_file=str(tmp_path / "person.key")) == alone
    assert alone["sellers"] <= 60
