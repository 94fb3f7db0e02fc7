"""A day's figures as matplotlib figures, for the MLflow run; the report draws its own, in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relevance.labels import LABELS
from relevance.scoring.measures import PreviousDay, label_shares

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
    figure, axes = _new_figure("share of rows")
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
    figure, axes = _new_figure("share of rows")
    edges = np.linspace(0, 1, len(counts) + 1)
    axes.bar(
        edges[:-1], np.array(counts) / max(1, sum(counts)), 0.9 / len(counts), align="edge", color=_COLORS["exact"]
    )
    axes.set_xlabel(name)
    return figure


def _draw_confusion(confusion: np.ndarray, agreement: Mapping[str, float]) -> Figure:
    figure, axes = _new_figure("label of the input")
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(LABELS)), LABELS, fontsize="small")
    axes.set_yticks(range(len(LABELS)), LABELS, fontsize="small")
    axes.set_xlabel(f"label of the model (alpha {agreement['alpha']:.3f}, {agreement['pairs']:,} pairs)")
    return figure


def _new_figure(y_label: str) -> tuple[Figure, Axes]:
    """Make a figure without pyplot, which keeps every figure of a process alive."""
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(y_label)
    return figure, axes
