"""An evaluation as matplotlib figures, for the MLflow run; the page draws its own, in HTML."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Plot

from cluster.statistics.bootstrap import Figure
from cluster.statistics.plots import BLUE, draw_matrix, draw_reliability_lines, new_plot
from relevance.evaluation.calibration import CalibrationFigures, ReliabilityBin
from relevance.evaluation.run import Evaluation
from relevance.labels import LABELS


def draw_evaluation(evaluation: Evaluation) -> dict[str, Plot]:
    """Draw the comparison, the confusion matrix, reliability and the slices; by name."""
    rows = [(name, row["alpha"]) for name, row in evaluation.comparison.items()]
    if evaluation.people:
        rows.append(("people, with each other", evaluation.people.people))
    slices = [(f"{part.kind}: {part.name}", part.figures["alpha"]) for part in evaluation.slices if part.figures]
    plots = {
        "comparison": _draw_intervals(rows),
        "confusion": draw_matrix(
            np.array(evaluation.confusion), LABELS, x_label="label of the model", y_label="label of people"
        ),
        "reliability": _draw_reliability(evaluation.calibration),
    }
    return plots | ({"slices": _draw_intervals(slices)} if slices else {})


def _draw_intervals(rows: Sequence[tuple[str, Figure]]) -> Plot:
    plot, axes = new_plot(height=1.2 + 0.35 * len(rows))
    measured = [(name, figure) for name, figure in rows if figure.value is not None]
    for place, (_, figure) in enumerate(reversed(measured)):
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [place, place], color=BLUE, alpha=0.4, linewidth=5)
        axes.plot(figure.value, place, "o", color=BLUE)
    axes.set_yticks(range(len(measured)), [name for name, _ in reversed(measured)])
    axes.set_xlabel("Krippendorff's alpha, 95 % interval over queries")
    axes.grid(axis="x", alpha=0.3)
    return plot


def _draw_reliability(calibration: CalibrationFigures) -> Plot:
    plot, axes = new_plot()
    after = f"temperature {calibration.temperature:.2f}" if calibration.temperature else "not scaled"
    draw_reliability_lines(axes, _points(calibration.before), _points(calibration.after), names=("before", after))
    axes.set_xlabel(f"probability of the label ({calibration.judged_pairs:,} pairs not fitted on)")
    axes.set_ylabel("share right")
    return plot


def _points(bins: Sequence[ReliabilityBin]) -> list[tuple[float | None, float | None]]:
    return [(one.confidence, one.accuracy) for one in bins if one.pairs]
