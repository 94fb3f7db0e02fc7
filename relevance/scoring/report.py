"""The report of a scoring run: `report.html` and `run.json` beside the scores, the same in MLflow, a last word on
the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.launch import NotFineError
from cluster.provenance import Provenance, collect_provenance, public_settings
from cluster.sharded.report import RUN, run_record, shown_url, track_report
from cluster.tracking import TrackedRun
from relevance.scoring.checks import Check, CheckSettings, check_day, verdict
from relevance.scoring.figures import ScoringFigures
from relevance.scoring.measures import (
    DayMeasures,
    PreviousDay,
    find_previous_day,
    label_drift,
    label_shares,
    measure_day,
)
from relevance.scoring.page import Page, render_page
from relevance.scoring.summary import print_summary

if TYPE_CHECKING:
    from relevance.scoring.day import ScoredDay
    from relevance.scoring.run import ScoringRun

REPORT = "report.html"


class ReportSettings(CheckSettings):
    """What the report reckons with, and from where on it calls a day conspicuous."""

    gpu_hour_price: float = Field(default=3.5, ge=0)
    """USD per GPU and hour. It counts only where actors reserve a GPU."""


class ScoringReport:
    """Reports one run, to the folder of its scores, to MLflow and to the terminal."""

    def __init__(self, run: ScoringRun, settings: ReportSettings, tracked: TrackedRun) -> None:
        self._run, self._settings, self._tracked = run, settings, tracked

    def files(self, figures: ScoringFigures, seconds: float) -> dict[str, bytes]:
        """Make the files that lie beside the scores, and send the same to MLflow.

        Args:
            figures: Sums over all shards of the day.
            seconds: Wall-clock time of this attempt.
        """
        day = {**figures.as_dict(), "seconds": seconds}
        previous = find_previous_day(self._run.output.url)
        files = report_files(self._run, day, previous, self._settings, collect_provenance())
        self._track(day, previous, files)
        return files

    def print_summary(self, day: ScoredDay) -> None:
        """Print what came out and where it is."""
        checks = _check(self._run, day.figures, find_previous_day(day.url), self._settings)
        if day.already_done:
            self._tracked.tags({"already_done": "true"})
        print_summary(
            day.url,
            day.figures,
            measures=_measure(self._run, day.figures, self._settings),
            checks=checks,
            tracked_at=self._tracked.where,
            already_done=day.already_done,
        )

    def require_fine(self, day: ScoredDay) -> None:
        """Stop at a day that should be looked at before it is used.

        Raises:
            NotFineError: If a check failed, with what each of them found.
        """
        checks = _check(self._run, day.figures, find_previous_day(day.url), self._settings)
        failed = [f"{one.name}: {one.found}, expected {one.expected}" for one in checks if one.passed is False]
        if failed:
            raise NotFineError(
                f"{day.url}: committed, but it does not look fine ({'; '.join(failed)}): {REPORT} there says where to "
                "look; if it is right as it is, run again with must_be_fine=false"
            )

    def _track(self, day: Mapping[str, Any], previous: PreviousDay | None, files: Mapping[str, bytes]) -> None:
        from relevance.scoring.plots import draw_day

        identity = _identity(self._run) | {"mlflow.runName": _title(self._run)}
        track_report(self._tracked, identity, _metrics(self._run, day, previous, self._settings), files)
        for name, figure in draw_day(day, previous).items():
            self._tracked.figure(f"plots/{name}.png", figure)


def report_files(
    run: ScoringRun,
    day: Mapping[str, Any],
    previous: PreviousDay | None,
    settings: ReportSettings,
    provenance: Provenance,
) -> dict[str, bytes]:
    """Write a day's figures (as `_SUCCESS` keeps them) as a page for people and as JSON for programs."""
    checks = _check(run, day, previous, settings)
    measures = _measure(run, day, settings)
    shown = {"scoring": public_settings(run.settings), "report": public_settings(settings)}
    page = Page(
        title=_title(run),
        identity=_identity(run)
        | {"commit": provenance.commit, "passed over": ", ".join(day.get("passed_over", ())) or None},
        figures=day,
        measures=measures,
        checks=checks,
        previous=previous,
        gpu_hour_price=settings.gpu_hour_price,
        settings=shown,
        versions=provenance.versions,
        hardware=provenance.hardware,
    )
    fine, sentence = verdict(checks)
    found = {
        **day,
        "measures": asdict(measures),
        "previous_day": previous.name if previous else None,
        "label_drift": label_drift(day, previous.figures) if previous else None,
        "fine": fine,
        "verdict": sentence,
        "checks": [asdict(check) for check in checks],
    }
    return {REPORT: render_page(page), RUN: run_record(_identity(run), shown, found, provenance)}


def _check(
    run: ScoringRun, day: Mapping[str, Any], previous: PreviousDay | None, settings: ReportSettings
) -> list[Check]:
    return check_day(day, previous, run.fingerprint, settings, label_mass=run.settings.label_mass)


def _measure(run: ScoringRun, day: Mapping[str, Any], settings: ReportSettings) -> DayMeasures:
    return measure_day(day, gpu_hour_price=settings.gpu_hour_price, gpus_per_actor=run.settings.gpus_per_actor)


def _title(run: ScoringRun) -> str:
    """The day where the output is a day's partition, else the folder."""
    name = run.output.url.rstrip("/").rpartition("/")[2]
    return name if "=" in name else shown_url(run.output.url)


def _identity(run: ScoringRun) -> dict[str, str | None]:
    """What was read and used, and where the scores went."""
    return {
        "model": run.model.version,
        "fingerprint": run.fingerprint,
        "prompt": run.prompt_version,
        "input": shown_url(run.input),
        "output": shown_url(run.output.url),
        "label_store": shown_url(run.store.url),
    }


def _metrics(
    run: ScoringRun, day: Mapping[str, Any], previous: PreviousDay | None, settings: ReportSettings
) -> dict[str, float | None]:
    measures = _measure(run, day, settings)
    drift = label_drift(day, previous.figures) if previous else None
    plain = ("prompt_tokens", "computed_tokens", "cached_fraction", "engine_seconds", "mean_label_mass", "seconds")
    return {
        **{f"rows.{name}": count for name, count in day["counts"].items()},
        **{f"share.{label}": share for label, share in label_shares(day).items()},
        **{f"agreement.{name}": value for name, value in day["agreement"].items()},
        **{name: day[name] for name in plain},
        **asdict(measures),
        "label_drift": drift,
    }
