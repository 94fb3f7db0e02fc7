"""Consistency as Markdown and as figures."""

from __future__ import annotations

from collections.abc import Mapping

from cancellation.consistency.run import ConsistencySettings, Invariance, Repeated
from cluster.statistics.bootstrap import Figure


def render(repeated: Repeated | None, invariance: Mapping[str, Invariance], settings: ConsistencySettings) -> str:
    """Write both tables, each with what it means."""
    lines = []
    if repeated is not None:
        lines += [f"| {settings.runs} answers to each event | mean over events, 95 % interval |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {_cell(figure)} |" for name, figure in repeated.figures.items()]
        lines += ["", f"{repeated.answers:,} answers, {repeated.failed:,} failed, ${repeated.usage.cost_usd:.4f}.", ""]
    if invariance:
        kinds = list(next(iter(invariance.values())).by_kind)
        lines.append(f"| {settings.perturbations} neutral variants | flip rate | {' | '.join(kinds)} |")
        lines.append("|" + "---|" * (len(kinds) + 2))
        for name, found in invariance.items():
            cells = [f"{_number(flips)} / {_number(change)}" for flips, change in found.by_kind.values()]
            lines.append(f"| {name} | {_cell(found.flip_rate)} | {' | '.join(cells)} |")
        lines += ["", "Of each kind: flip rate / largest change of the probability of induced."]
        missing = [f"{name} {found.unanswered:,}" for name, found in invariance.items() if found.unanswered]
        lines += [f"Without a usable answer, left out: {', '.join(missing)}."] if missing else []
    return "\n".join(lines) + "\n"


def figures(repeated: Repeated | None, invariance: Mapping[str, Invariance]) -> dict[str, float | None]:
    """Give the numbers under the names that they have in MLflow."""
    found: dict[str, float | None] = {}
    if repeated is not None:
        found |= {name: figure.value for name, figure in repeated.figures.items()}
        found |= {"cost_usd": repeated.usage.cost_usd, "failed": repeated.failed}
    for name, one in invariance.items():
        found |= {f"{name}.flip_rate": one.flip_rate.value, f"{name}.largest_change": one.largest_change}
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
