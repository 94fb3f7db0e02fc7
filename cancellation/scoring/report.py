"""What a scored backfill says of itself: a table for the terminal, run.json beside the verdicts, figures for MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cancellation.decision.actions import demo_line, why_no_penalty
from cancellation.decision.calibration_run import CalibratedModel, threshold_rows
from cancellation.events.factors import VERDICTS
from cancellation.scoring.run import ScoredBackfill, VerdictRun
from cancellation.scoring.shard_steps import ScoringCounts, VerdictQuality, verdict_quality
from cluster.provenance import collect_provenance, public_settings
from cluster.sharded.report import RUN, run_record, shown_url, track_report
from cluster.storage import short_url
from cluster.tracking import TrackedRun

ACTIONS = ("penalty", "investigate", "none")


class ScoringReport:
    """Writes and prints what came of a run."""

    def __init__(self, run: VerdictRun, tracked: TrackedRun) -> None:
        self._run, self._tracked = run, tracked

    def files(self, counts: ScoringCounts, seconds: float) -> dict[str, bytes]:
        """Make run.json and report.md, and send the figures to MLflow."""
        text = "\n".join(market_lines(self._run, counts) + quality_lines(counts) + _passed_over(counts))
        report = f"# Verdicts of {self._run.model_version}\n\n```\n{text}\n```\n".encode()
        identity = {
            "input": shown_url(self._run.input),
            "output": shown_url(self._run.output.url),
            "model": self._run.model_version,
            "policy": self._run.policy.stamp,
        }
        found = {"counts": counts.as_dict(), "seconds": round(seconds, 2)}
        record = run_record(identity, public_settings(self._run.settings), found, collect_provenance())
        files = {RUN: record, "report.md": report}
        track_report(self._tracked, identity, figures(counts, seconds), files)
        return files

    def print_summary(self, scored: ScoredBackfill) -> None:
        """Print the tables and where the verdicts are."""
        counts = scored.counts
        print("\n".join([*market_lines(self._run, counts), *quality_lines(counts), *_passed_over(counts)]))
        if scored.already_done:
            self._tracked.tags({"already_done": "true"})
            print("Already done under the same settings: nothing was written.")
        rate = f"{counts.read / scored.seconds:,.0f} events/s" if scored.seconds else ""
        print(
            f"{counts.read:,} read, {counts.scored:,} scored, {counts.failed:,} failed, {scored.seconds:.1f} s, {rate}"
        )
        for reason, count in counts.errors.most_common(5):
            print(f"  {count:,} x {reason}")
        print(f"verdicts  {short_url(scored.url)}\nMLflow    {self._tracked.where}")


def figures(counts: ScoringCounts, seconds: float) -> dict[str, float | None]:
    """Give a run's numbers under the names that they have in MLflow."""
    actions = _total(counts.markets)
    quality = overall_quality(counts)
    found: dict[str, float | None] = {
        "read": counts.read,
        "failed": counts.failed,
        "seconds": seconds,
        **{name: actions[name] for name in ACTIONS},
    }
    if quality.labelled:
        found |= {name: getattr(quality, name) for name in ("accuracy", "precision", "recall", "penalty_precision")}
        for market in counts.confusion:
            one = verdict_quality(counts.confusion[market], counts.penalties.get(market, {}))
            found[f"penalty_precision.{market}"] = one.penalty_precision
    return found


def overall_quality(counts: ScoringCounts) -> VerdictQuality:
    """Compare verdicts with labels over all markets."""
    return verdict_quality(_total(counts.confusion), _total(counts.penalties))


def market_lines(run: VerdictRun, counts: ScoringCounts) -> list[str]:
    """Verdicts and actions by market, as a table."""
    labelled = bool(counts.confusion)
    header = ["market", "state", "events", *VERDICTS, *ACTIONS] + (["accuracy", "penalties right"] if labelled else [])
    rows = [header]
    for market in sorted(counts.markets):
        found = counts.markets[market]
        row = [market, run.policy.market(market).state, f"{sum(found[name] for name in VERDICTS):,}"]
        row += [f"{found[name]:,}" for name in (*VERDICTS, *ACTIONS)]
        if labelled:
            quality = verdict_quality(counts.confusion.get(market, {}), counts.penalties.get(market, {}))
            row += [_percent(quality.accuracy), _percent(quality.penalty_precision)]
        rows.append(row)
    versions = f"model {run.model_version}, policy {run.policy.stamp}"
    return [versions, *_refused_penalties(run), "", *align(rows), ""]


def quality_lines(counts: ScoringCounts) -> list[str]:
    """Verdicts against labels, if there are labels."""
    quality = overall_quality(counts)
    if not quality.labelled:
        return []
    rows = [["label \\ verdict", *VERDICTS]]
    rows += [[label, *(f"{count:,}" for count in row)] for label, row in zip(VERDICTS, quality.matrix, strict=True)]
    line = (
        f"{quality.labelled:,} labelled: accuracy {_percent(quality.accuracy)}; induced: precision "
        f"{_percent(quality.precision)}, recall {_percent(quality.recall)}; {quality.penalties:,} penalties, "
        f"{_percent(quality.penalty_precision)} of them right"
    )
    return [*align(rows), "", line]


def _passed_over(counts: ScoringCounts) -> list[str]:
    return [f"passed over: {', '.join(counts.passed_over)}"] if counts.passed_over else []


def calibration_lines(calibrated: CalibratedModel) -> list[str]:
    """Say what a calibration on a scored backfill found, and market by market what its thresholds rest on."""
    found = calibrated.calibration
    lines = [f"temperature {found.temperature:.3f}, ECE {found.ece_before:.4f} -> {found.ece_after:.4f}"]
    lines += align(threshold_rows(calibrated))
    if calibrated.unknown_markets:
        names = ", ".join(calibrated.unknown_markets)
        lines.append(f"no entry in the policy: {names}; add state, classes and language")
    return lines


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Set a table in columns: the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _refused_penalties(run: VerdictRun) -> list[str]:
    """Say where nobody was punished for want of a proof, and that a demo's penalties are no real ones."""
    policy = run.policy
    reasons: dict[str, list[str]] = {}
    for code, market in sorted(policy.markets.items()):
        if market.state == "live" and (why := why_no_penalty(policy, code, run.identity)):
            reasons.setdefault(why, []).append(code)
    lines = [f"WARNING: no penalty in {', '.join(codes)}: {why}" for why, codes in reasons.items()]
    return [*filter(None, [demo_line(policy)]), *lines]


def _total(by_market: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for found in by_market.values():
        total.update(found)
    return total


def _percent(value: float | None) -> Any:
    return "-" if value is None else f"{100 * value:.1f}%"
