"""The report of a round as one self-contained HTML page: no script, no font, no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Template

from cancellation.events.factors import VERDICTS
from cluster.pages.formats import format_share
from cluster.pages.templates import load_page

_REASONS = {
    "contradicted": "Labels that models doubt",
    "test": "Labels drawn by chance",
    "rejected": "Verdicts in service that people rejected",
}
_JUDGES = {
    "fusion": "verdict model (fusion)",
    "fusion_other_seed": "verdict model, another seed",
    "trees": "trees on the features",
    "llm": "language model",
}
_BESIDE = {
    "changed": "people changed the label",
    "kept": "people kept the label",
    "divided": "people are divided: open",
}
_SHOWN = {
    "against": "People against all models",
    "divided": "People are divided",
    "changed": "Changed, as models foresaw, the most doubtful first",
}


def render_correction(report: Mapping[str, Any]) -> bytes:
    """Render a report as UTF-8; the page holds counts, labels, ids and names of those who label, nobody's text."""
    gains, scale = _gains(report["gains"])
    made = report["made"]
    return (
        _template()
        .render(
            report=report,
            fine=all(gain["kind"] != "down" for gain in gains),
            sentence=_sentence(report, gains),
            num_changed=sum(report[why]["part"] for why in _REASONS),
            reasons=[(name, report[why]) for why, name in _REASONS.items() if report[why]["of"]],
            quarters=_quarters(report["contradicted_by_quarter"]),
            gains=gains,
            scale=scale,
            moves=[_moves(name, report["moves"][why]) for why, name in _REASONS.items() if report[why]["of"]],
            verdicts=VERDICTS,
            beside=[(name, _beside(kind, report["beside_models"][kind])) for kind, name in _BESIDE.items()],
            shown=[(name, report["cases"][kind]) for kind, name in _SHOWN.items()],
            identity={"round": report["round"], "commit": made["commit"], "job_run": made["job_run_id"]},
            settings=json.dumps(made["settings"], indent=2),
            versions=made["versions"],
            hardware=json.dumps(made["hardware"], indent=2),
        )
        .encode()
    )


@cache
def _template() -> Template:
    return load_page(
        "cancellation/relabelling/page.html",
        share=lambda value: "–" if value is None else format_share(value),
        words=lambda label: "none" if label is None else label.replace("_", " "),
    )


def _sentence(report: Mapping[str, Any], gains: Sequence[Mapping[str, Any]]) -> str:
    doubted, test = report["contradicted"], report["test"]
    said = []
    if doubted["of"]:
        share = format_share(doubted["share"])
        said.append(f"People changed {doubted['part']:,} of {doubted['of']:,} doubted labels ({share}).")
    if test["of"]:
        low, high = format_share(test["low"]), format_share(test["high"])
        said.append(f"Of all labels {low} to {high} are wrong.")
    if gains:
        said.append(f"Accuracy when taught anew: {'; '.join(map(_gained, gains))}.")
    return " ".join(said) or "Nothing is settled yet."


def _gained(gain: Mapping[str, Any]) -> str:
    chance = "" if gain["kind"] else ", may be chance"
    return f"{gain['name']} {100 * gain['change']['value']:+.1f} points{chance}"


def _gains(gains: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """Put changes of accuracy on one axis with 0 in its middle; give also how far it reaches."""
    ends = [abs(gain["change"][end]) for gain in gains for end in ("low", "high")]
    scale = max([0.01, *ends])
    return [
        {
            "name": _JUDGES.get(gain["kind"], gain["kind"]),
            "before": gain["before"]["value"],
            "after": gain["after"]["value"],
            "change": gain["change"],
            "kind": "up" if gain["change"]["low"] > 0 else "down" if gain["change"]["high"] < 0 else "",
            "bar": [0.5 + gain["change"][name] / (2 * scale) for name in ("low", "value", "high")],
        }
        for gain in gains
    ], scale


def _quarters(quarters: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    names = ("first quarter, the most doubtful", "second", "third", "last")
    return [(name, one) for name, one in zip(names, quarters, strict=True) if one["of"]]


def _moves(name: str, counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    rows = [
        {
            "name": before,
            "total": sum(row),
            "cells": [
                {"count": count, "share": count / max(1, sum(row)), "same": before == after}
                for after, count in zip(VERDICTS, row, strict=True)
            ],
        }
        for before, row in zip(VERDICTS, counts, strict=True)
    ]
    return {"name": name, "rows": rows}


def _beside(kind: str, counts: Mapping[str, int]) -> dict[str, int | None]:
    """Where people are divided there is nothing that models could say as they do."""
    settled = kind != "divided"
    return {
        "cases": counts["cases"],
        "with": counts["with"] if settled else None,
        "divided": counts["models_divided"],
        "against": counts["against"] if settled else None,
    }
