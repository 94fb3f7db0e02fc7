"""Plots hold what they are given."""

from __future__ import annotations

import numpy as np

from cluster.statistics.plots import draw_matrix, draw_reliability_lines, new_plot


def test_a_matrix_shows_its_counts_by_row_and_column() -> None:
    (axes,) = draw_matrix(np.array([[1200, 3], [0, 0]]), ("a", "b"), x_label="said", y_label="so").axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1,200",
        (1, 0): "3",
        (0, 1): "0",
        (1, 1): "0",
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("said", "so")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]


def test_reliability_stands_beside_the_line_of_truth() -> None:
    _, axes = new_plot()
    draw_reliability_lines(axes, [(0.2, 0.3), (0.8, 0.6)], [(0.5, 0.5)], names=("before", "after"))
    truth, before, after = axes.get_lines()
    assert (truth.get_xdata() == truth.get_ydata()).all()
    assert (before.get_label(), after.get_label()) == ("before", "after")
    assert list(before.get_ydata()) == [0.3, 0.6]
