"""A day of verdicts as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Template
from markupsafe import Markup

from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.monitoring.counts import MarketCounts, matrix, merge
from cancellation.monitoring.drift import TEXT
from cancellation.monitoring.figures import KeyFigure, key_figures
from cancellation.monitoring.findings import UNKNOWABLE
from cancellation.monitoring.precision import strength
from cancellation.monitoring.run import MonitoredDay
from cluster.pages.formats import format_share
from cluster.pages.templates import load_page
from cluster.provenance import Provenance
from cluster.statistics.drift import population_stability

_FEATURES_SHOWN = 12


def render_day(
    found: MonitoredDay, *, settings: Mapping[str, Any], identity: Mapping[str, str | None], provenance: Provenance
) -> bytes:
    """Render the page as UTF-8; it holds counts, codes and ids, never a text of anybody."""
    fine, sentence = verdict(found)
    features = [one for one in found.drift if one.group != TEXT]
    yesterday = str(found.day - timedelta(days=1))
    return (
        _template()
        .render(
            found=found,
            fine=fine,
            sentence=sentence,
            identity=identity,
            figures=key_figures(found.today, found.before, yesterday),
            has_yesterday=any(day.day == yesterday for day in found.before),
            hours=_hours(found),
            markets=_markets(found),
            verdicts=VERDICTS,
            scores=_scores(found),
            factors=_factors(found, yesterday),
            features=features[:_FEATURES_SHOWN],
            other_features=features[_FEATURES_SHOWN:],
            text_drifted=sum(one.drift.drifted for one in found.texts),
            text_markets=[one for one in found.drift if one.group == TEXT and one.market and one.drifted],
            reasons=sorted(found.whole.fallback_reasons.items(), key=lambda item: -item[1]),
            precision=_precision(found),
            appeals=sum(found.feedback[-1].appeals.values()),
            shadows=_shadows(found),
            promised=found.promised_precision,
            unknowable=UNKNOWABLE,
            settings=json.dumps(settings, indent=2),
            versions=provenance.versions,
            hardware=json.dumps(provenance.hardware, indent=2),
        )
        .encode()
    )


def verdict(found: MonitoredDay) -> tuple[bool, str]:
    """Sum a day up: whether there is nothing to do, and a sentence."""
    alarms = [one for one in found.findings if one.severity == "alarm"]
    if found.decision.retrain:
        fired = next(trigger for trigger in found.decision.triggers if trigger.fired)
        return False, f"Train anew: {fired.reason}."
    if alarms:
        more = f", and {len(alarms) - 1} more" if len(alarms) > 1 else ""
        return False, f"{alarms[0].text[:1].upper()}{alarms[0].text[1:]}{more}."
    events = f"{found.today.events:,} decision{'s' * (found.today.events != 1)}"
    return True, f"{events}, nothing that such days do not do by themselves. No reason to train anew."


@cache
def _template() -> Template:
    return load_page("cancellation/monitoring/page.html", share=_share, figure=_figure, moved=_moved, line=_line)


def _share(value: float | None) -> str:
    return "–" if value is None else format_share(value)


def _figure(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    if kind == "share":
        return format_share(value)
    if kind == "milliseconds":
        return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
    return f"{value:,.0f}"


def _moved(figure: KeyFigure) -> str:
    """Say how far a number is from that of the day before: shares in points, everything else in per cent."""
    today, yesterday = figure.today, figure.yesterday
    if today is None or yesterday is None or (figure.kind != "share" and not yesterday):
        return "–"
    points = 100 * (today - yesterday if figure.kind == "share" else today / yesterday - 1)
    shown = f"{points:+.1f} points" if figure.kind == "share" else f"{points:+.0f} %"
    return "same" if shown in ("+0.0 points", "-0.0 points", "+0 %", "-0 %") else shown


def _line(series: Sequence[float | None]) -> str:
    """Draw days as a line, the last one as a point; a day without a value is left out."""
    known = [(place, value) for place, value in enumerate(series) if value is not None]
    if len(known) < 2:
        return ""
    low, high = min(value for _, value in known), max(value for _, value in known)
    scale = (high - low) or 1.0
    points = [(4 + 92 * place / (len(series) - 1), 20 - 16 * (value - low) / scale) for place, value in known]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return Markup(
        f'<svg class="line" viewBox="0 0 100 24" role="img" aria-label="{len(known)} days"><polyline points="{path}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></svg>'
    )


def _hours(found: MonitoredDay) -> list[dict[str, Any]]:
    usual = [0.0] * 24
    for day in found.before:
        for market in day.markets.values():
            usual = [a + b for a, b in zip(usual, market.hours, strict=True)]
    usual = [count / max(1, len(found.before)) for count in usual]
    highest = max([*found.whole.hours, *usual, 1])
    return [
        {
            "hour": hour,
            "count": count,
            "usual": usual[hour],
            "height": count / highest,
            "usual_height": usual[hour] / highest,
        }
        for hour, count in enumerate(found.whole.hours)
    ]


def _markets(found: MonitoredDay) -> list[dict[str, Any]]:
    rows = []
    for code in sorted({*found.today.markets, *(code for day in found.before for code in day.markets)}):
        own = found.today.markets.get(code, MarketCounts())
        past = merge([day.markets[code] for day in found.before if code in day.markets])
        rows.append(
            {
                "code": code,
                "events": own.events,
                "usual_events": past.events / len(found.before) if found.before else None,
                "shares": {name: _ratio(own.verdicts.get(name, 0), own.events) for name in VERDICTS},
                "usual": {name: _ratio(past.verdicts.get(name, 0), past.events) for name in VERDICTS},
                "penalties": _ratio(own.actions.get("penalty", 0), own.events),
                "fallback": _ratio(own.sources.get("fallback", 0), own.events),
                "psi": _psi(own.scores, past.scores),
                "few": own.events < 30,
                "states": ", ".join(sorted(own.states)),
            }
        )
    return rows


def _psi(counts: Sequence[int], reference: Sequence[int]) -> float | None:
    value = population_stability(np.array(counts), np.array(reference))
    return None if value != value else value


def _scores(found: MonitoredDay) -> dict[str, Any]:
    past = merge([merge(list(day.markets.values())) for day in found.before]).scores
    now, before = sum(found.whole.scores), sum(past)
    shares = [
        (count / max(1, now), known / max(1, before)) for count, known in zip(found.whole.scores, past, strict=True)
    ]
    highest = max([share for both in shares for share in both] + [1e-9])
    return {
        "judged": now,
        "before": before,
        "psi": _psi(found.whole.scores, past),
        "bars": [
            {
                "from": place / len(shares),
                "to": (place + 1) / len(shares),
                "share": share,
                "usual": usual,
                "height": share / highest,
                "usual_height": usual / highest,
            }
            for place, (share, usual) in enumerate(shares)
        ],
    }


def _factors(found: MonitoredDay, yesterday: str) -> list[dict[str, Any]]:
    days = [merge(list(day.markets.values())) for day in found.before]
    last = next((one for one, day in zip(days, found.before, strict=True) if day.day == yesterday), None)
    past = merge(days)
    rows = []
    for code in FACTORS:
        series = [_ratio(one.factors.get(code, 0), one.events) for one in [*days, found.whole]]
        usual = _ratio(past.factors.get(code, 0), past.events)
        rows.append(
            {
                "code": code,
                "today": series[-1],
                "yesterday": _ratio(last.factors.get(code, 0), last.events) if last else None,
                "usual": usual,
                "series": series,
                "moved": abs((series[-1] or 0) - (usual or 0)) if usual is not None else series[-1] or 0,
            }
        )
    return sorted(rows, key=lambda row: (-row["moved"], row["code"]))


def _precision(found: MonitoredDay) -> list[dict[str, Any]]:
    alarms = {alarm.market: alarm for alarm in found.alarms}
    return [
        {
            "market": code or "all markets",
            "figures": one,
            "alarm": alarms.get(code),
            "strength": min(1.0, strength(alarms[code])) if code in alarms else None,
        }
        for code, one in found.precision.items()
        if one.flagged or one.reviewed or code in alarms
    ]


def _shadows(found: MonitoredDay) -> list[dict[str, Any]]:
    rows = []
    for name, shadow in sorted(found.today.shadow.items()):
        counts = matrix(shadow["pairs"])
        total = int(counts.sum())
        markets = sorted({key.rsplit("|", 2)[0] for key in shadow["pairs"]})
        by_market = [(code, matrix(shadow["pairs"], code)) for code in markets]
        rows.append(
            {
                "name": name,
                "versions": ", ".join(sorted(shadow["versions"])),
                "total": total,
                "agreement": _ratio(int(counts.trace()), total),
                "rows": [
                    {
                        "name": live,
                        "cells": [
                            {"count": int(count), "share": _ratio(int(count), int(row.sum())) or 0.0} for count in row
                        ],
                        "total": int(row.sum()),
                    }
                    for live, row in zip(VERDICTS, counts, strict=True)
                ],
                "markets": [
                    {"code": code, "total": int(own.sum()), "agreement": _ratio(int(own.trace()), int(own.sum()))}
                    for code, own in by_market
                ],
                "flips": shadow["flips"],
            }
        )
    return rows


def _ratio(count: float, total: float) -> float | None:
    return count / total if total else None
