"""What judges the rows of a comparison: each event once, for as many as it stands for, and none that taught a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from cancellation.comparison.approaches import RulesJudge, TreesJudge, collect_inputs
from cancellation.comparison.figures import Truth, compare
from cancellation.comparison.learners import TreeSettings
from cancellation.comparison.run import ComparisonSettings, held_out_sets
from cancellation.comparison.sets import taught_by
from cancellation.events.factors import VERDICTS
from cancellation.events.table import write_labelled
from cancellation.model.learnt import write_learnt
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.training.labelled_source import simulated_examples
from cancellation.training.run import TrainingSettings, contents_read
from cluster.settings import load_settings
from jobs.cancellation_compare import CompareJob, main
from tests.builders.cancellation_events import sample_event
from tests.conftest import PROJECT

EXAMPLES = list(simulated_examples(SimulationSettings(num_events=300), 3, range(300)))
SMOKE = str(PROJECT / "jobs" / "cancellation_compare.smoke.toml")


def test_an_event_of_a_weighted_sample_counts_for_as_many_as_it_stands_for() -> None:
    weights = np.random.default_rng(0).choice([0.25, 1.0, 4.0], len(EXAMPLES))
    labels = np.array([VERDICTS.index(example.label) for example in EXAMPLES])
    found = RulesJudge().judge([example.event for example in EXAMPLES])
    truth = Truth(labels, found.factors > 0, tuple(example.event.market for example in EXAMPLES), weights=weights)
    figures, said = compare(found, truth, resamples=20), found.probabilities.argmax(axis=1)
    by_hand = {"sample_weight": weights}
    assert figures["accuracy"].value == pytest.approx(accuracy_score(labels, said, **by_hand))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert figures[name].value == pytest.approx(score(labels == 0, said == 0, **by_hand))
    assert figures["auc"].value == pytest.approx(roc_auc_score(labels == 0, found.probabilities[:, 0], **by_hand))
    assert figures["accuracy"].value != compare(found, replace(truth, weights=None), resamples=20)["accuracy"].value


def test_trees_learn_least_from_what_counts_least() -> None:
    turned = {label: VERDICTS[(place + 1) % 3] for place, label in enumerate(VERDICTS)}
    wrong = [replace(example, label=turned[example.label], sampling_weight=0.001) for example in EXAMPLES]
    judge = TreesJudge(TreeSettings(max_iter=20), collect_inputs([*EXAMPLES, *wrong]))
    said = judge.judge([example.event for example in EXAMPLES]).probabilities.argmax(axis=1)
    assert np.mean([VERDICTS[place] == one.label for place, one in zip(said, EXAMPLES, strict=True)]) > 0.9


def test_an_event_that_is_labelled_twice_judges_nobody(tmp_path: Path) -> None:
    for name, label in (("a.jsonl", "induced"), ("b.jsonl", "not_induced")):
        (tmp_path / name).write_text(json.dumps({"event": sample_event(), "label": label}) + "\n")
    settings = ComparisonSettings(num_events=0, sets={"ours": str(tmp_path)})
    with pytest.raises(ValueError, match=r"sets\.ours: 1 events are labelled twice, such as .*; keep one of their"):
        held_out_sets(settings)


def test_who_taught_a_model_that_the_weights_are_averaged_with_taught_the_row_too(tmp_path: Path) -> None:
    write_learnt(tmp_path, np.array([3, 5], np.uint64))
    settings = TrainingSettings(averaged_with=(str(tmp_path),))
    assert taught_by(settings, cache_dir=str(tmp_path), registry_uri=None).tolist() == [3, 5]
    before = contents_read(settings, None)
    write_learnt(tmp_path, np.array([3, 5, 7], np.uint64))
    assert contents_read(settings, None) != before, "the comparison keeps trained rows by it"


def test_no_row_is_judged_by_events_that_it_learns_from(tmp_path: Path) -> None:
    examples = list(simulate(SimulationSettings(num_events=120, label_noise=0), 9001))
    write_labelled(str(tmp_path / "learnt.jsonl"), examples[:100])
    write_labelled(str(tmp_path / "ours.jsonl"), examples[90:])
    given = [
        'comparison.approaches=["trees"]',
        "comparison.trees.max_iter=5",
        f"comparison.sets.ours={tmp_path}/ours.jsonl",
        f"training.events.events={tmp_path}/learnt.jsonl",
        "comparison.num_events=0",
        "comparison.resamples=20",
        "comparison.speed_events=0",
        f"output={tmp_path}/out",
        f"cache_dir={tmp_path}/cache",
        "tracking.off=true",
    ]
    with pytest.raises(ValueError, match=r"sets\.ours: 10 of 30 events taught the model of the row trees"):
        main(load_settings(CompareJob, [SMOKE, *given]))
