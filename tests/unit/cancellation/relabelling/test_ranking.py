"""Which labels are doubted, and in which order people get to see them."""

from __future__ import annotations

import numpy as np
import pytest

from cancellation.comparison.learners import TreeSettings
from cancellation.decision.policy import load_policy
from cancellation.events.factors import VERDICTS
from cancellation.relabelling.cases import Case, LabelledRow
from cancellation.relabelling.judges import JudgeSettings, Workshop, doubt_labels, fold_of
from cancellation.relabelling.round import interleave, split_tests
from cancellation.simulation.simulator import SimulationSettings
from cancellation.training.labelled_source import simulated_examples
from cluster.training.train import TrainerSettings

EXAMPLES = list(simulated_examples(SimulationSettings(num_events=240, label_noise=0.0), 4, range(240)))


def opinion(*sure: float) -> np.ndarray:
    """Probabilities of induced, the rest of not_induced."""
    return np.array([[one, 1 - one, 0.0] for one in sure])


def test_what_a_judge_contradicts_is_asked_and_the_least_likely_label_first():
    labels = np.array([0, 0, 0, 1, 1])
    first, second = opinion(0.9, 0.4, 0.02, 0.1, 0.7), opinion(0.8, 0.7, 0.05, 0.2, 0.8)
    doubt = doubt_labels(labels, [first, second])
    assert doubt.contradicted.tolist() == [0, 1, 2, 0, 2]
    assert doubt.order().tolist() == [2, 4, 1]
    assert np.all((doubt.quality >= 0) & (doubt.quality <= 1))


def test_a_judge_that_agrees_more_with_people_counts_for_more():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    good = opinion(*np.where(labels == 0, 0.9, 0.1))
    blind = opinion(*rng.random(400))
    good[:20] = good[:20, [1, 0, 2]]
    both, luck = doubt_labels(labels, [good, blind]).order(), doubt_labels(labels, [blind, blind[::-1]]).order()
    assert np.isin(both[:40], np.arange(20)).sum() > 15
    assert np.isin(luck[:40], np.arange(20)).sum() < 10


def test_no_seller_is_on_both_sides_and_a_later_round_has_the_same_tests():
    rows = [LabelledRow(example, {}) for example in EXAMPLES]
    taught, tests = split_tests(rows, 0.2)
    assert {row.example.event.seller_id for row in taught}.isdisjoint(row.example.event.seller_id for row in tests)
    assert len(tests) == pytest.approx(0.2 * len(rows), rel=0.5)
    _, again = split_tests(rows[::-1], 0.2)
    assert {row.example.event.event_id for row in again} == {row.example.event.event_id for row in tests}


def test_tests_stand_evenly_among_what_is_doubted():
    doubted = [Case(EXAMPLES[place].event, "contradicted", place + 1, "induced") for place in range(8)]
    tests = [Case(EXAMPLES[place].event, "test", place, "induced") for place in range(8, 12)]
    mixed = interleave(doubted, tests)
    assert [case.why == "test" for case in mixed].count(True) == 4
    assert [case.rank for case in mixed if case.why == "contradicted"] == list(range(1, 9))
    assert all(sum(case.why == "test" for case in mixed[start : start + 3]) == 1 for start in range(0, 12, 3))
    assert interleave([], tests) == tests


def test_a_judge_never_saw_the_label_that_it_judges(tmp_path):
    """Labels of one fold's sellers are turned round: the judges of that fold are not moved."""
    judges = JudgeSettings(folds=3, trees=TreeSettings(max_iter=8))
    workshop = Workshop(judges, TrainerSettings(), tmp_path, str(tmp_path), load_policy())
    before = workshop.out_of_fold("trees", EXAMPLES)
    assert np.allclose(before.sum(axis=1), 1.0)
    fold = np.array([fold_of(one.event.seller_id, 3) for one in EXAMPLES])
    turned = [
        type(one)(one.event, VERDICTS[(VERDICTS.index(one.label) + 1) % 3], one.factors) if of == 1 else one
        for one, of in zip(EXAMPLES, fold, strict=True)
    ]
    after = workshop.out_of_fold("trees", turned)
    assert np.array_equal(before[fold == 1], after[fold == 1])
    assert not np.array_equal(before[fold == 0], after[fold == 0])


def test_a_judge_gives_no_chance_to_a_verdict_that_the_market_does_not_know(tmp_path):
    policy = load_policy()
    workshop = Workshop(JudgeSettings(trees=TreeSettings(max_iter=8)), TrainerSettings(), tmp_path, "", policy)
    opinions = workshop.out_of_fold("trees", EXAMPLES)
    knows = np.array([policy.market(one.event.market).classes == 3 for one in EXAMPLES])
    assert 0 < knows.sum() < len(knows)
    assert (opinions[knows, 2] > 0).all()
    assert (opinions[~knows, 2] == 0).all()
    assert np.allclose(opinions.sum(axis=1), 1.0)


def test_one_judge_alone_is_refused():
    for kinds in (("fusion",), ("trees", "trees"), ("llm",)):
        with pytest.raises(ValueError, match="two or more different judges"):
            JudgeSettings(kinds=kinds)
    with pytest.raises(ValueError, match=r"judges\.llm: the output of jobs\.cancellation_label .* found none"):
        Workshop(JudgeSettings(kinds=("trees", "llm")), TrainerSettings(), None, "", load_policy()).out_of_fold(
            "llm", EXAMPLES
        )
