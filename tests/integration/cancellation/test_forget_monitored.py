"""Orders forgotten in what the monitor keeps, by the job: on disk and on S3, and broken off on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.events.event import Event
from cancellation.monitoring.drift import DriftSettings
from cancellation.monitoring.run import MonitorSettings
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.people import ROLES, PersonKey
from cancellation.serving.settings import ServingSettings
from cancellation.simulation.simulator import SimulationSettings, simulate
from cluster import storage
from cluster.tracking import TrackingSettings
from jobs.cancellation_forget import ForgetJob
from jobs.cancellation_forget import main as forget
from jobs.cancellation_monitor import MonitorJob, main
from tests.builders.monitored_days import DAY, MARKETS, decisions, feedback, ship, ship_feedback, with_events
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.usefixtures("local_ray")
EVENTS = 320
KEY = "k" * 40
_VOWELS = str.maketrans("aeiouAEIOU", "eiouaEIOUA")


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    column = DECISION_SCHEMA.field(name)
    return table.set_column(table.schema.get_field_index(name), column, values.cast(column.type))


def _judged(day: Any, key: PersonKey, change: Callable[[Event], Event]) -> pa.Table:
    """A day of decisions, each of an order of its own: o-<event id>."""
    found = simulate(SimulationSettings(num_events=EVENTS, markets=MARKETS), day.toordinal())
    table = with_events(decisions(day, EVENTS), [change(one.event) for one in found])
    for role in ROLES:
        names = [f"{role[0]}-{name}" for name in table["event_id"].to_pylist()]
        table = _set(table, f"{role}_digest", pa.array([key.digest(role, name) for name in names]))
    return table


def _slang(event: Event) -> Event:
    return replace(event, chat=tuple(replace(one, text=one.text.translate(_VOWELS)) for one in event.chat))


def _flipped(table: pa.Table) -> pa.Table:
    said = [
        {"name": "next", "score": 1 - row, "verdict": "not_induced", "action": "none"}
        for row in table["score"].to_pylist()
    ]
    return _set(table, "shadow", pa.array(said, DECISION_SCHEMA.field("shadow").type))


def _monitor(url: str, folder: Path) -> None:
    settings = DriftSettings(min_events=200, text_sample=EVENTS, min_texts=80)
    main(
        MonitorJob(
            archive=f"{url}/archive",
            day=DAY,
            output=f"{url}/monitoring",
            model=str(PROJECT / "cancellation" / "small_model"),
            cache_dir=str(folder / "cache"),
            monitor=MonitorSettings(drift=settings),
            tracking=TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db"),
        )
    )


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, local_ray: str) -> Path:
    """Two days, the second in words that nobody knows, with a shadow that disagrees and reviews; monitored."""
    folder = tmp_path_factory.mktemp("monitored")
    (folder / "person.key").write_text(KEY)
    (folder / "person.key").chmod(0o600)
    key = PersonKey.load(folder / "person.key")
    for day, change in ((DAY - timedelta(days=1), lambda event: event), (DAY, _slang)):
        table = _judged(day, key, change)
        ship(folder / "kept" / "archive", table, num_hours=1)
        ship_feedback(folder / "kept" / "archive", feedback(table, day, 20, precision=0.5))
    ship(folder / "kept" / "archive", _flipped(table), log="shadow", num_hours=1)
    _monitor(str(folder / "kept"), folder)
    return folder


@dataclass
class Place:
    """An archive and what the monitor made of it, and the events of orders that are to be forgotten."""

    url: str
    folder: Path
    theirs: set[str]

    @property
    def monitoring(self) -> str:
        return f"{self.url}/monitoring"

    def job(self) -> ForgetJob:
        people = self.folder / "people.txt"
        people.write_text("".join(f"order o-{name}\n" for name in sorted(self.theirs)))
        data, key = str(self.folder / "data"), str(self.folder / "person.key")
        serving = ServingSettings(data_dir=data, output=f"{self.url}/archive", person_key_file=key)
        return ForgetJob(people=str(people), monitoring=(self.monitoring,), serving=serving)

    def mentioning(self) -> list[str]:
        """Files below the monitor's output in which one of the events stands."""
        return [file.url for file in storage.list_files(self.monitoring) if self._mentions(file.url)]

    def _mentions(self, url: str) -> bool:
        content = storage.read_bytes(url)
        if url.endswith(".parquet"):
            return not self.theirs.isdisjoint(pq.read_table(pa.BufferReader(content))["event_id"].to_pylist())
        return any(name.encode() in content for name in self.theirs)

    def kept(self, name: str, day: Any = DAY) -> pa.Table:
        return pq.read_table(pa.BufferReader(storage.read_bytes(f"{self.monitoring}/days/{day}/{name}")))


def _place(monitored: Path, url: str, folder: Path) -> Place:
    shutil.copy(monitored / "person.key", folder / "person.key")
    storage.send_folder(monitored / "kept", url)
    days = monitored / "kept" / "monitoring" / "days" / str(DAY)
    counts, said = (json.loads((days / f"{name}.json").read_text())["content"] for name in ("decisions", "feedback"))
    report = json.loads((days.parents[1] / str(DAY) / "report.json").read_text())
    moved = report["texts"]["moves"][0]["event_ids"]
    theirs = {moved[0], counts["shadow"]["next"]["flips"][0]["event_id"], said["reviews"][0]["event_id"]}
    return Place(url, folder, theirs | {f"e-{DAY - timedelta(days=1):%m%d}-000000"})


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, monitored: Path, tmp_path: Path) -> Place:
    url = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "there")
    return _place(monitored, url, tmp_path)


def test_an_order_goes_from_kept_days_and_reports_and_nobody_else_does(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {url.rpartition("/")[2] for url in place.mentioning()}
    assert named == {
        "decisions.parquet", "texts.parquet", "decisions.json", "feedback.json", "report.json", "report.html"
    }  # fmt: skip
    tables = {name: place.kept(name) for name in ("decisions.parquet", "texts.parquet")}
    forget(place.job())
    found, left = capsys.readouterr().out.splitlines()
    assert ", 0 rows of monitored days, " not in found
    assert ", 0 rows of monitored days, " in left
    assert place.mentioning() == []
    for name, before in tables.items():
        after = place.kept(name)
        assert after.schema.equals(before.schema, check_metadata=True)
        rows = [row for row in before.to_pylist() if row["event_id"] not in place.theirs]
        assert after.to_pylist() == rows != before.to_pylist()
    forget(place.job())
    assert ", 0 rows of monitored days, " in capsys.readouterr().out.splitlines()[0]


def test_a_day_that_is_monitored_again_brings_nobody_back(place: Place) -> None:
    forget(place.job())
    _monitor(place.url, place.folder)
    assert place.mentioning() == []
    assert place.kept("decisions.parquet").num_rows == EVENTS - len(place.theirs) + 1


@pytest.mark.parametrize(
    "at",
    [
        "texts.parquet",
        *(
            pytest.param(at, marks=pytest.mark.slow)
            for at in ("days/2026-11-21/decisions.parquet", "feedback.json", "report.html")
        ),
    ],
)
def test_broken_off_anywhere_the_next_run_finishes_it(
    at: str, monitored: Path, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    place = _place(monitored, bucket, tmp_path)
    with s3_server.fail("PUT", at, status=403, times=1) as fault, pytest.raises(PermissionError):
        forget(place.job())
    assert fault.reached.is_set()
    assert place.mentioning()
    forget(place.job())
    assert place.mentioning() == []


def test_a_kept_file_that_cannot_be_searched_is_named(monitored: Path, tmp_path: Path) -> None:
    place = _place(monitored, str(tmp_path / "there"), tmp_path)
    cut = tmp_path / "there" / "monitoring" / "days" / str(DAY) / "texts.parquet"
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(RuntimeError, match=r"1 files of monitored days .*: remove the folder of .*texts\.parquet"):
        forget(place.job())
    cut.unlink()
    forget(place.job())
    assert place.mentioning() == []
