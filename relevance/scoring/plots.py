"""A day's figures as matplotlib figures, for the MLflow run; the report draws its own, in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.statistics.plots import draw_matrix, new_plot
from relevance.labels import LABELS
from relevance.scoring.measures import PreviousDay, label_shares
from relevance.scoring.page import format_alpha

_COLORS = {"exact": "#2a6fdb", "substitute": "#12946a", "complement": "#d98e04", "irrelevant": "#8b929b"}


def draw_day(figures: Mapping[str, Any], previous: PreviousDay | None) -> dict[str, Figure]:
    """Draw label shares, confidence and label mass, and the confusion matrix where the input had labels; by name."""
    plots = {
        "labels": _draw_labels(figures, previous),
        "confidence": _draw_histogram(figures["confidence_histogram"], "probability of the label given"),
    }
    if figures["mean_label_mass"] is not None:
        plots["label_mass"] = _draw_histogram(
            figures["label_mass_histogram"], "probability of the four labels together"
        )
    if figures["agreement"]:
        plots["confusion"] = _draw_confusion(np.array(figures["confusion"]), figures["agreement"])
    return plots


def _draw_labels(figures: Mapping[str, Any], previous: PreviousDay | None) -> Figure:
    figure, axes = _new_figure()
    shares = label_shares(figures)
    positions = np.arange(len(LABELS))
    width = 0.4 if previous else 0.6
    axes.bar(positions, [shares[label] for label in LABELS], width, color=[_COLORS[label] for label in LABELS])
    if previous:
        before = label_shares(previous.figures)
        axes.bar(positions + width, [before[label] for label in LABELS], width, color="#c9ced4", label=previous.name)
        axes.legend(frameon=False)
    axes.set_xticks(positions + (width / 2 if previous else 0), LABELS)
    return figure


def _draw_histogram(counts: Sequence[int], name: str) -> Figure:
    figure, axes = _new_figure()
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.bar(
        edges[:-1], np.array(counts) / max(1, sum(counts)), 0.9 / len(counts), align="edge", color=_COLORS["exact"]
    )
    axes.set_xlabel(name)
    return figure


def _draw_confusion(confusion: np.ndarray, agreement: Mapping[str, float]) -> Figure:
    of_model = f"label of the model (alpha {format_alpha(agreement['alpha'])}, {agreement['pairs']:,} pairs)"
    return draw_matrix(confusion, LABELS, x_label=of_model, y_label="label of the input")


def _new_figure() -> tuple[Figure, Axes]:
    figure, axes = new_plot()
    axes.set_ylabel("share of rows")
    return figure, axes
