"""An evaluation as matplotlib figures, for the MLflow run; the page draws its own, in HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from cluster.statistics.bootstrap import Figure
from relevance.evaluation.calibration import CalibrationFigures
from relevance.evaluation.run import Evaluation
from relevance.labels import LABELS

_BLUE, _GREEN, _GREY = "#2a6fdb", "#12946a", "#8b929b"


def draw_evaluation(evaluation: Evaluation) -> dict[str, Plot]:
    """Draw the comparison, the confusion matrix, reliability and the slices; by name."""
    rows = [(name, row["alpha"]) for name, row in evaluation.comparison.items()]
    if evaluation.people:
        rows.append(("people, with each other", evaluation.people.people))
    slices = [(f"{part.kind}: {part.name}", part.figures["alpha"]) for part in evaluation.slices if part.figures]
    plots = {
        "comparison": _draw_intervals(rows),
        "confusion": _draw_confusion(np.array(evaluation.confusion)),
        "reliability": _draw_reliability(evaluation.calibration),
    }
    return plots | ({"slices": _draw_intervals(slices)} if slices else {})


def _draw_intervals(rows: Sequence[tuple[str, Figure]]) -> Plot:
    plot, axes = _new_plot(height=1.2 + 0.35 * len(rows))
    measured = [(name, figure) for name, figure in rows if figure.value is not None]
    for place, (_, figure) in enumerate(reversed(measured)):
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [place, place], color=_BLUE, alpha=0.4, linewidth=5)
        axes.plot(figure.value, place, "o", color=_BLUE)
    axes.set_yticks(range(len(measured)), [name for name, _ in reversed(measured)])
    axes.set_xlabel("Krippendorff's alpha, 95 % interval over queries")
    axes.grid(axis="x", alpha=0.3)
    return plot


def _draw_confusion(confusion: np.ndarray) -> Plot:
    plot, axes = _new_plot()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(LABELS)), LABELS, fontsize="small")
    axes.set_yticks(range(len(LABELS)), LABELS, fontsize="small")
    axes.set_xlabel("label of the model")
    axes.set_ylabel("label of people")
    return plot


def _draw_reliability(calibration: CalibrationFigures) -> Plot:
    plot, axes = _new_plot()
    axes.plot([0, 1], [0, 1], "--", color=_GREY, linewidth=1)
    after = f"temperature {calibration.temperature:.2f}" if calibration.temperature else "not scaled"
    for name, bins, color in (("before", calibration.before, _GREEN), (after, calibration.after, _BLUE)):
        points = [(one.confidence, one.accuracy) for one in bins if one.pairs]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
    axes.set_xlabel(f"probability of the label ({calibration.judged_pairs:,} pairs not fitted on)")
    axes.set_ylabel("share right")
    axes.legend(frameon=False)
    return plot


def _new_plot(height: float = 4.0) -> tuple[Plot, Axes]:
    """Make a figure without pyplot, which keeps every figure of a process alive."""
    plot = Plot(figsize=(6, height), dpi=120, layout="constrained")
    axes = plot.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return plot, axes
