"""A month of a real archive's form through the monitoring job, and its page in a real browser."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cancellation.features.profile import save_profile
from cancellation.monitoring.run import MonitorSettings
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cluster.tracking import TrackingSettings
from jobs.cancellation_monitor import MonitorJob, main
from tests.builders.monitored_days import (
    DAY,
    decisions,
    feedback,
    profile,
    ship,
    ship_feedback,
    ship_quiet_days,
)
from tests.measures.pages import assert_legible

pytestmark = pytest.mark.usefixtures("local_ray")
HOSTILE = "<script>document.title='owned'</script><img src='/leak'>"


def _silent(features: np.ndarray, _: np.random.Generator) -> np.ndarray:
    features[:, 10:18] = np.nan
    return features


def _with_shadow(table: pa.Table) -> pa.Table:
    said = [
        {"name": HOSTILE, "model_version": "next@2", "score": 0.9, "verdict": "induced", "action": "none"}
        for _ in range(table.num_rows)
    ]
    place = table.schema.get_field_index("shadow")
    return table.set_column(place, DECISION_SCHEMA.field(place), pa.array(said, DECISION_SCHEMA.field(place).type))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, local_ray: str) -> MonitorJob:
    """A bad day after ten quiet ones, run twice: the second run has nothing new to count."""
    folder = tmp_path_factory.mktemp("monitor")
    archive = folder / "archive"
    ship_quiet_days(archive, DAY, 10, 600)
    today = decisions(DAY, 700, change=_silent, induced=0.5)
    files = ship(archive, today, skip=(4,))
    files[2].write_bytes(files[2].read_bytes()[:100])
    ship_feedback(archive, feedback(today, DAY, 90, precision=0.4))
    ship(archive, _with_shadow(today.slice(0, 120)), log="shadow", num_hours=1)
    (folder / "model").mkdir()
    save_profile(profile(), folder / "model")
    job = MonitorJob(
        archive=str(archive),
        day=DAY,
        output=str(folder / "out"),
        model=str(folder / "model"),
        monitor=MonitorSettings(),
        tracking=TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
    )
    main(job)
    main(job)
    return job


def test_the_files_of_a_day(job: MonitorJob) -> None:
    folder = Path(job.output) / str(DAY)
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "retrain.json"}
    retrain = json.loads((folder / "retrain.json").read_text())
    assert retrain["retrain"] is True
    assert {one["name"] for one in retrain["triggers"] if one["fired"]} == {"precision", "signals"}
    record = json.loads((folder / "report.json").read_text())
    assert len(record["compared_with"]) == 10
    assert record["compared_with"][-1] == str(DAY - timedelta(days=1))
    assert record["precision"]["all"]["reviewed"] > 60


def test_the_run_in_mlflow(job: MonitorJob) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=job.tracking.uri)
    experiment = client.get_experiment_by_name("cancellation_monitor")
    first, second = client.search_runs([experiment.experiment_id])
    assert first.info.run_name == f"day={DAY}"
    different = {"seconds"}
    assert {k: v for k, v in first.data.metrics.items() if k not in different} == {
        k: v for k, v in second.data.metrics.items() if k not in different
    }
    assert first.data.metrics["features_drifted"] >= 1


def test_the_page_in_a_browser(job: MonitorJob, browser: str, tmp_path: Path) -> None:
    page = (Path(job.output) / str(DAY) / "report.html").read_bytes()
    record = json.loads((Path(job.output) / str(DAY) / "report.json").read_text())
    more = f"{100 * (record['figures']['decisions'] / 600 - 1):+.0f} %"  # the day before had 600
    for frame in assert_legible(browser, page, tmp_path):
        assert frame["title"] == f"! {DAY} \u00b7 verdicts"
        assert frame["verdict_bottom"] < 400
        assert HOSTILE in frame["text"]
        assert more in frame["text"] or frame["width"] <= 760
        assert "has no profile of texts" in frame["text"]
        for heading in ("What changed", "The day beside the days before", "Precision of induced verdicts", "Shadow"):
            assert heading in frame["text"]
