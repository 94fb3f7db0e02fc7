"""A round, and what came of it, in lines for people and in numbers for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cancellation.relabelling.cases import FORGOTTEN

_WHY = {
    "contradicted": "labels that judges doubt",
    "test": "drawn by chance, the test of every model",
    "rejected": "verdicts in service that people rejected",
    "first": "first labels",
}


def round_lines(manifest: Mapping[str, Any], url: str) -> list[str]:
    """Say what was asked and where it is."""
    lines = ["already done: this round was made from the same labels and settings"] if manifest["already_done"] else []
    lines += [f"{count:>8,} {_WHY[why]}" for why, count in manifest["asked"].items()]
    return [
        *lines,
        *_forgotten(manifest, "cases"),
        f"round      {manifest['round']}, procedure {manifest['procedure']}",
        f"interface  {url}/label_studio/config.xml; tasks beside it, one file a person",
        f"procedure  {url}/procedure.html",
    ]


def correction_lines(report: Mapping[str, Any], url: str) -> list[str]:
    """Say how many labels changed, how well they were found, and what both models gain."""
    lines = ["already done: the same answers were settled before"] if report["already_done"] else []
    lines.append(f"{report['answered']:,} of {report['asked']:,} cases settled, {report['open']:,} open")
    for why in ("contradicted", "test", "rejected"):
        if report[why]["of"]:
            lines.append(f"{_shown(report[why])} changed of {_WHY[why]}")
    quarters = [one for one in report["contradicted_by_quarter"] if one["of"]]
    if quarters:
        lines.append("by quarter of their order: " + ", ".join(f"{one['share']:.0%}" for one in quarters))
    for gain in report["gains"]:
        before, after, change = gain["before"], gain["after"], gain["change"]
        lines.append(
            f"{gain['kind']:<18} accuracy on the corrected test {before['value']:.3f} -> {after['value']:.3f}, "
            f"{100 * change['value']:+.1f} points ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
        )
    lines += _forgotten(report, "labels")
    return [*lines, f"labels     {url}/labelled\nreport     {url}/report.json"]


def first_label_lines(report: Mapping[str, Any], url: str) -> list[str]:
    """Say what was labelled."""
    lines = ["already done: the same answers were read before"] if report["already_done"] else []
    counted = ", ".join(f"{count:,} {label}" for label, count in sorted(report["labels"].items()))
    lines += [counted, *_forgotten(report, "labels")]
    return [*lines, f"labels     {url}/labelled, a weighted sample: calibrate on it, or add the market"]


def figures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Give the numbers under the names that they have in MLflow."""
    found: dict[str, float | None] = {"answered": report["answered"], "open": report["open"]}
    for why in ("contradicted", "test", "rejected"):
        found[f"changed.{why}"] = report[why]["share"]
    for gain in report["gains"]:
        found |= {f"{gain['kind']}.{name}": gain[name]["value"] for name in ("before", "after", "change")}
        found |= {f"{gain['kind']}.change_{end}": gain["change"][end] for end in ("low", "high")}
    return found


def _forgotten(record: Mapping[str, Any], what: str) -> list[str]:
    """Say how many are not there any more; the other figures are as they were."""
    return (
        [f"{record[FORGOTTEN]:>8,} {what} removed since: of people who were forgotten"] if record.get(FORGOTTEN) else []
    )


def _shown(part: Mapping[str, Any]) -> str:
    return f"{part['part']:,} of {part['of']:,} ({part['share']:.1%}, {part['low']:.1%} to {part['high']:.1%})"
