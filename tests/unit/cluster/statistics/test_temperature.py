"""Temperatures: the one that made the labels is found, and dividing by it changes no verdict."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.statistics.temperature import class_probabilities, find_temperature, negative_log_likelihood


def draw(num: int, *, temperature: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right once divided by a temperature, and labels drawn by them."""
    rng = np.random.default_rng(0)
    right = rng.normal(0, 2, (num, classes))
    labels = (rng.random((num, 1)) > class_probabilities(right, 1.0).cumsum(axis=1)).sum(axis=1)
    return right * temperature, np.minimum(labels, classes - 1)


@pytest.mark.parametrize(("temperature", "classes"), [(0.5, 3), (1.0, 4), (2.5, 2)])
def test_the_temperature_that_made_the_labels_is_found(temperature: float, classes: int) -> None:
    logits, labels = draw(20_000, temperature=temperature, classes=classes)
    found = find_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.04)
    best = negative_log_likelihood(logits, labels, found)
    assert best < min(negative_log_likelihood(logits, labels, found * factor) for factor in (0.9, 1.1))


def test_probabilities_sum_to_one_and_keep_their_order() -> None:
    logits = np.array([[1000.0, -1000.0, 0.0], [0.1, 0.2, 0.3]], np.float32)
    for temperature in (0.05, 1.0, 20.0):
        probabilities = class_probabilities(logits, temperature)
        assert probabilities.sum(axis=1) == pytest.approx([1.0, 1.0])
        assert probabilities.argmax(axis=1).tolist() == [0, 2]
