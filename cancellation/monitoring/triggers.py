"""Whether to train anew: a decision a day, with its reason, as JSON and as a line with the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from cancellation.monitoring.drift import FeatureDrift, MissingSignal
from cancellation.monitoring.feedback import FeedbackDay
from cancellation.monitoring.precision import PrecisionAlarm
from cluster.settings import Settings


class TriggerSettings(Settings):
    """When to train anew, and how."""

    drift_days: int = Field(default=3, ge=1, le=28)
    """Days in a row on which a feature, or a direction of the texts, has drifted."""

    wrong_predictions: int = Field(default=1000, ge=1)
    """Verdicts of the model in service that people rejected, since it went into service."""

    relabel: str = (
        "python -m jobs.cancellation_relabel input=LABELLED round=var/relabel/next archive=ARCHIVE "
        "monitoring=MONITORING person_key_file=PERSON_KEY"
    )
    """What is printed before it: the round in which people look again at doubtful labels and at rejected verdicts.
    ARCHIVE and MONITORING become what the monitor itself reads and writes; LABELLED and PERSON_KEY, the endpoint's
    `person_key_file`, stay to be filled in."""

    command: str = (
        "python -m jobs.cancellation_train jobs/cancellation_train.further.toml output=var/models/cancellation_next "
        "training.events.events=LABELLED"
    )
    """What is printed when a trigger fires; LABELLED stands for the labelled events, the relabelled ones among them."""


@dataclass(frozen=True)
class Trigger:
    """One rule and what came of it."""

    name: str
    """drift, wrong_predictions, precision or signals."""
    fired: bool
    reason: str


@dataclass(frozen=True)
class RetrainDecision:
    """The day's decision."""

    day: str
    model_version: str | None
    """The one in service: most answers of the day; None: none of a model."""
    retrain: bool
    triggers: tuple[Trigger, ...]
    relabel: str | None
    command: str | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def decide(
    day: str,
    model_version: str | None,
    *,
    drift: Sequence[Sequence[FeatureDrift]],
    signals: Sequence[MissingSignal],
    feedback: Sequence[FeedbackDay],
    alarms: Sequence[PrecisionAlarm],
    settings: TriggerSettings,
    places: Mapping[str, str] | None = None,
) -> RetrainDecision:
    """Apply every rule; one that fires is enough.

    Args:
        day: The day.
        model_version: In service.
        drift: Of the last `drift_days` days, oldest first, the day itself last; an empty one says nothing.
        signals: Missing ones, and ones that are there again.
        feedback: Of all days that are known.
        alarms: Of all detectors.
        settings: The rules' numbers.
        places: What takes the place of which word in the command of the round.
    """
    triggers = (
        _drift(drift, settings),
        _wrong(feedback, model_version, settings),
        _precision(alarms),
        _signals(signals),
    )
    retrain = any(trigger.fired for trigger in triggers)
    relabel = settings.relabel
    for word, place in (places or {}).items():
        relabel = relabel.replace(word, shlex.quote(place))
    commands = (relabel, settings.command) if retrain else (None, None)
    return RetrainDecision(day, model_version, retrain, triggers, *commands)


def _drift(drift: Sequence[Sequence[FeatureDrift]], settings: TriggerSettings) -> Trigger:
    drifted = [{one.name for one in day if one.drifted} for day in drift]
    if len(drifted) < settings.drift_days:
        return Trigger(
            "drift", False, f"only {len(drifted)} of {settings.drift_days} days can be compared with training"
        )
    lasting = sorted(set.intersection(*drifted[-settings.drift_days :]))
    if not lasting:
        return Trigger(
            "drift", False, f"neither a feature nor the texts have drifted on {settings.drift_days} days in a row"
        )
    return Trigger("drift", True, f"drifted for {settings.drift_days} days: {_some(lasting)}")


def _wrong(feedback: Sequence[FeedbackDay], model_version: str | None, settings: TriggerSettings) -> Trigger:
    wrong = sum(
        not review.right
        for day in feedback
        for review in day.reviews
        if review.source == "model" and review.model_version == model_version
    )
    limit = settings.wrong_predictions
    reason = f"{wrong:,} of {limit:,} confirmed wrong predictions of {model_version or 'no model'}"
    return Trigger("wrong_predictions", wrong >= limit, reason)


def _precision(alarms: Sequence[PrecisionAlarm]) -> Trigger:
    raised = [alarm for alarm in alarms if alarm.since is not None]
    if not raised:
        return Trigger("precision", False, "no precision alarm")
    where = _some([f"{alarm.market or 'all markets'} since {alarm.since}" for alarm in raised])
    return Trigger("precision", True, f"precision alarm: {where}")


def _signals(signals: Sequence[MissingSignal]) -> Trigger:
    if not signals:
        return Trigger("signals", False, "no signal went missing, none came back")
    named = [
        f"{one.feature} {one.how} in {one.market or 'all markets'} ({one.share:.0%}, before {one.share_before:.0%})"
        for one in signals
    ]
    return Trigger("signals", True, _some(named))


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
