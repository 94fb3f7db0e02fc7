"""One day from the archive to a decision: what was counted, what changed, what follows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from pydantic import Field

from cancellation.features.profile import PROFILE_FILE, FeatureProfile, load_profile
from cancellation.monitoring.counts import DayCounts, MarketCounts, merge
from cancellation.monitoring.days import Days
from cancellation.monitoring.drift import (
    TEXT,
    Comparison,
    DriftSettings,
    FeatureDrift,
    MissingSignal,
    feature_drift,
    missing_signals,
)
from cancellation.monitoring.feedback import FeedbackDay
from cancellation.monitoring.figures import Compliance, seller_compliance
from cancellation.monitoring.findings import (
    Finding,
    FindingSettings,
    compare_day,
    log_findings,
    missing_days,
    missing_hours,
)
from cancellation.monitoring.parts import Through, one_by_one
from cancellation.monitoring.precision import (
    Precision,
    PrecisionAlarm,
    PrecisionSettings,
    detect,
    induced_reviews,
    measure,
)
from cancellation.monitoring.texts import TextDays, TextModel, TextMove, compare_texts, text_findings, text_moves
from cancellation.monitoring.triggers import RetrainDecision, TriggerSettings, decide
from cancellation.serving.records.shipped_log import day_start
from cancellation.text.profile import load_text_profile
from cluster import storage
from cluster.models.files import fetch_model, resolve_model
from cluster.provenance import hide_credentials
from cluster.settings import Settings

_DAY_SECONDS = 86_400


class MonitorSettings(Settings):
    """What a day is compared with, and from where on something is told."""

    history_days: int = Field(default=28, ge=7, le=92)
    """Days before it that a day is compared with, and in which the decision that a feedback is about is looked for."""

    compliance_days: int = Field(default=14, ge=1, le=92)
    """So many days ago sellers were flagged of whom the report says how many have stopped."""

    shipping_minutes: float = Field(default=30.0, ge=0)
    """After the end of a day, until its last records are taken to be in the archive."""

    findings: FindingSettings = FindingSettings()
    drift: DriftSettings = DriftSettings()
    precision: PrecisionSettings = PrecisionSettings()
    triggers: TriggerSettings = TriggerSettings()


@dataclass(frozen=True)
class MonitoredDay:
    """All that is known of a day."""

    day: date
    today: DayCounts
    before: Sequence[DayCounts]
    """Earlier days that the archive knows, oldest first."""
    feedback: Sequence[FeedbackDay]
    """Of the same window, the day's own last."""
    profile: FeatureProfile | None
    profile_missing: str | None
    """Why there is no profile."""
    findings: Sequence[Finding]
    hours_missing: dict[str, list[int]]
    drift: Sequence[FeatureDrift]
    """Of features and of texts."""
    texts: Sequence[TextMove]
    """Of all markets, the furthest first."""
    texts_said: str
    """Which texts were compared, or why none."""
    signals: Sequence[MissingSignal]
    precision: dict[str, Precision]
    """By market, and of all under the empty name."""
    alarms: Sequence[PrecisionAlarm]
    promised_precision: float
    compliance: Compliance
    decision: RetrainDecision
    events_url: str
    seconds: float
    whole: MarketCounts = field(default_factory=MarketCounts)
    """All markets of the day."""


def monitor_day(
    archive: str,
    output: str,
    day: date,
    *,
    profile: FeatureProfile | None,
    profile_missing: str | None,
    settings: MonitorSettings,
    texts: TextModel | None = None,
    texts_missing: str = "no model to read them with was given",
    through: Through = one_by_one,
    now: float | None = None,
) -> MonitoredDay:
    """Count what is new in the archive, compare, decide. May be called again at any time.

    Args:
        archive: Where the endpoint ships (`serving.output`).
        output: Where days' counts are kept.
        day: In UTC.
        profile: Of the features in training; None: drift against training is not known.
        profile_missing: Why there is none.
        settings: Numbers.
        texts: What reads texts; None: their drift is not known.
        texts_missing: Why there is nothing to read them with.
        through: What reads parts of the archive: this process, or Ray Data (`cluster.sharded.pool.map_in_order`).
        now: Epoch seconds; None: the clock's.

    Raises:
        RuntimeError: If there is no archive, as before the endpoint has shipped anything.
    """
    started = time.monotonic()
    now = time.time() if now is None else now
    if not any(storage.exists(storage.join_url(archive, name)) for name in ("decisions", "feedback", "shadow")):
        raise RuntimeError(
            f"archive {archive}: expected decisions/ there, found none; run again when the endpoint has shipped some, "
            "or give what serving.output names"
        )
    days = Days(archive, output, profile, through=through)
    counts, feedback = days.complete(day, settings.history_days)
    today, before = counts[-1], counts[:-1]
    whole = merge(list(today.markets.values()))
    sampled = settings.drift.text_sample
    samples = TextDays(archive, output, texts, sampled, through=through) if texts else None
    drift = _recent_drift(counts, profile, samples, settings)
    sample = samples.sample(day, read=True) if samples else None
    moves = text_moves(drift[-1] if drift else [], sample, texts and texts.profile)
    signals = _signals(today, before, profile, settings)
    markets = ["", *sorted({review.market for one in feedback for review in induced_reviews(one)})]
    alarms = [detect(feedback, market, settings.precision) for market in markets]
    hours = missing_hours(today, before, settings.findings)
    version = max(whole.versions, key=lambda name: whole.versions[name]) if whole.versions else None
    decision = decide(
        str(day),
        version,
        drift=drift,
        signals=signals,
        feedback=list(days.all_feedback(day)),
        alarms=alarms,
        settings=settings.triggers,
        places={"ARCHIVE": hide_credentials(archive), "MONITORING": hide_credentials(output)},
    )
    unfinished = day_start(day) + _DAY_SECONDS + settings.shipping_minutes * 60 - now
    found = [
        *log_findings(today, feedback[-1], hours, hours_left=unfinished / 3600),
        *missing_days(today, before),
        *_alarm_findings(alarms, drift[-1] if drift else [], signals),
        *text_findings(drift[-1] if drift else [], moves),
        *(compare_day(today, before, settings.findings) if today.events and unfinished <= 0 else []),
    ]
    return MonitoredDay(
        day=day,
        today=today,
        before=before,
        feedback=feedback,
        profile=profile,
        profile_missing=profile_missing,
        findings=sorted(found, key=lambda one: one.severity != "alarm"),
        hours_missing=hours,
        drift=drift[-1] if drift else [],
        texts=moves,
        texts_said=f"not compared: {texts_missing}" if sample is None else sample.said,
        signals=signals,
        precision=_precision(today, whole, feedback[-1]),
        alarms=alarms,
        promised_precision=settings.precision.promised,
        compliance=seller_compliance(days.flagged_sellers, day, within=settings.compliance_days),
        decision=decision,
        events_url=days.events_url(day),
        seconds=time.monotonic() - started,
        whole=whole,
    )


def find_profile(model: str, *, cache_dir: str, registry_uri: str | None) -> tuple[FeatureProfile | None, str | None]:
    """Read the profile that training left with a model; or say why there is none.

    Raises:
        ValueError: If the model is not there, or its profile is of other features.
    """
    folder = fetch_model(resolve_model(model, registry_uri=registry_uri), cache_dir=cache_dir, weights=False)
    try:
        return load_profile(str(folder / PROFILE_FILE)), None
    except FileNotFoundError:
        return None, f"{model} has no {PROFILE_FILE}: it was trained before training wrote one; train it anew"


def find_text_model(
    model: str, *, cache_dir: str, registry_uri: str | None, sample: int
) -> tuple[TextModel | None, str]:
    """Find what reads a day's texts; or say why there is nothing to read them with, or to compare them with.

    Raises:
        ValueError: If the model is not there, or its profile is none.
    """
    if not sample:
        return None, "drift.text_sample is 0"
    folder = fetch_model(resolve_model(model, registry_uri=registry_uri), cache_dir=cache_dir, weights=False)
    try:
        profile = load_text_profile(str(folder / PROFILE_FILE))
    except FileNotFoundError:
        profile = None
    if profile is None:
        return None, (
            f"{model} has no profile of texts: it was trained before training wrote one; give it one by "
            "jobs.cancellation_train profile_of"
        )
    found = TextModel(folder, profile)
    if not found.model.embeds:
        return None, f"{model} gives no vectors of texts: it was exported before exports did; export it anew"
    return found, ""


def _recent_drift(
    counts: Sequence[DayCounts], profile: FeatureProfile | None, samples: TextDays | None, settings: MonitorSettings
) -> list[list[FeatureDrift]]:
    """Drift of the last days that follow each other, as many as a trigger asks for; the day's own last."""
    if profile is None:
        return []
    last, found = date.fromisoformat(counts[-1].day), []
    for back in range(min(settings.triggers.drift_days, len(counts))):
        one = counts[-1 - back]
        if (last - date.fromisoformat(one.day)).days != back:
            break
        earlier = counts[: len(counts) - 1 - back]
        texts = _compared_texts(one, earlier, samples, settings.drift) if samples else []
        found.append(feature_drift(_whole(one), [_whole(day) for day in earlier], profile, settings.drift, texts=texts))
    return found[::-1]


def _compared_texts(
    today: DayCounts, before: Sequence[DayCounts], samples: TextDays, settings: DriftSettings
) -> list[Comparison]:
    """Put a day's texts beside training's and, as far as they have been read, those of the days before."""
    kept = [samples.sample(date.fromisoformat(one.day), read=False) for one in before]
    own = samples.sample(date.fromisoformat(today.day), read=True)
    return compare_texts(own, [one for one in kept if one is not None], samples.profile, settings)


def _signals(
    today: DayCounts, before: Sequence[DayCounts], profile: FeatureProfile | None, settings: MonitorSettings
) -> list[MissingSignal]:
    if profile is None:
        return []
    past = {
        code: [day.markets[code] for day in before if code in day.markets]
        for code in sorted({code for day in before for code in day.markets})
    }
    return missing_signals(today.markets, past, profile, settings.drift)


def _precision(today: DayCounts, whole: MarketCounts, feedback: FeedbackDay) -> dict[str, Precision]:
    found = {"": measure(whole.expected["induced"], induced_reviews(feedback))}
    for code, market in sorted(today.markets.items()):
        found[code] = measure(market.expected["induced"], induced_reviews(feedback, code))
    return found


def _alarm_findings(
    alarms: Sequence[PrecisionAlarm], drift: Sequence[FeatureDrift], signals: Sequence[MissingSignal]
) -> list[Finding]:
    raised = [alarm for alarm in alarms if alarm.since is not None]
    found = []
    if raised:
        where = ", ".join(f"{alarm.market or 'all markets together'} since {alarm.since}" for alarm in raised)
        found.append(Finding("alarm", "precision", f"reviews say that precision is below what is promised: {where}"))
    found += [
        Finding(
            "notice" if one.returned else "alarm",
            "drift",
            f"{one.market or 'all markets'}: signal {one.feature} is {one.how} in {one.share:.0%} of the events, "
            f"before in {one.share_before:.0%}",
        )
        for one in signals
    ]
    features = [one for one in drift if one.group != TEXT]
    drifted = [one for one in features if one.drifted]
    if drifted:
        names = ", ".join(f"{one.name} (PSI {one.psi:.2f})" for one in drifted[:5])
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        text = f"{len(drifted)} of {len(features)} features differ from training: {names}{more}"
        found.append(Finding("alarm", "drift", text))
    return found


def _whole(day: DayCounts) -> MarketCounts:
    return merge(list(day.markets.values()))
