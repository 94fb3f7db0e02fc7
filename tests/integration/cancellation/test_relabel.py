"""A round of relabelling from end to end: asked, answered, corrected, retrained; then a second one. Small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cancellation.events.table import write_labelled
from cancellation.relabelling.cases import read_cases
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.tracking import TrackingSettings
from cluster.training.train import TrainerSettings
from jobs.cancellation_relabel import RelabelJob, main
from tests.builders.reviewers import answer_round

EVENTS = list(simulate(SimulationSettings(num_events=360, label_noise=0.1, markets=("BR", "TH")), 21))
TRUTH = {one.event.event_id: one for one in EVENTS}
TINY = {
    "name": "tiny",
    "vocab_size": 600,
    "max_tokens": 48,
    "markets": ("BR", "TH"),
    "shape": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 16},
    "fusion": {"hidden_size": 16, "num_heads": 1},
    "loop": {"steps_per_validation": 5, "batch_size": 32, "bf16": False, "learning_rate": 0.005},
}


def job(folder: Path, **changes: object) -> RelabelJob:
    settings = {
        "input": str(folder / "labelled.jsonl"),
        "round": str(folder / "round"),
        "work": str(folder / "work"),
        "ask": {"test_cases": 20},
        "judges": {"folds": 2, "trees": {"max_iter": 10}, "training": TINY},
        "trainer": TrainerSettings(num_workers=0, checkpoints=str(folder / "checkpoints")),
        "tracking": TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
        **changes,
    }
    return RelabelJob.model_validate(settings)


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory, local_ray: str) -> Path:
    folder = tmp_path_factory.mktemp("relabel")
    write_labelled(str(folder / "labelled.jsonl"), EVENTS)
    main(job(folder))
    answer_round(folder / "round", TRUTH, folder / "exports")
    main(job(folder, answers=(str(folder / "exports"),), output=str(folder / "out")))
    return folder


def test_the_doubted_labels_are_wrong_more_often_than_those_drawn_by_chance(corrected):
    report = json.loads((corrected / "out/report.json").read_text())
    assert report["answered"] == report["asked"] == report["contradicted"]["of"] + report["test"]["of"]
    assert report["test"]["of"] == 20
    assert report["contradicted"]["share"] > 1.5 * 0.1
    assert [gain["kind"] for gain in report["gains"]] == ["fusion", "trees"]
    for gain in report["gains"]:
        change = gain["after"]["value"] - gain["before"]["value"]
        assert gain["change"]["value"] == pytest.approx(change)
        assert gain["change"]["low"] <= change <= gain["change"]["high"]


def test_every_label_that_people_looked_at_is_right_now(corrected):
    _, cases = read_cases(str(corrected / "round"))
    rows = [json.loads(line) for line in (corrected / "out/labelled/corrected.jsonl").read_text().splitlines()]
    assert [row["event"]["event_id"] for row in rows] == [one.event.event_id for one in EVENTS]
    for row in rows:
        one = TRUTH[row["event"]["event_id"]]
        asked = one.event.event_id in cases
        assert row["label"] == (one.true_label if asked else one.label)
        assert ("label_history" in row) == asked


def test_the_same_again_trains_nothing_and_says_so(corrected, capsys):
    main(job(corrected))
    assert "already done" in capsys.readouterr().out
    main(job(corrected, answers=(str(corrected / "exports"),), output=str(corrected / "out")))
    out = capsys.readouterr().out
    assert "already done" in out
    assert "accuracy on the corrected test" in out


def test_the_next_round_asks_nobody_twice(corrected, local_ray):
    _, first = read_cases(str(corrected / "round"))
    kinds = {"kinds": ("trees", "fusion_other_seed"), "folds": 2, "trees": {"max_iter": 10}, "training": TINY}
    labelled = str(corrected / "out/labelled")
    main(job(corrected, input=labelled, round=str(corrected / "second"), judges=kinds, ask={"test_cases": 30}))
    _, second = read_cases(str(corrected / "second"))
    assert first.keys().isdisjoint(second.keys())
    assert sum(case.why == "test" for case in second.values()) == 10
    assert set(next(iter(second.values())).opinions) in (set(), {"trees", "fusion_other_seed"})


def test_answers_need_a_place_for_the_labels(corrected):
    with pytest.raises(ValueError, match="output: answers are given"):
        job(corrected, answers=("exports",))
