"""Texts through the monitoring job and the model that ships: slang are told, a quiet day is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

from cancellation.contact_data.logged_event import Mode
from cancellation.events.event import Event, event_mapping
from cancellation.features.profile import PROFILE_FILE, fit_profile, load_profile, save_profile
from cancellation.features.vector import feature_table
from cancellation.model.verdict_model import ONNX_FILE, TEXT_OUTPUT, load_verdict_model, read_identity
from cancellation.monitoring.drift import DriftSettings
from cancellation.monitoring.run import MonitorSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cancellation.text.profile import comparable_text, fit_text_profile, load_text_profile, save_text_profile
from cancellation.training.events import TrainingEventsSettings
from cancellation.training.run import TrainingSettings
from cluster.tracking import TrackingSettings
from jobs.cancellation_monitor import MonitorJob, main
from jobs.cancellation_train import TrainJob
from jobs.cancellation_train import main as train
from tests.builders.monitored_days import DAY, MARKETS, decisions, ship, with_events
from tests.conftest import PROJECT
from tests.measures.pages import assert_legible

pytestmark = pytest.mark.usefixtures("local_ray")
SHIPPED = PROJECT / "cancellation" / "small_model"
TRAINING, EVENTS, SAMPLE = 1000, 400, 330
_VOWELS = str.maketrans("aeiouAEIOU", "eiouaEIOUA")


def _events(number: int, seed: int, markets: tuple[str, ...] = MARKETS) -> list[Event]:
    return [one.event for one in simulate(SimulationSettings(num_events=number, markets=markets), seed)]


def _slang(event: Event) -> Event:
    """Words that nobody knows, as long as those before: no feature moves."""
    return replace(event, chat=tuple(replace(one, text=one.text.translate(_VOWELS)) for one in event.chat))


def _in_another_language(events: list[Event]) -> list[Event]:
    """Let people in BR write what people in VN wrote, each message about as long as the one before."""
    said = sorted(
        {one.text for event in _events(300, 99, ("VN",)) for one in event.chat}, key=lambda text: (len(text), text)
    )
    lengths = np.array([len(text) for text in said])

    def other(text: str) -> str:
        return said[min(int(np.searchsorted(lengths, len(text))), len(said) - 1)]

    return [
        replace(event, chat=tuple(replace(one, text=other(one.text)) for one in event.chat))
        if event.market == "BR" else event
        for event in events
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships, with a profile of this file's events."""
    folder = tmp_path_factory.mktemp("texts") / "model"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("trained"))
    events = _events(TRAINING, 77)
    save_profile(fit_profile(feature_table(events)), folder)
    read = load_verdict_model(folder)
    texts = [(event.market, comparable_text(event_mapping(event), read.encoder)) for event in events]
    written = [(market, text) for market, text in texts if text is not None]
    save_text_profile(
        fit_text_profile(read.embed([text for _, text in written]), [code for code, _ in written]), folder
    )
    return folder


def _job(folder: Path, model: Path, day: date) -> MonitorJob:
    # Days of a test are small: a market's own comparison is left to larger ones.
    settings = DriftSettings(min_events=250, text_sample=SAMPLE, min_texts=80)
    return MonitorJob(
        archive=str(folder / "archive"),
        day=day,
        output=str(folder / "out"),
        model=str(model),
        cache_dir=str(folder / "cache"),
        monitor=MonitorSettings(drift=settings),
        tracking=TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
    )


def _monitored(folder: Path, model: Path, day: date) -> dict:
    main(_job(folder, model, day))
    return json.loads((folder / "out" / str(day) / "report.json").read_text())


def _ship(folder: Path, day: date, events: list[Event], mode: Mode = "redacted") -> None:
    ship(folder / "archive", with_events(decisions(day, len(events)), events, mode=mode), num_hours=1)


def _drift(record: dict) -> list[str]:
    return [one["text"] for one in record["findings"] if one["subject"] == "drift"]


def test_a_quiet_day_tells_nothing_and_its_sample_is_kept(model: Path, tmp_path: Path) -> None:
    events = _events(EVENTS, 5)
    _ship(tmp_path, DAY, events)
    record = _monitored(tmp_path, model, DAY)
    assert _drift(record) == []
    assert len(record["texts"]["moves"]) == 9
    sample = tmp_path / "out" / "days" / str(DAY) / "texts.parquet"
    kept = pq.read_table(sample)
    assert 250 < kept.num_rows <= SAMPLE
    assert f"{kept.num_rows} texts in {SAMPLE} decisions of the day" in record["texts"]["said"]
    written = sample.stat().st_mtime_ns
    assert _monitored(tmp_path, model, DAY)["texts"] == record["texts"]
    assert sample.stat().st_mtime_ns == written, "a day that is run again is not read again"
    # The same decisions in one file a market, as compaction leaves them: the same sample.
    shutil.rmtree(tmp_path / "archive")
    ship(tmp_path / "archive", with_events(decisions(DAY, len(events)), events), name="day-1")
    assert _monitored(tmp_path, model, DAY)["texts"] == record["texts"]
    assert sample.stat().st_mtime_ns > written, "files that changed are read again"


@pytest.mark.parametrize(
    ("change", "furthest", "shown"),
    [
        pytest.param(
            lambda events: [_slang(event) for event in events],
            {"BR", "ID"},
            "directions moved; largest: text ",
            id="slang",
        ),
        pytest.param(
            _in_another_language, {"BR"}, "text distance from all directions in BR", id="another language in a market"
        ),
    ],
)
def test_what_people_write_is_told_while_features_are_quiet(
    model: Path,
    tmp_path: Path,
    browser: str,
    change: Callable[[list[Event]], list[Event]],
    furthest: set[str],
    shown: str,
) -> None:
    events = change(_events(EVENTS, 6))
    _ship(tmp_path, DAY, events)
    record = _monitored(tmp_path, model, DAY)
    (told,) = _drift(record)
    assert told.startswith("texts ")
    behind = record["texts"]["moves"][0]
    assert behind["market"] in furthest
    market_of = {f"e-{DAY:%m%d}-{number:06d}": event.market for number, event in enumerate(events)}
    assert {market_of[event_id] for event_id in behind["event_ids"]} == {behind["market"]}
    page = (tmp_path / "out" / str(DAY) / "report.html").read_bytes()
    for frame in assert_legible(browser, page, tmp_path):
        assert "Texts against training" in frame["text"]
        assert shown in frame["text"]


def test_a_log_of_references_says_so(model: Path, tmp_path: Path) -> None:
    _ship(tmp_path, DAY, _events(EVENTS, 5), mode="reference")
    record = _monitored(tmp_path, model, DAY)
    assert record["texts"] == {"said": "not compared: the log holds texts by reference only", "moves": []}
    assert _drift(record) == []
    assert (
        b"Not compared: the log holds texts by reference only."
        in (tmp_path / "out" / str(DAY) / "report.html").read_bytes()
    )


def test_a_model_exported_before_scores_and_monitors_without_texts(model: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(model, old)
    network = onnx.load(str(old / ONNX_FILE))
    (text,) = (one for one in network.graph.output if one.name == TEXT_OUTPUT)
    network.graph.output.remove(text)
    onnx.save(network, str(old / ONNX_FILE))
    scoring, before = load_verdict_model(model), load_verdict_model(old)
    encoded = [scoring.encoder.encode(event) for event in _events(8, 3)]
    assert before.score(encoded).logits.tobytes() == scoring.score(encoded).logits.tobytes()
    with pytest.raises(ValueError, match="expected an output text, found none; export it anew"):
        before.embed([encoded[0].token_ids])
    _ship(tmp_path, DAY, _events(EVENTS, 5))
    assert "gives no vectors of texts: it was exported before" in _monitored(tmp_path, old, DAY)["texts"]["said"]
    (old / PROFILE_FILE).unlink()
    save_profile(fit_profile(feature_table(_events(100, 77))), old)
    _ship(tmp_path, DAY + timedelta(days=1), _events(EVENTS, 5))
    said = _monitored(tmp_path, old, DAY + timedelta(days=1))["texts"]["said"]
    assert "has no profile of texts: it was trained before training wrote one; give it one by" in said


def test_a_model_of_before_gets_a_profile_of_texts_without_training(model: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(model, old)
    save_profile(load_profile(str(old / PROFILE_FILE)), old)  # the features' part alone, as training wrote it once
    features = (old / PROFILE_FILE).read_bytes()
    assert load_text_profile(str(old / PROFILE_FILE)) is None
    events = TrainingEventsSettings(simulation=SimulationSettings(num_events=TRAINING, markets=MARKETS), seed=3)
    job = TrainJob(profile_of=str(old), output=str(new), training=TrainingSettings(events=events))
    train(job)
    profile = load_text_profile(str(new / PROFILE_FILE))
    assert profile is not None
    assert profile.markets == MARKETS
    assert features.removesuffix(b"\n}\n") in (new / PROFILE_FILE).read_bytes()
    assert (old / PROFILE_FILE).read_bytes() == features
    assert read_identity(new) == read_identity(old)
    _ship(tmp_path, DAY, _events(EVENTS, 5))
    assert "texts in 330 decisions of the day" in _monitored(tmp_path, new, DAY)["texts"]["said"]
    few = events.model_copy(update={"simulation": SimulationSettings(num_events=40)})
    with pytest.raises(ValueError, match=r"training\.events: 50 texts of a market are expected"):
        train(job.model_copy(update={"training": TrainingSettings(events=few)}))
