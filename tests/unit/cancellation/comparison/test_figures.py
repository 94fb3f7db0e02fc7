"""The comparison's figures against scikit-learn's, their intervals, and the table and plot made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_curve, roc_auc_score

from cancellation.comparison.approaches import (
    APPROACHES,
    NAMES,
    NetworkJudge,
    RulesJudge,
    TreesJudge,
    collect_inputs,
    network_settings,
)
from cancellation.comparison.figures import Judgements, Truth, compare, difference
from cancellation.comparison.judging_speed import PriceSettings, Speed, measure_speed
from cancellation.comparison.learners import TreeLearner, TreeSettings
from cancellation.comparison.report import draw_comparison, render_markdown, winner
from cancellation.comparison.run import SPLITS, ComparisonSettings, Result, held_out_sets
from cancellation.events.event import parse_event
from cancellation.events.factors import FACTORS
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from cancellation.training.run import TrainingSettings
from tests.builders.cancellation_events import sample_event
from tests.builders.verdict_models import WordModel


def draw(n: int = 400, *, seed: int = 0) -> tuple[Judgements, Truth]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=(0.3, 0.6, 0.1))
    logits = rng.normal(0, 1, (n, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    factors = rng.random((n, 18)) < 0.2
    found = np.clip(factors + rng.normal(0, 0.4, (n, 18)), 0, 1)
    return Judgements(probabilities, found), Truth(labels, factors, tuple(rng.choice(["TH", "BR"], n)))


def test_figures_are_those_of_scikit_learn() -> None:
    found, truth = draw()
    figures = compare(found, truth, resamples=20)
    induced, score = truth.labels == 0, found.probabilities[:, 0]
    assert figures["accuracy"].value == pytest.approx(accuracy_score(truth.labels, found.probabilities.argmax(axis=1)))
    assert figures["f1"].value == pytest.approx(f1_score(induced, found.probabilities.argmax(axis=1) == 0))
    assert figures["auc"].value == pytest.approx(roc_auc_score(induced, score))
    assert figures["factor_f1"].value == pytest.approx(f1_score(truth.factors, found.factors >= 0.5, average="micro"))
    precision, recall, _ = precision_recall_curve(induced, score)
    for least in (0.90, 0.95):
        name = f"recall_at_precision_{round(100 * least)}"
        assert figures[name].value == pytest.approx(recall[precision >= least].max())
    inside = np.array(truth.markets) == "TH"
    assert figures["accuracy.TH"].value == pytest.approx(
        accuracy_score(truth.labels[inside], found.probabilities[inside].argmax(axis=1))
    )


def test_equal_scores_are_flagged_together() -> None:
    scores = np.array([0.9, 0.9, 0.9, 0.1])
    probabilities = np.stack([scores, 1 - scores, np.zeros(4)], axis=1)
    truth = Truth(np.array([0, 0, 1, 1]), np.zeros((4, 18), bool), ("TH",) * 4)
    figures = compare(Judgements(probabilities, np.zeros((4, 18))), truth, resamples=20)
    assert figures["recall_at_precision_90"].value == 0.0
    assert figures["auc"].value == pytest.approx(roc_auc_score([1, 1, 0, 0], scores))


def test_intervals_hold_the_figure_and_shrink_with_events() -> None:
    few, many = (compare(*draw(n), resamples=200)["accuracy"] for n in (100, 2500))
    for figure in (few, many):
        assert figure.low < figure.value < figure.high
    assert few.high - few.low > 3 * (many.high - many.low)


def test_what_cannot_be_measured_is_none_and_no_warning() -> None:
    found, truth = draw(30)
    nobody = replace(truth, labels=np.ones(30, int), factors=np.zeros((30, 18), bool))
    figures = compare(replace(found, factors=np.zeros((30, 18))), nobody, resamples=20)
    assert figures["recall"].value is None
    assert figures["auc"].value is None
    assert figures["recall_at_precision_95"].value is None
    assert figures["factor_f1"].value is None


METRICS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "recall_at_precision_90",
    "recall_at_precision_95",
    "factor_f1",
)
EXAMPLES = list(simulated_examples(SimulationSettings(num_events=250), 3, range(250)))


@pytest.mark.parametrize("kind", ["rules", "trees", "stacked", "network"])
def test_every_kind_of_judge_judges_any_number_of_events_in_their_order(kind: str) -> None:
    model, trees = WordModel(), TreeSettings(max_iter=4)
    judge = {
        "rules": RulesJudge,
        "trees": lambda: TreesJudge(trees, collect_inputs(EXAMPLES)),
        "stacked": lambda: TreesJudge(trees, collect_inputs(EXAMPLES, model), model),
        "network": lambda: NetworkJudge(model),
    }[kind]()
    events = [example.event for example in EXAMPLES[:12]] + [parse_event(sample_event())]
    together = judge.judge(events)
    assert together.probabilities.shape == (13, 3)
    assert together.factors.shape == (13, 18)
    assert together.probabilities.sum(axis=1) == pytest.approx(np.ones(13))
    alone = np.concatenate([judge.judge([event]).probabilities for event in events])
    assert np.abs(alone - together.probabilities).max() <= 1e-6


def test_a_day_costs_what_its_busy_cores_cost() -> None:
    events = [example.event for example in EXAMPLES[:30]]
    price = PriceSettings(events_per_day=360_000, core_hour=0.05, utilization=0.5)
    speed = measure_speed(RulesJudge(), events, batch=10, price=price)
    assert 0 < speed.p50_ms <= speed.p99_ms
    assert speed.cost_per_day == pytest.approx(100 / speed.events_per_second * 0.1)


def test_factors_that_nobody_looked_for_count_neither_way() -> None:
    probabilities, found = np.eye(3)[[0, 1, 0]], np.zeros((3, 18))
    found[0, 3] = found[2, 5] = 1.0
    truth = Truth.of(["induced", "not_induced", "induced"], [[FACTORS[3]], [], None], ["TH"] * 3)
    assert compare(Judgements(probabilities, found), truth, resamples=2)["factor_f1"].value == 1.0


def test_trees_learn_what_the_features_tell() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (900, 5))
    inputs[::7, 3] = np.nan
    labels = np.digitize(inputs[:, 0], (-0.5, 0.5))
    factors = np.zeros((900, 18), bool)
    factors[:, 2] = inputs[:, 1] > 0
    learner = TreeLearner(TreeSettings(max_iter=40)).fit(inputs, labels, factors)
    assert (learner.probabilities(inputs).argmax(axis=1) == labels).mean() > 0.95
    assert ((learner.factor_probabilities(inputs)[:, 2] > 0.5) == factors[:, 2]).mean() > 0.95
    unseen = np.arange(900) % 2 == 0  # nobody looked: the factors written there mean nothing
    hidden = factors & ~unseen[:, None]
    learner = TreeLearner(TreeSettings(max_iter=40)).fit(inputs, labels, hidden, known=~unseen)
    assert ((learner.factor_probabilities(inputs)[:, 2] > 0.5) == factors[:, 2]).mean() > 0.95
    with pytest.raises(ValueError, match="all of induced, not_induced, inconclusive"):
        TreeLearner(TreeSettings()).fit(inputs, np.zeros(900, int), factors)


def test_each_network_differs_from_the_base_in_what_its_row_says_only() -> None:
    base = TrainingSettings()
    settings = {one.name: network_settings(one, base, pretrained="enc") for one in APPROACHES if one.kind == "network"}
    assert len({made.model_dump_json(exclude={"name"}) for made in settings.values()}) == len(settings)
    fusion = settings["attention"]
    assert (fusion.encoder, fusion.fusion.variant, fusion.loop) == ("enc", "attention", base.loop)
    assert settings["attention, encoder not pre-trained"].encoder is None
    begun = network_settings(APPROACHES[7], base.model_copy(update={"encoder": "begun"}), pretrained="enc")
    assert (APPROACHES[7].pretrained, begun.encoder) == (False, "begun")
    hard = settings["attention, no smoothing"]
    assert hard.loop == base.loop.model_copy(update={"label_smoothing": 0.0})
    assert not settings["attention, no market"].fusion.market_embedding


def test_held_out_sets_are_the_same_every_time_and_no_label_is_wrong() -> None:
    settings = ComparisonSettings(num_events=50)
    first, second = held_out_sets(settings), held_out_sets(settings)
    assert list(first) == list(SPLITS)
    assert first == second
    with pytest.raises(
        ValueError, match=r"comparison\.sets\.ours: no file gone\.jsonl; name one, or leave the set out"
    ):
        held_out_sets(ComparisonSettings(num_events=50, sets={"ours": "gone.jsonl"}))
    with pytest.raises(ValueError, match="test_wordings: the name of a simulated set"):
        ComparisonSettings(sets={"test_wordings": "ours.jsonl"})
    with pytest.raises(ValueError, match="as MLflow takes it"):
        ComparisonSettings(sets={"ours (new)": "ours.jsonl"})
    with pytest.raises(ValueError, match="nothing is left to judge approaches by"):
        ComparisonSettings(num_events=0)
    with pytest.raises(ValueError, match="no such approach; expected some of rules; trees"):
        ComparisonSettings(approaches=("magic",))
    with pytest.raises(ValueError, match="greater than or equal to 9000"):
        ComparisonSettings(seed=7000)


def result(name: str, seed: int) -> Result:
    found = {split: compare(*draw(seed=seed), resamples=20) for split in SPLITS}
    sets = {split: {k: v.as_dict() for k, v in row.items()} for split, row in found.items()}
    samples = {split: row["recall_at_precision_95"].samples for split, row in found.items()}
    return Result(name, "meaning", sets, samples, 12.0, Speed(1.5, 4.0, 300.0, 0.03))


def test_the_table_has_every_metric_of_every_row_and_names_the_winner(tmp_path) -> None:
    results = [result("rules", 1), result("attention", 2)]
    table = render_markdown(results, ComparisonSettings())
    rows = [line for line in table.splitlines() if line.startswith("| held-out")]
    assert len(rows) == 4
    assert len({line.count("|") for line in table.splitlines()[:6]}) == 1
    assert all(f"{results[0].sets[SPLITS[0]][metric]['value']:.3f}" in rows[0] for metric in METRICS)
    best = max(results, key=lambda one: one.sets[SPLITS[0]]["recall_at_precision_95"]["value"])
    assert winner(results).startswith(f"{best.approach} has the highest recall")
    assert winner(results) in table
    assert "surely ahead of" in winner(results)
    draw_comparison(results).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_an_approach_is_ahead_only_where_the_difference_on_the_same_events_is() -> None:
    better = [0.9, 0.7, 0.8, 0.6]
    assert difference(better, [value - 0.1 for value in better]) == pytest.approx((0.1, 0.1))
    low, high = difference(better, [0.6, 0.9, 0.7, 0.8])
    assert low < 0 < high


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
