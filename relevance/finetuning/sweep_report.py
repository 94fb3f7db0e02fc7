"""A sweep's cells as one table and one plot."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cluster import storage
from cluster.statistics.bootstrap import pooled
from cluster.tracking import TrackedRun
from relevance.finetuning.sweep import Cell

_COLORS = ("#2a6fdb", "#12946a", "#d98e04", "#a23b72", "#5b6470")
_GREY = "#8b929b"


def report_sweep(cells: Sequence[Cell], output: str, run: TrackedRun) -> None:
    """Write sweep.md and sweep.png to `output`, send them to the run, and print the table."""
    table, plot = sweep_table(cells), draw_sweep(cells)
    picture = io.BytesIO()
    plot.savefig(picture, format="png", dpi=130)
    for name, content in (("sweep.md", f"{table}\n".encode()), ("sweep.png", picture.getvalue())):
        storage.write_bytes(storage.join_url(output, name), content)
        run.artifact(name, content)
    best = max(cells, key=lambda cell: cell.alpha)
    run.metrics({"best_alpha": best.alpha, "cells": len(cells)})
    print(f"{table}\nplot  {storage.join_url(output, 'sweep.png')}\nrun   {run.where}")


def sweep_table(cells: Sequence[Cell]) -> str:
    """Render the cells as Markdown, the seeds of a base and number of labels in one row."""
    lines = [
        "| base | parameters | labels | seeds | alpha (seeds) | 95 % interval | F1 exact-vs-rest | word overlap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (base, parameters), some in _by_base(cells).items():
        for row in _by_labels(some):
            alphas = [cell.alpha for cell in row]
            spread = f"{np.mean(alphas):.3f}"
            if len(alphas) > 1:
                spread += f" ({min(alphas):.3f} to {max(alphas):.3f})"
            _, low, high = _pooled(row)
            labels = f"{np.mean([cell.num_labels for cell in row]):.0f}"
            f1, overlap = (np.mean([getattr(cell, name) for cell in row]) for name in ("f1_exact", "overlap_alpha"))
            lines.append(
                f"| {base} | {_millions(parameters)} | {labels} | {len(row)} | {spread} | {low:.3f} to {high:.3f} "
                f"| {f1:.3f} | {overlap:.3f} |"
            )
    return "\n".join(lines)


def _millions(parameters: int | None) -> str:
    return "unknown" if parameters is None else f"{parameters / 1e6:,.1f} M"


def _by_base(cells: Sequence[Cell]) -> dict[tuple[str, int | None], list[Cell]]:
    found: dict[tuple[str, int | None], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.base, cell.num_parameters), []).append(cell)
    return found


def _by_labels(cells: Sequence[Cell]) -> list[list[Cell]]:
    """One row per asked-for number of labels: the n-th smallest set of every seed belongs to the n-th row."""
    by_seed: dict[int, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.num_labels):
        by_seed.setdefault(cell.seed, []).append(cell)
    return [list(row) for row in zip(*by_seed.values(), strict=True)]


def _pooled(row: Sequence[Cell]) -> tuple[float, float, float]:
    """Mean alpha of the seeds and the interval of all their draws together; NaN where undefined."""
    figure = pooled([np.array(cell.alpha_draws, float) for cell in row])
    return tuple(np.nan if value is None else value for value in (figure.value, figure.low, figure.high))


def draw_sweep(cells: Sequence[Cell]) -> Figure:
    """Draw alpha over the number of labels, a line per base through the seeds' means with their 95 % intervals."""
    plot = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = plot.add_subplot()
    by_base = _by_base(cells)
    widest = max(cell.num_labels for cell in cells)
    for number, ((base, parameters), some) in enumerate(by_base.items()):
        color, rows = _COLORS[number % len(_COLORS)], _by_labels(some)
        # Bases of the same number of labels stand side by side, else their intervals hide each other.
        x = [np.mean([cell.num_labels for cell in row]) + 0.012 * widest * number for row in rows]
        mean, low, high = np.array([_pooled(row) for row in rows]).T
        label = f"{base} ({_millions(parameters)})"
        axes.errorbar(x, mean, [mean - low, high - mean], fmt="-o", color=color, capsize=3, elinewidth=1, label=label)
        for at, row in zip(x, rows, strict=True):
            axes.plot([at] * len(row), [cell.alpha for cell in row], ".", color=color, alpha=0.5)
    rows = _by_labels(next(iter(by_base.values())))
    y = [np.mean([cell.overlap_alpha for cell in row]) for row in rows]
    axes.plot([np.mean([cell.num_labels for cell in row]) for row in rows], y, "--o", color=_GREY, label="word overlap")
    axes.set_xlim(0, widest * 1.08)
    axes.set_xlabel("labelled pairs to learn from")
    axes.set_ylabel("alpha on held-out queries, 95 % interval")
    axes.grid(alpha=0.3)
    plot.legend(frameon=False, loc="outside upper left", ncols=2, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return plot
