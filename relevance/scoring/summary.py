"""The lines that a scoring run leaves on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from cluster import storage
from cluster.pages.formats import format_duration, format_share
from relevance.labels import LABELS
from relevance.scoring.checks import FINITE, Check, verdict
from relevance.scoring.measures import DayMeasures, label_shares, pairs_of_now
from relevance.scoring.page import format_alpha

_BAR_CELLS = 30


def print_summary(
    url: str,
    figures: Mapping[str, Any],
    *,
    measures: DayMeasures,
    checks: Sequence[Check],
    tracked_at: str,
    already_done: bool,
    to: TextIO | None = None,
) -> None:
    """Print a finished day: labels, speed, agreement, and where everything is.

    Args:
        url: The output folder.
        figures: `ScoringFigures.as_dict()` and `seconds`.
        measures: What `measure_day` derived from them.
        checks: What `check_day` found; those that failed are printed.
        tracked_at: How to look at the MLflow run.
        already_done: The day had been committed before; the figures are those of then.
        to: Where to print; standard output if None.
    """
    to = to or sys.stdout
    lines = [*_labels(figures, _bar_character(to)), "", *_facts(figures, measures), ""]
    if already_done:
        lines.insert(
            0, "already done: this input is committed under the same model and settings, nothing was written\n"
        )
    if spoilt := next((check for check in checks if check.name == FINITE), None):
        lines.insert(0, f"! {spoilt.found}\n")
    url = storage.short_url(url)
    places = {"scores": f"{url}/part-*.parquet", "report": f"{url}/report.html", "MLflow": tracked_at}
    lines += [f"{name:<12}{place}" for name, place in places.items()] + ["", verdict(checks)[1]]
    lines += [
        f"  ! {check.name}: {check.found}, expected {check.expected}" for check in checks if check.passed is False
    ]
    print("", *lines, sep="\n", file=to, flush=True)


def _labels(figures: Mapping[str, Any], block: str) -> list[str]:
    shares = label_shares(figures)
    widest = max(shares.values()) or 1
    bars = {label: block * round(_BAR_CELLS * shares[label] / widest) for label in LABELS}
    return [
        f"{label:<12}{bars[label]:<{_BAR_CELLS}} {shares[label]:>6.1%} {figures['labels'][label]:>12,}"
        for label in LABELS
    ]


def _facts(figures: Mapping[str, Any], measures: DayMeasures) -> list[str]:
    counts = figures["counts"]
    facts = {
        "pairs": f"{counts['read']:,} read: {counts['labelled']:,} labelled, {counts['reused']:,} reused, "
        f"{counts['repeated']:,} repeated, {counts['failed']:,} failed",
        "speed": f"{_speed(figures, measures)}, {measures.pairs_per_engine_second:,.0f} computed per second of an "
        "actor",
        "cache": f"{format_share(figures['cached_fraction'])} of prompt tokens from a shared prefix, "
        f"{figures['computed_tokens']:,} of {figures['prompt_tokens']:,} computed",
    }
    if measures.engine_wait_fraction is not None:
        facts["engines"] = (
            f"waited {format_share(measures.engine_wait_fraction)} of their time for shards{_gpus(measures)}"
        )
    if others := figures.get("passed_over"):
        facts["passed over"] = ", ".join(others)
    if agreement := figures["agreement"]:
        facts["agreement"] = (
            f"with the labels of {agreement['pairs']:,} pairs of the input: alpha {format_alpha(agreement['alpha'])}, "
            f"accuracy {agreement['accuracy']:.1%}, F1 exact {agreement['f1_exact']:.3f}"
        )
    return [f"{name:<12}{fact}" for name, fact in facts.items()]


def _gpus(measures: DayMeasures) -> str:
    busy = measures.gpu_busy_fraction
    return "" if busy is None else f"; their GPUs were busy {format_share(busy)} of it"


def _speed(figures: Mapping[str, Any], measures: DayMeasures) -> str:
    rate = f"{measures.pairs_per_second:,.0f} pairs/s in {format_duration(figures['seconds'])}"
    if not (resumed := figures.get("resumed_pairs")):
        return rate
    there = f"{resumed:,} of {figures['counts']['read']:,} pairs were there from an earlier attempt"
    return f"{rate}, {there}" if pairs_of_now(figures) else f"nothing was left to score, {there}"


def _bar_character(to: TextIO) -> str:
    """A full block, or # where the terminal's encoding has none."""
    try:
        "█".encode(to.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "█"
