"""Drift in simulated traffic that the shipped model judges: told within three days, and nothing told in quiet ones."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cancellation.decision.policy import Policy, load_policy
from cancellation.decision.verdicts import model_verdict
from cancellation.events.event import Event, event_mapping
from cancellation.features.profile import FeatureProfile, fit_profile
from cancellation.features.vector import feature_table
from cancellation.model.verdict_model import VerdictModel, load_verdict_model
from cancellation.monitoring.findings import Finding
from cancellation.monitoring.run import MonitorSettings, monitor_day
from cancellation.monitoring.texts import TextModel
from cancellation.serving.records.shipped_log import day_start
from cancellation.simulation.simulator import SimulationSettings, Split, simulate
from cancellation.text.profile import comparable_text, fit_text_profile
from tests.builders.monitored_days import DAY, decisions, ship, with_events
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

MARKETS = ("BR", "ID", "TH")
SHIPPED = PROJECT / "cancellation" / "small_model"
EVENTS = 700
"""A day."""
WARM_UP = 10
QUIET = 30


def judged_day(
    day: date, num_events: int, *, split: Split = "train", change: Callable[[Event], Event] = lambda event: event
) -> pa.Table:
    """Simulate a day's events, no other day has the same, and let the model that ships judge them by its policy."""
    events, rows = _judged(split, num_events, day.toordinal(), change)
    table = with_events(decisions(day, num_events, markets=MARKETS, fallback=0.0), events)
    columns = {
        **{name: pa.array([row[name] for row in rows]) for name in ("verdict", "score", "action")},
        "decision_factors": pa.array([row["decision_factors"] for row in rows]),
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values.cast(table.schema.field(place).type))
    return table


@cache
def _model() -> tuple[VerdictModel, Policy]:
    return load_verdict_model(SHIPPED), load_policy()


def _judged(
    split: Split, num_events: int, seed: int, change: Callable[[Event], Event]
) -> tuple[list[Event], list[dict[str, Any]]]:
    model, policy = _model()
    settings = SimulationSettings(num_events=num_events, split=split, markets=MARKETS)
    events = [change(one.event) for one in simulate(settings, seed)]
    encoded = [model.encoder.encode(event) for event in events]
    scores = model.score(encoded)
    return events, [
        model_verdict(event.event_id, event.market, logits, factors, policy=policy, model=model.identity)
        for event, logits, factors in zip(encoded, scores.logits, scores.factor_probabilities, strict=True)
    ]


@cache
def _training() -> list[Event]:
    settings = SimulationSettings(num_events=2500, markets=MARKETS)
    return [one.event for one in simulate(settings, 77)]


@pytest.fixture(scope="module")
def profile() -> FeatureProfile:
    """What features looked like in training, on events of their own."""
    return fit_profile(feature_table(_training()))


@cache
def _texts() -> TextModel:
    """The model that ships, with what texts looked like in the same events."""
    model, _ = _model()
    texts = [(event.market, comparable_text(event_mapping(event), model.encoder)) for event in _training()]
    markets, written = zip(*((market, text) for market, text in texts if text is not None), strict=True)
    return TextModel(SHIPPED, fit_text_profile(model.embed(written), markets))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty days of the same kind, each of other events."""
    folder = tmp_path_factory.mktemp("drift")
    for back in range(WARM_UP + QUIET, 0, -1):
        ship(folder / "archive", judged_day(DAY - timedelta(days=back), EVENTS), num_hours=1)
    return folder


def _alarms(folder: Path, day: date, profile: FeatureProfile) -> list[Finding]:
    found = monitor_day(
        str(folder / "archive"),
        str(folder / "out"),
        day,
        profile=profile,
        profile_missing=None,
        settings=MonitorSettings(),
        texts=_texts(),
        now=day_start(day) + 2 * 86_400,
    )
    return [one for one in found.findings if one.severity == "alarm"]


def test_nothing_is_told_in_thirty_quiet_days(folder: Path, profile: FeatureProfile) -> None:
    told = {back: _alarms(folder, DAY - timedelta(days=back), profile) for back in range(QUIET, 0, -1)}
    assert {back: [one.text for one in alarms] for back, alarms in told.items() if alarms} == {}


def _no_calls(event: Event) -> Event:
    return replace(event, calls=())


def _same(event: Event) -> Event:
    return event


def _slang(event: Event) -> Event:
    """A third of the vocabulary is said in words that nobody knows, as long as those before."""
    turned = str.maketrans("aeiouAEIOU", "eiouaEIOUA")

    def said(match: re.Match[str]) -> str:
        return match[0].translate(turned) if zlib.crc32(match[0].lower().encode()) % 3 == 0 else match[0]

    return replace(event, chat=tuple(replace(one, text=re.sub(r"\w+", said, one.text)) for one in event.chat))


@pytest.mark.parametrize(
    ("split", "change", "subjects"),
    [
        pytest.param("test_tactics", _same, {"verdicts", "factors", "drift"}, id="new tactics"),
        pytest.param("train", _slang, {"drift"}, id="new slang"),
        pytest.param("train", _no_calls, {"drift"}, id="dead call feed"),
    ],
)
def test_drift_is_told_within_three_days(
    folder: Path, profile: FeatureProfile, tmp_path: Path, split: Split, change: Callable[[Event], Event],
    subjects: set[str],
) -> None:  # fmt: skip
    shutil.copytree(folder / "archive", tmp_path / "archive")
    told: list[Finding] = []
    for number in range(3):
        day = DAY + timedelta(days=number)
        ship(tmp_path / "archive", judged_day(day, EVENTS, split=split, change=change), num_hours=1)
        told = _alarms(tmp_path, day, profile)
        print(f"day {number + 1}:", "; ".join(one.text for one in told) or "nothing")
        if told:
            break
    assert subjects & {one.subject for one in told}
