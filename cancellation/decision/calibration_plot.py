"""The reliability of a score before and after calibration, as a matplotlib figure."""

from __future__ import annotations

from matplotlib.figure import Figure

from cancellation.decision.calibration import Calibration
from cluster.statistics.plots import BLUE, draw_reliability_lines


def draw_reliability(calibration: Calibration) -> Figure:
    """Draw share induced over score, and how many events each point stands for."""
    plot = Figure(figsize=(6, 5.4), dpi=120, layout="constrained")
    axes, counts = plot.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    before, after = (
        [(one.score, one.induced) for one in bins if one.events] for bins in (calibration.before, calibration.after)
    )
    names = (
        f"before, ECE {calibration.ece_before:.3f}",
        f"temperature {calibration.temperature:.2f}, ECE {calibration.ece_after:.3f}",
    )
    draw_reliability_lines(axes, before, after, names=names)
    axes.set_ylabel("share labelled induced")
    edges = [one.start for one in calibration.after]
    width = calibration.after[0].stop - calibration.after[0].start
    counts.bar(edges, [one.events for one in calibration.after], width=width * 0.9, align="edge", color=BLUE, alpha=0.5)
    counts.set_yscale("symlog", linthresh=10)
    counts.set_ylabel("events")
    counts.set_xlabel(f"score ({calibration.judged_events:,} events not fitted on)")
    for part in (axes, counts):
        part.spines[["top", "right"]].set_visible(False)
    return plot
