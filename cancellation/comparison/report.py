"""The comparison as one Markdown table and one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from cancellation.comparison.figures import difference
from cancellation.comparison.run import RANKED_BY, ComparisonSettings, Result
from cancellation.events.markets import MARKETS

_SIMULATED = {"test_wordings": "held-out wordings", "test_tactics": "held-out tactics"}
FIGURES = (
    ("accuracy", "accuracy"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1"),
    ("auc", "AUC"),
    ("recall_at_precision_90", "recall at precision 0.90"),
    ("recall_at_precision_95", "recall at precision 0.95"),
    ("factor_f1", "factor F1"),
)
WITH_INTERVAL = ("accuracy", "recall_at_precision_95")
"""The others have one in MLflow and in the rows' files; a table of twenty-four would not be read."""

_COLORS = ("#2a6fdb", "#12946a", "#d98324", "#8b4fc4", "#c2415c")


def render_markdown(results: Sequence[Result], settings: ComparisonSettings) -> str:
    """Write the table: a line per approach and set, then accuracy by market, and what the figures mean."""
    titles = ["events", "approach", *(title for _, title in FIGURES), "p50 / p99 ms", "events/s", "$ a day"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for number, name in enumerate(common_sets(results)):
        best = {metric: best_value(results, name, metric) for metric, _ in FIGURES}
        for result in results:
            cells = [_cell(metric, result.sets[name].get(metric), best[metric]) for metric, _ in FIGURES]
            speed = " | | " if number else _speed(result)
            lines.append(f"| {set_title(name)} | {result.approach} | {' | '.join(cells)} | {speed} |")
    lines += ["", *_market_lines(results), "", *_legend(results, settings)]
    return "\n".join(lines) + "\n"


def _speed(result: Result) -> str:
    if result.speed is None:
        return "- | - | -"
    alone = f"{result.speed.p50_ms:.1f} / {result.speed.p99_ms:.1f}"
    if result.speed.answer_p50_ms is not None:
        alone += f" (whole answer {result.speed.answer_p50_ms:.0f}, {result.speed.tokens:.0f} tokens)"
    return f"{alone} | {result.speed.events_per_second:,.0f} | {result.speed.cost_per_day:.2g}"


def winner(results: Sequence[Result]) -> str:
    """Say which approach finds most of the first set at precision 0.95, and which others it is surely ahead of."""
    name = common_sets(results)[0]
    order = sorted(results, key=lambda result: -(result.sets[name][RANKED_BY]["value"] or 0.0))
    first = order[0]
    text = f"{first.approach} has the highest recall at precision 0.95 on {set_title(name)}"
    text += f": {_interval(first.sets[name][RANKED_BY])}"
    ahead, even = [], []
    for other in order[1:]:
        if not (first.resampled[name] and other.resampled[name]):
            continue
        low, high = difference(first.resampled[name], other.resampled[name])
        (ahead if low > 0 else even).append(f"{other.approach} [{low:+.3f}, {high:+.3f}]")
    parts = [f"surely ahead of {', '.join(ahead)}"] * bool(ahead)
    parts += [f"not surely ahead of {', '.join(even)}"] * bool(even)
    return "; ".join([text, *parts]) + " (difference on the same events, 95 %)" * bool(parts)


def draw_comparison(results: Sequence[Result]) -> Figure:
    """Draw recall at precision 0.95 and accuracy on the first five sets, with intervals."""
    names = common_sets(results)[: len(_COLORS)]
    panels = (("recall_at_precision_95", "recall at precision 0.95"), ("accuracy", "accuracy"))
    plot = Figure(figsize=(10, 1.5 + 0.42 * len(results)), dpi=120, layout="constrained")
    for axes, (metric, title) in zip(plot.subplots(1, 2, sharey=True), panels, strict=True):
        for shift, (name, color) in enumerate(zip(names, _COLORS, strict=False)):
            for place, result in enumerate(reversed(results)):
                figure = result.sets[name][metric]
                if figure["value"] is None:
                    continue
                height = place + 0.6 * (0.5 - (shift + 0.5) / len(names))
                if figure["low"] is not None:
                    axes.plot([figure["low"], figure["high"]], [height] * 2, color=color, alpha=0.35, linewidth=4)
                label = set_title(name) if place == 0 else None
                axes.plot(figure["value"], height, "o", color=color, markersize=5, label=label)
        axes.set_yticks(range(len(results)), [result.approach for result in reversed(results)])
        axes.set_xlabel(f"{title}, 95 % interval")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.5, len(results) - 0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    plot.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return plot


def common_sets(results: Sequence[Result]) -> list[str]:
    """Name the sets that every row was judged by, in their order."""
    return [name for name in results[0].sets if all(name in result.sets for result in results)]


def set_title(name: str) -> str:
    """Give a set's name as readers know it."""
    return _SIMULATED.get(name, name)


def best_value(results: Sequence[Result], name: str, metric: str) -> float | None:
    """Give the highest of a set's values; None where no row has one."""
    values = [result.sets[name][metric]["value"] for result in results]
    return max((value for value in values if value is not None), default=None)


def _cell(metric: str, figure: Mapping[str, float | None] | None, best: float | None) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    text = _interval(figure) if metric in WITH_INTERVAL else f"{figure['value']:.3f}"
    return f"**{text}**" if figure["value"] == best else text


def _interval(figure: Mapping[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def market_codes(results: Sequence[Result], name: str) -> list[str]:
    """Name the markets that a set has events of."""
    return [code for code in MARKETS if f"accuracy.{code}" in results[0].sets[name]]


def _market_lines(results: Sequence[Result]) -> list[str]:
    name = common_sets(results)[0]
    codes = market_codes(results, name)
    lines = [f"| accuracy / precision by market, {set_title(name)} | " + " | ".join(codes) + " |"]
    lines.append("|" + "---|" * (len(codes) + 1))
    for result in results:
        found = result.sets[name]
        cells = [f"{_short(found[f'accuracy.{code}'])} / {_short(found[f'precision.{code}'])}" for code in codes]
        lines.append(f"| {result.approach} | {' | '.join(cells)} |")
    return lines


def _short(figure: Mapping[str, float | None]) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.2f}"


def _of_language_models(results: Sequence[Result]) -> str:
    if not any(result.speed and result.speed.answer_p50_ms is not None for result in results):
        return ""
    return (
        " Language models: every event by the clock, from writing the prompt on; on cores at the same price for each "
        "thread, behind a server or on a GPU at what each answer costs there; a server's times hold its refusals and "
        "tries that broke off, not what the client waits for its own pace."
    )


def meaning(result: Result) -> str:
    """Say what an approach is, and what it left open."""
    unanswered = f"; {result.unanswered:,} events without a usable answer count as inconclusive"
    return result.meaning + (unanswered if result.unanswered else "")


def how_measured(results: Sequence[Result], settings: ComparisonSettings) -> str:
    """Say in a few sentences what the figures are of."""
    simulated = (
        f"{settings.num_events:,} simulated events a set, seeds {settings.seed} and {settings.seed + 1}, labels "
        "without noise. "
    )
    return (
        f"{simulated if settings.num_events else ''}Intervals: 95 %, bootstrap over events. Precision, recall, F1, AUC "
        "of `induced` against the rest. Speed: parsed event to verdict on one core, alone (clock) and in batches of 32 "
        f"(core time). Cost: {settings.price.events_per_day:,} events a day at {settings.price.core_hour:g} $ per core "
        f"and hour, cores busy {settings.price.utilization:.0%} of the time.{_of_language_models(results)}"
    )


def _legend(results: Sequence[Result], settings: ComparisonSettings) -> list[str]:
    return [
        *(f"- {result.approach}: {meaning(result)}" for result in results),
        "",
        how_measured(results, settings),
        "",
        f"{winner(results)}.",
    ]
