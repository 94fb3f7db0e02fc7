"""Trees on tables as own data sets have them."""

from __future__ import annotations

import numpy as np

from cancellation.comparison.learners import TreeLearner, TreeSettings


def test_a_feature_that_no_event_has_teaches_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    inputs = np.stack([labels + rng.normal(0, 0.1, 90), np.full(90, np.nan), rng.normal(size=90)], axis=1)
    factors = np.zeros((90, 18), bool)
    factors[:, 0] = labels == 0
    learner = TreeLearner(TreeSettings(max_iter=5)).fit(inputs, labels, factors)
    assert (learner.probabilities(inputs).argmax(axis=1) == labels).all()
    with_value = np.where(np.isnan(inputs), 7.0, inputs)  # of an event that has it after all
    assert (learner.probabilities(with_value) == learner.probabilities(inputs)).all()
    said = learner.factor_probabilities(inputs)[:, 0]
    assert said[labels == 0].min() > said[labels != 0].max()
