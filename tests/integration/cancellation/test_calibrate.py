"""The calibration as a user calls it, with the model that ships, on a local Ray."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from cancellation.decision.calibration_run import CalibrationSettings
from cancellation.decision.policy import load_policy
from cancellation.decision.sample import LabelledSample, write_sample
from cancellation.decision.thresholds import ThresholdSettings
from cancellation.events.table import write_labelled
from cancellation.model.verdict_model import load_verdict_model
from cancellation.scoring.run import ScoringSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
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


def test_a_backfill_gives_a_calibrated_model_and_a_policy_that_the_score_job_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(simulate(SimulationSettings(num_events=900, split="all", markets=("ID", "TH")), 7900))
    write_labelled(str(tmp_path / "backfill.parquet"), events)
    with pytest.raises(ValueError, match="expected how they were drawn"):
        main(CalibrateJob(input=str(tmp_path / "backfill.parquet"), output=str(tmp_path / "out")))
    write_sample(str(tmp_path / "backfill.parquet"), SAMPLE)
    thresholds = ThresholdSettings(min_cases=29, min_precision=0.51, penalty_grid=(0.7, 0.6, 0.5))
    job = CalibrateJob(
        input=str(tmp_path / "backfill.parquet"),
        output=str(tmp_path / "out"),
        date="2026-11-22",
        calibration=CalibrationSettings(min_events=500, thresholds=thresholds),
        scoring=ScoringSettings(max_actors=1),
        tracking=TrackingSettings(experiment="calibrate-test"),
    )
    main(job)
    printed = capsys.readouterr().out
    assert "temperature" in printed
    policy = load_policy(tmp_path / "out" / "policy.toml")
    shipped = load_verdict_model(PROJECT / "cancellation" / "small_model")
    calibrated = load_verdict_model(tmp_path / "out" / "model")
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
            model=str(tmp_path / "out" / "model"),
            policy=str(tmp_path / "out" / "policy.toml"),
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
