"""How far people agree, as one self-contained HTML page for the lead: no script, no font, no request to anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

from jinja2 import Template

from cluster.pages.formats import format_share
from cluster.pages.templates import load_page
from relevance.annotation.adjudication import Adjudicated
from relevance.annotation.agreement import AgreementFigures, AgreementSettings, AlphaFigure, GoldFigure
from relevance.labels import LABELS

_METHODS = ("majority", "decision", "open")
_MAX_TWOS = 12
"""Twos of people that are shown unfolded, from the lowest alpha on."""


@dataclass(frozen=True)
class AgreementPage:
    """All that the page shows."""

    figures: AgreementFigures
    adjudicated: Sequence[Adjudicated]
    settings: AgreementSettings
    missing_labels: int
    """Labels that were asked for and have not come back."""
    guideline_version: str
    """The one in force."""
    identity: Mapping[str, str]
    """What was read and written, by name."""


def judge(page: AgreementPage) -> tuple[bool, str]:
    """Say in a sentence whether the last round's labels are good enough to train on."""
    if not page.figures.by_round:
        return False, "Nobody has labelled anything yet."
    last = page.figures.by_round[-1]
    if last.alpha is None and last.pairs:
        return False, (
            f"Round {last.name}: everybody gave the same label to all {_count(last.pairs, 'pair')}, so agreement "
            "cannot be told from habit: draw a round in which other labels occur."
        )
    if last.alpha is None:
        return False, f"Round {last.name}: no pair has labels by two people yet."
    found = f"alpha {last.alpha:.3f} ({last.low:.2f} to {last.high:.2f}), {page.settings.min_alpha:g} expected"
    weak = weak_annotators(page.figures, page.settings, for_sure=True)
    if last.alpha < page.settings.min_alpha:
        return False, f"Round {last.name}: people do not agree well enough to train on their labels: {found}."
    if weak:
        names = ", ".join(one.annotator for one in weak)
        return False, f"Round {last.name}: people agree, {found}, but too many gold pairs are missed by {names}."
    return True, f"Round {last.name}: people agree well enough to train on their labels: {found}."


def weak_annotators(
    figures: AgreementFigures, settings: AgreementSettings, *, for_sure: bool = False
) -> list[GoldFigure]:
    """Find who misses more gold pairs than is allowed; `for_sure`: more than bad luck on few pairs explains."""
    judged = [one for one in figures.against_gold if one.accuracy is not None]
    expected = settings.min_gold_accuracy
    return [one for one in judged if (one.accuracy_high if for_sure else one.accuracy) < expected]


def next_steps(page: AgreementPage) -> list[str]:
    """List what a lead should do, the most urgent first."""
    figures, steps = page.figures, []
    if (num_open := sum(one.label is None for one in page.adjudicated)) > 0:
        steps.append(f"Decide {_count(num_open, 'open pair')}: fill in conflicts.csv, run again with decisions=….")
    for one in weak_annotators(figures, page.settings):
        steps.append(
            f"Go through the guidelines with {one.annotator}: {format_share(one.accuracy or 0)} of "
            f"{_count(one.pairs, 'gold pair')} right, {format_share(page.settings.min_gold_accuracy)} expected."
        )
    if (disputed := sum(item.against_gold for item in figures.agenda)) > 0:
        steps.append(f"Check {_count(disputed, 'gold label')}: most people contradict, see the agenda.")
    if worst := _most_confused(figures):
        steps.append(f"Sharpen the line between {worst[0]} and {worst[1]}: {format_share(worst[2])} of disagreements.")
    if page.missing_labels:
        steps.append(f"Wait for {_count(page.missing_labels, 'label')} still missing, or do without.")
    old = sum(one.annotations for one in figures.by_version if one.name != page.guideline_version)
    if old:
        steps.append(f"Mind {_count(old, 'label')} given under other guidelines than {page.guideline_version}.")
    return steps


def render_agreement(page: AgreementPage) -> bytes:
    """Render the page as UTF-8."""
    fine, sentence = judge(page)
    return (
        _template()
        .render(
            page=page,
            figures=page.figures,
            fine=fine,
            sentence=sentence,
            steps=next_steps(page),
            labels=LABELS,
            outcomes=_outcomes(page.adjudicated),
            methods={name: sum(one.method == name for one in page.adjudicated) for name in _METHODS},
            matrix=_matrix(page.figures),
            twos=page.figures.by_people[:_MAX_TWOS],
            more_twos=page.figures.by_people[_MAX_TWOS:],
            weak={one.annotator for one in weak_annotators(page.figures, page.settings)},
            gold_right=sum(int(one.confusion.trace()) for one in page.figures.against_gold),
            num_labels=sum(one.annotations for one in page.figures.against_gold),
            gold_all=sum(one.pairs for one in page.figures.against_gold),
        )
        .encode()
    )


@cache
def _template() -> Template:
    return load_page("relevance/annotation/agreement_page.html", share=format_share, place=_place, alpha=_alpha)


def _alpha(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "\u2212")


def _place(value: float) -> str:
    """Where on a scale from 0 to 1, in per cent; what lies below 0 is drawn at its end."""
    return f"{100 * min(1.0, max(0.0, value)):.1f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _most_confused(figures: AgreementFigures) -> tuple[str, str, float] | None:
    matrix = figures.coincidences
    apart = matrix.sum() - matrix.trace()
    if not apart:
        return None
    one, other = max(combinations(range(len(LABELS)), 2), key=lambda two: matrix[two])
    return LABELS[one], LABELS[other], float(2 * matrix[one, other] / apart)


def _matrix(figures: AgreementFigures) -> list[dict[str, Any]]:
    """Rows of the coincidence matrix, each cell with its share of the row: given one label, what others say."""
    rows = []
    for label, counts in zip(LABELS, figures.coincidences, strict=True):
        total = counts.sum()
        cells = [{"count": float(count), "share": float(count / total) if total else 0.0} for count in counts]
        rows.append({"name": label, "cells": cells, "total": float(total)})
    return rows


def _outcomes(adjudicated: Sequence[Adjudicated]) -> list[dict[str, Any]]:
    counts = Counter((one.label, one.method) for one in adjudicated)
    totals = {label: sum(counts[label, method] for method in _METHODS) for label in LABELS}
    return [
        {
            "name": label,
            "total": totals[label],
            "decided": counts[label, "decision"],
            "width": totals[label] / (max(totals.values()) or 1),
        }
        for label in LABELS
    ]


def alpha_rows(figures: AgreementFigures) -> list[tuple[str, AlphaFigure]]:
    """List every alpha with what it is of, for tables and metrics."""
    groups = {"round": figures.by_round, "version": figures.by_version, "label": figures.by_label}
    groups["people"] = figures.by_people
    return [("all", figures.overall), *((kind, one) for kind, several in groups.items() for one in several)]
