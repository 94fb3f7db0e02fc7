"""The scoring report as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from jinja2 import Template

from cluster.pages.formats import format_count, format_duration, format_share
from cluster.pages.templates import load_page
from relevance.labels import LABELS
from relevance.scoring.checks import Check, verdict
from relevance.scoring.measures import DayMeasures, PreviousDay, label_shares

_MAX_ROWS = 20
_ORIGINS = (
    ("labelled", "labelled by the model"),
    ("reused", "label known for the same texts"),
    ("repeated", "repeats of a pair of this day"),
    ("failed", "with an error"),
)


@dataclass(frozen=True)
class Page:
    """All that the report shows. Texts of users are not among it; whatever is, is escaped."""

    title: str
    """The day: its partition, or its folder."""
    identity: Mapping[str, str | None]
    """What was read, written and used, by name."""
    figures: Mapping[str, Any]
    measures: DayMeasures
    checks: Sequence[Check]
    previous: PreviousDay | None
    gpu_hour_price: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]


def render_page(page: Page) -> bytes:
    """Render the report as UTF-8."""
    fine, sentence = verdict(list(page.checks))
    figures = page.figures
    return (
        _template()
        .render(
            page=page,
            fine=fine,
            sentence=sentence,
            figures=figures,
            measures=page.measures,
            origins=_origins(figures["counts"]),
            labels=_labels(figures, page.previous),
            confusion=_confusion(figures),
            confidence=_histogram(figures["confidence_histogram"]),
            label_mass=_histogram(figures["label_mass_histogram"]),
            errors=list(figures["errors"].items())[:_MAX_ROWS],
            other_errors=list(figures["errors"].values())[_MAX_ROWS:],
            poisoned_shards=figures["poisoned_shards"],
            settings=json.dumps(page.settings, indent=2),
            hardware=json.dumps(page.hardware, indent=2),
        )
        .encode()
    )


def format_alpha(alpha: float | None) -> str:
    """Write alpha with three digits; None is undefined, since only one label occurs."""
    return "undefined" if alpha is None else f"{alpha:.3f}"


@cache
def _template() -> Template:
    return load_page(
        "relevance/scoring/report.html",
        duration=format_duration,
        share=format_share,
        short=format_count,
        alpha=format_alpha,
    )


def _origins(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    total = max(1, counts["read"])
    return [
        {"name": name, "text": text, "count": counts[name], "share": counts[name] / total} for name, text in _ORIGINS
    ]


def _labels(figures: Mapping[str, Any], previous: PreviousDay | None) -> list[dict[str, Any]]:
    shares = label_shares(figures)
    before = label_shares(previous.figures) if previous else {}
    widest = max([*shares.values(), *before.values()]) or 1
    return [
        {
            "name": label,
            "count": figures["labels"][label],
            "share": shares[label],
            "width": shares[label] / widest,
            "before": before.get(label),
            "width_before": before.get(label, 0.0) / widest,
            "points": round(100 * (shares[label] - before.get(label, shares[label])), 1) + 0.0,  # no -0.0
        }
        for label in LABELS
    ]


def _confusion(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the matrix, each cell with its share of the row."""
    rows = []
    for label, counts in zip(LABELS, figures["confusion"], strict=True):
        total = sum(counts)
        cells = [{"count": count, "share": count / max(1, total)} for count in counts]
        rows.append({"name": label, "cells": cells, "total": total})
    return rows


def _histogram(counts: Sequence[int]) -> dict[str, Any]:
    total, highest = max(1, sum(counts)), max(1, *counts)
    below = list(accumulate(counts))
    return {
        "bars": [
            {
                "from": index / len(counts),
                "to": (index + 1) / len(counts),
                "count": count,
                "share": count / total,
                "height": count / highest,
            }
            for index, count in enumerate(counts)
        ],
        "highest": highest / total,
        "below_half": below[len(counts) // 2 - 1] / total,
        "empty": not sum(counts),
    }
