"""The evaluation job as a user calls it: a model asked in process, and a finished day of scores, give one answer."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import storage
from cluster.launch import run_job
from cluster.tracking import TrackingSettings, open_client
from jobs.relevance_evaluate import EvaluateJob, main
from jobs.relevance_score import ScoreJob
from jobs.relevance_score import main as score
from relevance.engines.settings import EngineSettings
from relevance.evaluation.figures import EvaluationSettings
from relevance.labels import LABELS
from relevance.scoring.run import ScoringSettings
from tests.builders.pairs_data import make_pairs, write_pairs
from tests.conftest import SHARED_DATA
from tests.measures.pages import assert_legible


def _labelled(num_pairs: int, *, first: int = 0) -> pa.Table:
    """Pairs whose queries are all different, with every label in turn."""
    rows = make_pairs(num_pairs, first=first).to_pylist()
    for number, row in enumerate(rows):
        extra = {"query": f"{row['query']} {row['query_id']}", "label": LABELS[number % 4]}
        row |= extra | {"market": "SG" if number % 2 else "VN"}
    return pa.Table.from_pylist(rows)


def _job(folder: Path, model: Path | str, **settings: object) -> EvaluateJob:
    return EvaluateJob(
        **{
            "input": str(folder / "pairs"),
            "model": str(model),
            "output": str(folder / "evaluation"),
            "engine": EngineSettings(num_threads=1),
            "evaluation": EvaluationSettings(bootstrap_samples=200),
            "tracking": TrackingSettings(uri=f"sqlite:///{folder / 'mlflow.db'}"),
            **settings,
        }
    )


def _read(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_a_model_is_judged_and_the_day_that_it_scored_says_the_same(
    tmp_path: Path,
    bucket: str,
    local_ray: str,
    tiny_model: Path,
    browser: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(_labelled(120), str(tmp_path / "pairs"))
    write_pairs(_labelled(60, first=500), str(tmp_path / "train"))
    main(_job(tmp_path, tiny_model, train=str(tmp_path / "train")))
    asked = _read(tmp_path / "evaluation")
    assert (asked["counts"]["judged"], asked["shared_queries"]) == (120, 0)
    assert set(asked["comparison"]) == {"model", "majority label", "word overlap"}
    assert {part["name"] for part in asked["slices"] if part["kind"] == "market"} == {"SG", "VN"}
    assert "| model |" in capsys.readouterr().out
    page = (tmp_path / "evaluation" / "evaluation.html").read_bytes()
    assert all("word overlap" in frame["text"] for frame in assert_legible(browser, page, tmp_path / "browser"))

    client = open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("relevance_evaluate").experiment_id])
    assert run.data.metrics["alpha"] == pytest.approx(asked["figures"]["alpha"]["value"])
    assert run.data.metrics["alpha.low"] == pytest.approx(asked["figures"]["alpha"]["low"])
    kept = {file.path for folder in (None, "plots") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"evaluation.html", "evaluation.json", "plots/reliability.png", "plots/confusion.png"} <= kept

    scores = f"{bucket}/scores"
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    score(
        ScoreJob(
            input=str(tmp_path / "pairs"),
            output=scores,
            model=str(tiny_model),
            scoring=ScoringSettings(shard_rows=50, num_threads=1),
            tracking=tracking,
        )
    )
    main(_job(tmp_path, "no such model", scores=scores, output=f"{bucket}/evaluation"))
    read = json.loads(storage.read_bytes(f"{bucket}/evaluation/evaluation.json"))
    for name in ("figures", "confusion", "slices", "fingerprint", "model"):
        if name == "figures":
            assert read[name]["alpha"]["value"] == pytest.approx(asked[name]["alpha"]["value"], abs=1e-9)
        elif name != "slices":
            assert read[name] == asked[name]

    write_pairs(_labelled(10, first=3000), str(tmp_path / "others"))
    with pytest.raises(ValueError, match="the scores lack 10 of the 10 labelled pairs"):
        main(_job(tmp_path, "no such model", input=str(tmp_path / "others"), scores=scores))


def test_pairs_are_judged_that_the_same_limit_of_scoring_takes(tmp_path: Path, tiny_model: Path) -> None:
    rows = _labelled(40).to_pylist()
    rows[0]["title"] += " word" * 300
    write_pairs(pa.Table.from_pylist(rows), str(tmp_path / "pairs"))
    for limit, judged in ({}, 40), ({"max_text_bytes": 1_000}, 39):
        main(_job(tmp_path, tiny_model, **limit))
        assert _read(tmp_path / "evaluation")["counts"]["judged"] == judged


def test_an_overlap_with_the_training_set_is_refused_before_a_model_is_loaded(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(_labelled(20), str(tmp_path / "pairs"))
    write_pairs(_labelled(20, first=10), str(tmp_path / "train"))
    arguments = [
        f"input={tmp_path / 'pairs'}",
        f"train={tmp_path / 'train'}",
        f"output={tmp_path / 'evaluation'}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
        "evaluation.bootstrap_samples=100",
        "engine.num_threads=1",
    ]
    with pytest.raises(SystemExit) as left:
        run_job(main, EvaluateJob, arguments=[*arguments, "model=no-such-model"])
    assert left.value.code == 2
    assert "of its" in (said := capsys.readouterr().err)
    assert "queries with the training set" in said
    run_job(main, EvaluateJob, arguments=[*arguments, f"model={tiny_model}", "--allow-overlap"])
    assert _read(tmp_path / "evaluation")["shared_queries"] > 0
    assert "Not to be trusted" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real pairs are not at hand")
def test_the_real_pairs_and_the_model_that_ships(tmp_path: Path) -> None:
    job = _job(tmp_path, "relevance/small_model", input=str(SHARED_DATA / "esci" / "labelled_pairs.csv"))
    with pytest.raises(ValueError, match="it has learnt from 953 of the evaluation set's 953 queries"):
        main(job)
    main(job.model_copy(update={"allow_overlap": True}))
    found = _read(tmp_path / "evaluation")
    assert found["counts"]["judged"] == 974
    assert found["labels"] == {"exact": 484, "substitute": 374, "complement": 34, "irrelevant": 82}
    # Out of fold on 974 pairs; learnt on all of these and judged on others of the source it was 0.357.
    assert 0.3 < found["comparison"]["word overlap"]["alpha"]["value"] < 0.45
    assert found["comparison"]["model"]["alpha"]["low"] > found["comparison"]["majority label"]["alpha"]["high"]
