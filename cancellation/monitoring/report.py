"""A monitored day for people and for programs: report.html, report.json, retrain.json, MLflow, the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cancellation.monitoring.drift import TEXT
from cancellation.monitoring.figures import day_figures, market_figures
from cancellation.monitoring.page import render_day, verdict
from cancellation.monitoring.run import MonitoredDay
from cancellation.monitoring.texts import TextMove
from cluster import storage
from cluster.provenance import collect_provenance
from cluster.sharded.report import run_record, shown_url, track_report
from cluster.tracking import TrackedRun

REPORT, RECORD, RETRAIN = "report.html", "report.json", "retrain.json"


def write_report(found: MonitoredDay, output: str, settings: Mapping[str, Any], run: TrackedRun) -> str:
    """Write the three files of a day into its folder and the same to MLflow; give the page's location."""
    provenance = collect_provenance()
    identity = {
        "archive": shown_url(settings["archive"]),
        "model": settings["model"],
        "events": shown_url(found.events_url),
        "texts": shown_url(found.events_url.replace("decisions.parquet", "texts.parquet")),
        "commit": provenance.commit,
    }
    fine, sentence = verdict(found)
    record = {
        "day": str(found.day),
        "fine": fine,
        "verdict": sentence,
        "figures": {**day_figures(found.today), **market_figures(found.today)},
        "compared_with": [day.day for day in found.before],
        "findings": [asdict(one) for one in found.findings],
        "hours_missing": found.hours_missing,
        "drift": [asdict(one) for one in found.drift],
        "texts": {"said": found.texts_said, "moves": [_move(one) for one in found.texts]},
        "signals": [asdict(one) for one in found.signals],
        "appeals": found.feedback[-1].appeals,
        "precision": {code or "all": asdict(one) for code, one in found.precision.items()},
        "alarms": [asdict(one) for one in found.alarms],
        "seller_compliance": {"said": str(found.compliance), "share": found.compliance.share},
        "retrain": found.decision.as_dict(),
        "seconds": round(found.seconds, 2),
    }
    files = {
        REPORT: render_day(found, settings=settings, identity=identity, provenance=provenance),
        RECORD: run_record(identity, settings, record, provenance),
        RETRAIN: json.dumps(found.decision.as_dict(), indent=1).encode(),
    }
    for name, content in files.items():
        storage.write_bytes(storage.join_url(output, str(found.day), name), content)
    tags = {"day": str(found.day), "retrain": str(found.decision.retrain).lower()}
    named = {**identity, **tags, "mlflow.runName": f"day={found.day}"}
    track_report(run, named, metrics(found), files)
    return storage.join_url(output, str(found.day), REPORT)


def metrics(found: MonitoredDay) -> dict[str, float | None]:
    """Give a day's numbers under the names that they have in MLflow."""
    whole = found.precision[""]
    features = [one for one in found.drift if one.group != TEXT]
    return {
        **day_figures(found.today),
        **market_figures(found.today),
        "alarms": sum(one.severity == "alarm" for one in found.findings),
        "features_drifted": sum(one.drifted for one in features) if features else None,
        "psi.largest": max((one.psi for one in features), default=None),
        "text_directions_drifted": sum(one.drift.drifted for one in found.texts) if found.texts else None,
        "psi.largest_text": max((one.drift.psi for one in found.texts), default=None),
        "appeals": sum(found.feedback[-1].appeals.values()),
        "precision.measured": whole.measured,
        "precision.reviewed": whole.reviewed,
        "seller_compliance": found.compliance.share,
        "retrain": float(found.decision.retrain),
        "seconds": found.seconds,
    }


def _move(one: TextMove) -> dict[str, Any]:
    return {"name": one.drift.name, "market": one.market, "market_psi": one.market_psi, "event_ids": one.event_ids}


def print_day(found: MonitoredDay, url: str, tracked_at: str) -> None:
    """Print what changed, the decision and where the page is."""
    _, sentence = verdict(found)
    print(f"{found.day}: {sentence}")
    for one in found.findings:
        print(f"  {'!' if one.severity == 'alarm' else ' '} {one.text}")
    for trigger in found.decision.triggers:
        print(f"retrain  {'yes' if trigger.fired else 'no ':<4}{trigger.name.replace('_', ' ')}: {trigger.reason}")
    if found.decision.command:
        print(f"relabel  {found.decision.relabel}\nrun      {found.decision.command}")
    print(f"report   {storage.short_url(url)}, {found.seconds:.1f} s\nMLflow   {tracked_at}")
