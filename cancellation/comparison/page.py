"""The comparison as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Template

from cancellation.comparison.report import (
    FIGURES,
    WITH_INTERVAL,
    best_value,
    common_sets,
    how_measured,
    market_codes,
    meaning,
    set_title,
    winner,
)
from cancellation.comparison.run import ComparisonSettings, Result
from cluster.pages.templates import load_page
from cluster.provenance import collect_provenance, public_settings


def render_page(results: Sequence[Result], settings: ComparisonSettings) -> bytes:
    """Render the rows as UTF-8: a table per set, what each approach costs, accuracy by market, how it was made."""
    names, made = common_sets(results), collect_provenance()
    return (
        _template()
        .render(
            winner=winner(results),
            figures=FIGURES,
            sets=[_set(results, name) for name in names],
            results=results,
            meanings=[(result.approach, meaning(result)) for result in results],
            timed=any(result.speed for result in results),
            read_on=any(result.speed and result.speed.answer_p50_ms is not None for result in results),
            markets=_markets(results, names[0]),
            events_per_day=settings.price.events_per_day,
            how=how_measured(results, settings).replace("`", ""),
            identity={"commit": made.commit, "job_run": made.job_run_id},
            settings=json.dumps(public_settings(settings), indent=2),
            versions=made.versions,
            hardware=json.dumps(made.hardware, indent=2),
        )
        .encode()
    )


@cache
def _template() -> Template:
    return load_page("cancellation/comparison/page.html", duration=_duration, dollars=_dollars)


def _duration(milliseconds: float) -> str:
    """Write what a core takes and what a language model takes so that both can be read."""
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _dollars(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.2g}"


def _set(results: Sequence[Result], name: str) -> dict[str, Any]:
    best = {metric: best_value(results, name, metric) for metric, _ in FIGURES}
    rows = [
        {
            "approach": result.approach,
            "cells": [_cell(result.sets[name].get(metric), metric, best[metric]) for metric, _ in FIGURES],
        }
        for result in results
    ]
    return {"title": set_title(name), "events": results[0].num_events.get(name), "rows": rows}


def _cell(figure: Mapping[str, float | None] | None, metric: str, best: float | None) -> dict[str, Any]:
    found = figure or {"value": None, "low": None, "high": None}
    has_range = metric in WITH_INTERVAL and None not in (found["low"], found["high"])
    return {**found, "best": found["value"] is not None and found["value"] == best, "has_range": has_range}


def _markets(results: Sequence[Result], name: str) -> dict[str, Any]:
    codes = market_codes(results, name)
    rows = [
        {
            "approach": result.approach,
            "cells": [
                [result.sets[name][f"{metric}.{code}"]["value"] for metric in ("accuracy", "precision")]
                for code in codes
            ],
        }
        for result in results
    ]
    return {"title": set_title(name), "codes": codes, "rows": rows}
