"""Whether to train anew: a decision a day, with its reason, as JSON and as a line with the command."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field

from cancellation.monitoring.drift import FeatureDrift, MissingSignal
from cancellation.monitoring.feedback import FeedbackDay
from cancellation.monitoring.precision import PrecisionAlarm
from cluster import storage
from cluster.schedule.ray_jobs import RayJobs
from cluster.settings import Settings

SUBMITTED = "retraining.json"
_LEFT = re.compile(r"\b(ARCHIVE|MONITORING|DAY|LABELLED|PERSON_KEY)\b")


class TriggerSettings(Settings):
    """When to train anew, and how."""

    drift_days: int = Field(default=3, ge=1, le=28)
    """Days in a row on which a feature, or a direction of the texts, has drifted."""

    wrong_predictions: int = Field(default=1000, ge=1)
    """Verdicts of the model in service that people rejected, since it went into service."""

    relabel: str = (
        "python -m jobs.cancellation_relabel input=LABELLED round=var/relabel/DAY archive=ARCHIVE "
        "monitoring=MONITORING person_key_file=PERSON_KEY"
    )
    """What is printed before it: the round in which people look again at doubtful labels and at rejected verdicts.
    ARCHIVE and MONITORING become what the monitor itself reads and writes, DAY the day; LABELLED and PERSON_KEY, the
    endpoint's `person_key_file`, stay to be filled in."""

    command: str = (
        "python -m jobs.cancellation_train jobs/cancellation_train.further.toml output=var/models/cancellation_next "
        "training.events.events=LABELLED"
    )
    """What is printed when a trigger fires; LABELLED stands for the labelled events, the relabelled ones among them."""


class SubmitSettings(Settings):
    """Where a trigger that fires opens a round by itself, once for each model in service."""

    address: str
    """Ray's job API, such as http://127.0.0.1:8265, with RAY_AUTH_TOKEN."""

    train: bool = False
    """Submit the training as well, at once, on the labelled events as they are. Otherwise its command is printed, for
    when people have answered the round."""


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
    filled = {"DAY": day, **(places or {})}
    relabel = _LEFT.sub(lambda word: shlex.quote(filled[word[0]]) if word[0] in filled else word[0], settings.relabel)
    commands = (relabel, settings.command) if retrain else (None, None)
    return RetrainDecision(day, model_version, retrain, triggers, *commands)


def require_filled(settings: TriggerSettings, submit: SubmitSettings) -> None:
    """See to it that what would be submitted says all that it needs.

    Raises:
        ValueError: If a word of a command stands for something that only people know.
    """
    for name in ("relabel", *(["command"] if submit.train else [])):
        if left := {word for word in _LEFT.findall(getattr(settings, name)) if word in ("LABELLED", "PERSON_KEY")}:
            words = " and ".join(sorted(left))
            raise ValueError(
                f"monitor.triggers.{name}: expected a command that can be submitted, found {words} in it; write what "
                "it stands for, or leave submit out"
            )


def submit_retraining(
    decision: RetrainDecision, output: str, submit: SubmitSettings, *, token: str | None
) -> list[str]:
    """Open the round that a decision asks for, and where set begin the training; say so, a line each.

    Once for each model in service: a trigger stays on for days, and the day may be run again.

    Args:
        decision: The day's.
        output: The monitor's; what was submitted is noted there.
        submit: Where to.
        token: Of the cluster, where it asks for one.

    Raises:
        RuntimeError: If the cluster refuses, or does not answer.
    """
    if not (decision.retrain and decision.relabel and decision.command):
        return []
    note, known = storage.join_url(output, SUBMITTED), decision.model_version or "none"
    # By model: while one takes over from another, either may have most answers of a day.
    submitted = json.loads(storage.read_bytes(note)) if storage.exists(note) else {}
    if before := submitted.get(known):
        return [f"submitted on {before['day']}: {', '.join(before['jobs'])}; not again for this model"]
    jobs, lines = RayJobs(submit.address, token), list[str]()
    model = re.sub(r"[^A-Za-z0-9]+", "-", known).strip("-")
    wanted = {"relabel": decision.relabel, **({"train": decision.command} if submit.train else {})}
    place = hashlib.sha256(storage.absolute_url(output).encode()).hexdigest()[:8]  # two monitors may share a cluster
    names = [
        jobs.submit(f"{kind}-after-{model}-{place}", command, say=lines.append) for kind, command in wanted.items()
    ]
    submitted[known] = {"day": decision.day, "jobs": names}
    storage.write_bytes(note, json.dumps(submitted, indent=1).encode())
    return lines


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
