"""Two days of scores as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Template

from cluster.pages.formats import format_share
from cluster.pages.templates import load_page
from cluster.provenance import Provenance
from relevance.labels import LABELS
from relevance.monitoring.run import MonitoredScores

_MAX_VALUES = 12
"""Values of a column that are shown: those with most pairs."""
_SHOWN = (
    ("pairs", "pairs", False),
    *((f"share.{label}", label, True) for label in LABELS),
    ("reused", "labels known before, or repeated", True),
    ("failed", "without a label", True),
    ("label_mass.low", "label mass below 0.5", True),
)


def render_scores(
    found: MonitoredScores, *, settings: Mapping[str, Any], identity: Mapping[str, str | None], provenance: Provenance
) -> bytes:
    """Render the page as UTF-8; it holds ids, labels and numbers, never a query's or a product's text."""
    comparison = found.comparison
    more = f", and {len(found.findings) - 1} more" if len(found.findings) > 1 else ""
    first = f"{found.findings[0][:1].upper()}{found.findings[0][1:]}{more}." if found.findings else ""
    return (
        _template()
        .render(
            found=found,
            fine=not found.findings,
            sentence=first or "Nothing that such days do not do by themselves.",
            comparison=comparison,
            labels=LABELS,
            figures=_figures(found),
            splits=_splits(found),
            moves=_moves(found),
            first=settings["monitor"]["compare"]["first"],
            identity=identity,
            settings=json.dumps(settings, indent=2),
            versions=provenance.versions,
            hardware=json.dumps(provenance.hardware, indent=2),
        )
        .encode()
    )


@cache
def _template() -> Template:
    return load_page(
        "relevance/monitoring/page.html", share=lambda value: "–" if value is None else format_share(value)
    )


def _figures(found: MonitoredScores) -> list[dict[str, Any]]:
    rows = []
    for key, name, is_share in _SHOWN:
        series = [day.values[key] for day in found.days]
        known = [value for value in series[:-1] if value is not None]
        usual = sum(known) / len(known) if known else None
        values = (series[-1], series[-2] if len(series) > 1 else None, usual)
        shown = [_write(value, is_share) for value in values]
        rows.append({"name": name, "shown": shown, "bars": _bars(series)})
    return rows


def _write(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return format_share(value) if is_share else f"{value:,.0f}"


def _bars(series: list[float | None]) -> list[int]:
    """Heights in per cent; a day without a value has none."""
    highest = max([value for value in series if value is not None], default=0) or 1
    return [0 if value is None else max(4, round(100 * value / highest)) for value in series]


def _splits(found: MonitoredScores) -> list[dict[str, Any]]:
    splits = []
    for column, values in found.comparison.shares.items():
        order = sorted(values, key=lambda value: -sum(map(sum, values[value])))
        rows = [
            {
                "value": value,
                "pairs": sum(values[value][0]),
                "now": _shares(values[value][0]),
                "before": _shares(values[value][1]),
            }
            for value in order[:_MAX_VALUES]
        ]
        splits.append({"column": column, "rows": rows, "others": len(order) - len(rows)})
    return splits


def _shares(counts: list[int]) -> list[float | None]:
    total = sum(counts)
    return [count / total if total else None for count in counts]


def _moves(found: MonitoredScores) -> list[dict[str, Any]]:
    rows = []
    for label, counts in zip(LABELS, found.comparison.moves.tolist(), strict=True):
        total = sum(counts)
        cells = [{"count": count, "share": count / total if total else 0.0} for count in counts]
        rows.append({"name": label, "cells": cells, "total": total})
    return rows
