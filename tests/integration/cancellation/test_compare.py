"""The comparison as a user calls it: tiny rows on a local Ray, then again, when nothing is left to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest

from cancellation.events.identity import content_number
from cancellation.events.table import write_labelled
from cancellation.model.learnt import write_learnt
from cancellation.model.verdict_model import TRAINED_FOLDER
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster.endpoint.purse import BudgetSpentError
from cluster.settings import load_settings
from cluster.tracking import tracking_uri
from jobs.cancellation_compare import CompareJob, main
from tests.builders.cancellation_events import sample_event
from tests.builders.chat_models import save_tiny_chat_model
from tests.conftest import PROJECT
from tests.servers.chat_endpoint import ChatServer

pytestmark = pytest.mark.usefixtures("local_ray")
SMOKE = str(PROJECT / "jobs" / "cancellation_compare.smoke.toml")
SMALLER = [
    'comparison.approaches=["rules","trees","trees+text"]',
    "comparison.num_events=120",
    "comparison.stacking_events=300",
    "comparison.resamples=20",
    "comparison.speed_events=20",
    "comparison.trees.max_iter=5",
    "training.vocab_size=600",
    "training.events.simulation.num_events=400",
    "training.events.num_validation=80",
]


def test_no_model_is_judged_by_events_that_taught_it(tmp_path: Path) -> None:
    examples = list(simulate(SimulationSettings(num_events=30, label_noise=0), 9001))
    model = shutil.copytree(PROJECT / "cancellation" / "small_model", tmp_path / "model")
    write_learnt(model / TRAINED_FOLDER, np.array([content_number(one.event) for one in examples[:7]], np.uint64))
    write_labelled(str(tmp_path / "ours.jsonl"), examples)
    given = [
        'comparison.approaches=["rules","shipped"]',
        f"comparison.shipped={model}",
        f"comparison.sets.ours={tmp_path}/ours.jsonl",
        "comparison.num_events=0",
        "comparison.resamples=20",
        "comparison.speed_events=0",
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        "tracking.experiment=compare-test-taught",
    ]
    with pytest.raises(ValueError, match=r"sets\.ours: 7 of 30 events taught the model of the row shipped"):
        main(load_settings(CompareJob, [SMOKE, *given]))
    write_labelled(str(tmp_path / "ours.jsonl"), examples[7:])
    main(load_settings(CompareJob, [SMOKE, *given]))
    assert "| shipped |" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.slow  # trains every network, twice
def test_rows_are_made_once_and_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        f"trainer.checkpoints={tmp_path}/checkpoints",
        "tracking.experiment=compare-test",
    ]
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places]))
    assert "has the highest recall at precision 0.95" in capsys.readouterr().out
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert all(f"| {name} |" in table for name in ("rules", "trees", "trees+text"))
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    rows = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out" / "results").iterdir()}
    assert len(rows) == 3
    assert all(set(row["sets"]) == {"test_wordings", "test_tactics"} for row in rows.values())

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")} == files
    assert (tmp_path / "out" / "comparison.md").read_text() == table

    ours = [f"comparison.sets.ours={_labelled(tmp_path, 80)}", "comparison.num_events=0"]
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places, *ours]))
    alone = (tmp_path / "out" / "comparison.md").read_text()
    assert alone.count("| ours | ") == 3
    assert "held-out" not in alone
    assert "recall at precision 0.95 on ours" in alone
    kept = set((tmp_path / "out" / "results").iterdir())
    _labelled(tmp_path, 90)  # other events under the same name
    main(load_settings(CompareJob, [SMOKE, *SMALLER, *places, *ours]))
    assert len(set((tmp_path / "out" / "results").iterdir()) - kept) == 3

    client = mlflow.MlflowClient(tracking_uri(None))
    experiment = client.get_experiment_by_name("compare-test")
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags}
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 4
    assert {run.data.tags["approach"] for run in children} == {"rules", "trees", "trees+text"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= parents
    assert all({"test_wordings.accuracy", "ours.accuracy"} & set(run.data.metrics) for run in children)


def _cases(folder: Path, count: int) -> Path:
    path = folder / "cases.jsonl"
    names = [{"event_id": f"e-{n}", "order_id": f"o-{n}", "buyer_reason": f"case-{n}"} for n in range(count)]
    lines = [{"event": {**sample_event(), **name}, "label": "induced"} for name in names]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _llm_row(folder: Path, count: int) -> list[str]:
    return [
        'comparison.approaches=["LLM zero-shot"]',
        "comparison.num_events=0",
        "comparison.resamples=20",
        f"comparison.sets.cases={_cases(folder, count)}",
        f"output={folder}/out",
        f"cache_dir={folder}/cache",
        "tracking.experiment=compare-llm-test",
    ]


def test_a_language_models_answers_are_paid_once(tmp_path: Path) -> None:
    server = ChatServer(lambda case, number: "off" if case == "case-19" else "answer")
    endpoint = {"base_url": server.url, "input_usd": 1, "output_usd": 10, "concurrency": 2}
    given = [*_llm_row(tmp_path, 20), "comparison.llm.backend.kind=endpoint"]
    given += [f"comparison.llm.backend.endpoint.{name}={value}" for name, value in endpoint.items()]

    def run(budget_usd: float, *more: str) -> str:
        budget = f"comparison.llm.backend.endpoint.budget_usd={budget_usd}"
        main(load_settings(CompareJob, [SMOKE, *given, budget, *more]))
        return (tmp_path / "out" / "comparison.md").read_text()

    try:
        with pytest.raises(BudgetSpentError, match="raise budget_usd and run again"):
            run(0.012)
        assert server.answered
        table = run(1.0)
        assert "1 events without a usable answer count as inconclusive" in table
        assert {case for case, number in server.asked.items() if number != 1} == {"case-19"}  # labelling.tries
        asked = sum(server.asked.values())
        dearer = run(2.0, "comparison.price.core_hour=0.06", "comparison.llm.labelling.tries=3")
        assert "0.06 $ per core" in dearer
        with pytest.raises(BudgetSpentError):  # what earlier runs paid is counted
            run(0.012, f"comparison.sets.others={_cases_of_others(tmp_path)}")
    finally:
        server.stop()
    assert sum(server.asked.values()) == asked
    assert len(list((tmp_path / "out" / "results").iterdir())) == 1


def test_a_row_of_which_nothing_was_answered_cannot_be_timed(tmp_path: Path) -> None:
    server = ChatServer(lambda case, number: "off")
    given = [*_llm_row(tmp_path, 2), "comparison.llm.backend.kind=endpoint", "comparison.llm.max_failed_fraction=1.0"]
    try:
        with pytest.raises(RuntimeError, match="row LLM zero-shot: no event got a usable answer"):
            main(load_settings(CompareJob, [SMOKE, *given, f"comparison.llm.backend.endpoint.base_url={server.url}"]))
    finally:
        server.stop()


def _cases_of_others(folder: Path) -> Path:
    (folder / "others").mkdir(exist_ok=True)
    path = folder / "others" / "others.jsonl"
    event = {**sample_event(), "buyer_reason": "case-99"}
    path.write_text(json.dumps({"event": event, "label": "induced"}) + "\n")
    return path


def test_other_weights_at_the_same_place_are_another_row(tmp_path: Path) -> None:
    model = save_tiny_chat_model(tmp_path / "model")
    given = [*_llm_row(tmp_path, 2), f"comparison.llm.backend.local.model={model}"]
    results = tmp_path / "out" / "results"
    main(load_settings(CompareJob, [SMOKE, *given]))
    kept = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert len(kept) == 1
    save_tiny_chat_model(tmp_path / "model", seed=1)
    main(load_settings(CompareJob, [SMOKE, *given]))
    assert len(list(results.iterdir())) == 2
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


@pytest.mark.slow  # the same
def test_other_events_at_the_same_place_are_learnt_from_anew(tmp_path: Path) -> None:
    given = [
        'comparison.approaches=["trees","trees+text"]',
        f"comparison.sets.ours={_labelled(tmp_path, 60)}",
        "comparison.num_events=0",
        f"training.events.events={tmp_path / 'learnt.jsonl'}",
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        f"trainer.checkpoints={tmp_path}/checkpoints",
        "tracking.experiment=compare-contents-test",
    ]
    found = []
    for seed in (9300, 9300, 9400):
        if seed not in found:
            write_labelled(str(tmp_path / "learnt.jsonl"), simulate(SimulationSettings(num_events=200), seed=seed))
        main(load_settings(CompareJob, [SMOKE, *SMALLER, "comparison.speed_events=0", *given]))
        found += [seed, [len(list((tmp_path / "out" / name).iterdir())) for name in ("models", "results")]]
    assert found[1::2] == [[1, 2], [1, 2], [2, 4]]


def _labelled(folder: Path, count: int) -> Path:
    path = folder / "ours.parquet"
    write_labelled(str(path), simulate(SimulationSettings(num_events=count), seed=9100))
    return path
