"""What figures look like, as matplotlib figures: a matrix of counts, the points of a reliability plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, GREEN, GREY = "#2a6fdb", "#12946a", "#8b929b"


def new_plot(height: float = 4.0) -> tuple[Figure, Axes]:
    """Make a figure without pyplot, which keeps every figure of a process alive."""
    plot = Figure(figsize=(6, height), dpi=120, layout="constrained")
    axes = plot.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return plot, axes


def draw_matrix(counts: np.ndarray, names: Sequence[str], *, x_label: str, y_label: str) -> Figure:
    """Draw counts, (k, k), each coloured by its share of its row."""
    plot, axes = new_plot()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, fontsize="small")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return plot


def draw_reliability_lines(
    axes: Axes, before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], *, names: tuple[str, str]
) -> None:
    """Draw predicted against observed before and after scaling, beside the line on which both are the same."""
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    for name, points, color in zip(names, (before, after), (GREEN, BLUE), strict=True):
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name, markersize=4)
    axes.legend(frameon=False)
