"""A committed day beside the one before it: what is read, compared and said, and the files that hold it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cluster import storage
from cluster.pages.formats import format_share
from cluster.provenance import collect_provenance
from cluster.settings import Settings
from cluster.sharded.report import run_record, shown_url, track_report
from cluster.statistics.drift import MIN_DAYS, share_shift
from cluster.tracking import TrackedRun
from relevance.labels import LABELS
from relevance.monitoring.compare import CompareSettings, Comparison, compare_days
from relevance.monitoring.series import DayFigures, read_series
from relevance.scoring.checks import CheckSettings, check_rows

REPORT, RECORD, TO_ANNOTATE = "report.html", "report.json", "to_annotate.parquet"


class MonitorSettings(Settings):
    """What a day is compared with, and from where on something is told."""

    history_days: int = Field(default=28, ge=1, le=92)
    """Earlier committed days whose figures are shown."""

    max_points: float = Field(default=0.02, gt=0, le=1)
    """Move of a label's share, as a fraction, from which on it is told, if days do not move so by themselves."""

    max_churn: float = Field(default=0.0, ge=0, le=1)
    """Share of pairs of both days that may have another label under one fingerprint: none, unless texts changed."""

    max_low_mass: float = Field(default=0.05, ge=0, le=1)
    """Share of rows with a label mass below 0.5 from which on it is told."""

    every_days: int = Field(default=1, ge=1)
    """Days from one scored day to the next; where more lie between two, those are told."""

    checks: CheckSettings = CheckSettings()
    compare: CompareSettings = CompareSettings()


@dataclass(frozen=True)
class MonitoredScores:
    """All that the page shows."""

    days: Sequence[DayFigures]
    """Oldest first, the day itself last."""
    comparison: Comparison
    findings: Sequence[str]
    seconds: float

    @property
    def today(self) -> DayFigures:
        """The day."""
        return self.days[-1]

    @property
    def yesterday(self) -> DayFigures | None:
        """The nearest committed day before it."""
        return self.days[-2] if len(self.days) > 1 else None


def monitor_scores(url: str, settings: MonitorSettings) -> MonitoredScores:
    """Compare a committed day with the one before.

    Raises:
        ValueError: If there is no such day.
    """
    started = time.monotonic()
    days = read_series(url, settings.history_days)
    before = days[-2] if len(days) > 1 else None
    num_rows = max(day.figures["counts"]["read"] for day in days[-2:])
    comparison = compare_days(days[-1].url, before.url if before else None, num_rows, settings.compare)
    findings = _findings(days, comparison, settings)
    return MonitoredScores(days, comparison, findings, time.monotonic() - started)


def _findings(days: Sequence[DayFigures], comparison: Comparison, settings: MonitorSettings) -> list[str]:
    today = days[-1]
    if len(days) == 1:
        return [
            *_row_findings(today, None, settings),
            "no committed day before this one: there is nothing to compare with",
        ]
    before = days[-2]
    found = [*_row_findings(today, before, settings), *_gap_findings(before.name, today.name, settings.every_days)]
    one_fingerprint = today.fingerprint == before.fingerprint
    if not one_fingerprint:
        found.append(f"other model or guidelines than on {before.name}: labels may differ for that alone")
    if one_fingerprint and comparison.churn is not None and comparison.churn > settings.max_churn:
        found.append(
            f"{format_share(comparison.churn)} of {comparison.kept:,} pairs of both days have another label under the "
            "same model: their texts changed, or scoring is not repeatable"
        )
    found += _share_findings(days, settings)
    low = today.values["label_mass.low"]
    if low is not None and low > settings.max_low_mass:
        found.append(
            f"{format_share(low)} of the rows have a label mass below 0.5: the model wants to say something else"
        )
    quality, quality_before = comparison.quality, comparison.quality_before
    if quality and quality_before and (quality[2] < quality_before[1] or quality[1] > quality_before[2]):
        found.append(
            f"exact among the first {settings.compare.first} of a query {format_share(quality[0])}, before "
            f"{format_share(quality_before[0])}"
        )
    return found


def _row_findings(today: DayFigures, before: DayFigures | None, settings: MonitorSettings) -> list[str]:
    """Say what the scoring job's own checks find amiss with the rows; of a day without any, that alone."""
    checks = check_rows(today.figures, before and before.as_previous, settings.checks)
    failed = [f"{one.name.lower()}: {one.found} (expected {one.expected})" for one in checks if one.passed is False]
    return failed if today.figures["counts"]["read"] else failed[:1]


def _gap_findings(before: str, today: str, every_days: int) -> list[str]:
    """Name the days between two partitions that are dates: nobody looked at them, or they have no row."""
    key = today.partition("=")[0]
    try:
        first, last = (date.fromisoformat(name.removeprefix(f"{key}=")) for name in (before, today))
    except ValueError:  # partitions of another kind
        return []
    missing = [first + timedelta(days=back) for back in range(every_days, (last - first).days, every_days)]
    if not missing:
        return []
    names = f"{missing[0]} to {missing[-1]}" if len(missing) > 2 else " and ".join(map(str, missing))
    many = "1 day has" if len(missing) == 1 else f"{len(missing)} days have"
    return [f"{many} no scores, or none with a row: {names}"]


def _share_findings(days: Sequence[DayFigures], settings: MonitorSettings) -> list[str]:
    found, labels = [], [day.figures["labels"] for day in days]
    for label in LABELS:
        before = [(counts.get(label, 0), sum(counts.values())) for counts in labels[:-1]]
        count, total = labels[-1].get(label, 0), sum(labels[-1].values())
        usual, p_value = share_shift(count, total, before)
        restless = len([size for _, size in before if size]) >= MIN_DAYS and p_value > 0.01 / len(LABELS)
        if total and usual == usual and abs(count / total - usual) >= settings.max_points and not restless:
            found.append(f"{label} {format_share(count / total)}, usually {format_share(usual)}")
    return found


def write_report(found: MonitoredScores, output: str, settings: Mapping[str, Any], run: TrackedRun) -> str:
    """Write page, figures and the pairs for people into the day's folder, the same to MLflow; give the page's place."""
    from relevance.monitoring.page import render_scores

    provenance = collect_provenance()
    identity = {
        "scores": shown_url(found.today.url),
        "compared_with": shown_url(found.yesterday.url) if found.yesterday else None,
        "fingerprint": found.today.fingerprint,
        "commit": provenance.commit,
    }
    comparison = found.comparison
    record = {
        "day": found.today.name,
        "fine": not found.findings,
        "findings": list(found.findings),
        "figures": metrics(found),
        "shares": comparison.shares,
        "moves": comparison.moves.tolist(),
        "fallen": [asdict(one) for one in comparison.fallen],
    }
    files = {
        REPORT: render_scores(found, settings=settings, identity=identity, provenance=provenance),
        RECORD: run_record(identity, settings, record, provenance),
        TO_ANNOTATE: _pairs_file(comparison.to_annotate),
    }
    for name, content in files.items():
        storage.write_bytes(storage.join_url(output, found.today.name, name), content)
    track_report(run, {**identity, "mlflow.runName": found.today.name}, metrics(found), files)
    return storage.join_url(output, found.today.name, REPORT)


def metrics(found: MonitoredScores) -> dict[str, float | None]:
    """Give a day's numbers under the names that they have in MLflow."""
    comparison = found.comparison
    quality = comparison.quality
    return {
        **found.today.values,
        "churn": comparison.churn if found.yesterday else None,
        "pairs.kept": float(comparison.kept),
        "pairs.came": float(comparison.came),
        "pairs.went": float(comparison.went),
        "queries": float(comparison.queries),
        "quality": quality[0] if quality else None,
        "quality.low": quality[1] if quality else None,
        "quality.high": quality[2] if quality else None,
        "seconds": found.seconds,
    }


def _pairs_file(pairs: Sequence[Mapping[str, Any]]) -> bytes:
    schema = pa.schema([(name, pa.string()) for name in ("query_id", "product_id", "label", "why")])
    sink = io.BytesIO()
    rows = [{name: str(row[name]) for name in schema.names} for row in pairs]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def print_scores(found: MonitoredScores, url: str, tracked_at: str) -> None:
    """Print what changed and where the page is."""
    compared = f"beside {found.yesterday.name}" if found.yesterday else "the first day"
    print(f"{found.today.name}, {compared}")
    for line in found.findings or ["nothing that such days do not do by themselves"]:
        print(f"  {line}")
    for one in found.comparison.fallen[:5]:
        query = json.dumps(one.query_id, ensure_ascii=False)
        print(f"  query {query}: exact {format_share(one.exact)}, before {format_share(one.exact_before)}")
    print(f"report   {storage.short_url(url)}, {found.seconds:.1f} s\nMLflow   {tracked_at}")
