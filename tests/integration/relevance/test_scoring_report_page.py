"""The report in a real browser: it asks for nothing, fits any screen, is legible in light and dark, escapes text;
and in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.provenance import Provenance
from cluster.tracking import TrackingSettings, tracked_run
from relevance.scoring.day import ScoredDay
from relevance.scoring.measures import PreviousDay
from relevance.scoring.report import ReportSettings, ScoringReport, report_files
from tests.builders.scoring_days import FINGERPRINT, scored_day, scoring_run, shard_figures
from tests.measures.pages import assert_legible

HOSTILE = "<b onclick=x>title</b> & <script>document.title='owned'</script><img src='/leak'>"


def _hostile_report() -> bytes:
    """A bad day with every section, and a reason that would be HTML if it were let."""
    errors = {HOSTILE: 40, "engine: died 3 times on this shard, last: MemoryError": 50_000, "x" * 300: 2}
    figures, seconds = scored_day(
        shard_figures(errors=errors, poisoned=50_000, judged=18_240, reused=0.3, label_mass=0.7)
    )
    before, _ = scored_day(shard_figures(shares=(0.7, 0.2, 0.05, 0.05)))
    run = scoring_run("s3://search/scores/ds=2026-11-22", gpus_per_actor=1.0)
    previous = PreviousDay("ds=2026-11-21", "model/6:fp8", "another", before.as_dict())
    provenance = Provenance("0" * 40, {"python": "3.11.7"}, {"cpu": "AMD EPYC"}, "0a1b2c")
    day = {**figures.as_dict(), "seconds": seconds}
    return report_files(run, day, previous, ReportSettings(), provenance)["report.html"]


def test_the_report_in_a_browser(browser: str, tmp_path: Path) -> None:
    for page in assert_legible(browser, _hostile_report(), tmp_path):
        assert page["open"] == 0
        assert page["title"] == "! ds=2026-11-22 · relevance scores"
        assert page["verdict_bottom"] < 400
        assert HOSTILE in page["text"]
        for heading in (
            "Checks",
            "Labels",
            "Rows",
            "Confidence",
            "Label mass",
            "Agreement",
            "Errors",
            "How it was made",
        ):
            assert heading in page["text"]
        assert sorted(page["bars"], reverse=True) == [page["bars"][index] for index in (0, 1, 3, 2)]
        assert page["bars"][0] > 60


def test_the_run_in_mlflow_holds_figures_plots_and_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    url = str(tmp_path / "scores" / "ds=2026-11-22")
    run = scoring_run(url, gpus_per_actor=0.0)
    figures, seconds = scored_day(shard_figures(judged=1_000))
    with tracked_run("relevance_score", ReportSettings(), tracking) as tracked:
        report = ScoringReport(run, ReportSettings(), tracked)
        files = report.files(figures, seconds)
        report.print_summary(ScoredDay(url, {**figures.as_dict(), "seconds": seconds}, already_done=False))
    client = MlflowClient(tracking_uri=tracking.uri)
    found = client.get_run(tracked.run_id)
    assert found.info.run_name == "ds=2026-11-22"
    assert found.data.tags["fingerprint"] == FINGERPRINT
    assert found.data.metrics["rows.read"] == 1_000_000
    assert found.data.metrics["share.exact"] == pytest.approx(0.482, abs=1e-3)
    assert found.data.metrics["agreement.alpha"] == pytest.approx(0.592, abs=1e-3)
    assert found.data.metrics["tokens_saved"] == figures.prompt_tokens - figures.computed_tokens
    assert "label_drift" not in found.data.metrics
    names = {file.path for file in client.list_artifacts(tracked.run_id)}
    assert names == {"plots", "report.html", "run.json"}
    assert len(client.list_artifacts(tracked.run_id, "plots")) == 4
    (stored,) = tmp_path.glob("mlartifacts/*/*/artifacts/report.html")
    assert stored.read_bytes() == files["report.html"]
    assert tracked.run_id in capsys.readouterr().out
