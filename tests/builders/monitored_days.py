"""Days of an endpoint's archive as they look in life, for tests of monitoring: parquet by market and day."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.contact_data.logged_event import Mode, redact_event
from cancellation.events.event import Event, event_mapping
from cancellation.events.factors import FACTORS
from cancellation.features.profile import FeatureProfile, fit_profile
from cancellation.features.vector import feature_digest, feature_table
from cancellation.serving.records.archive import TABLES
from cancellation.serving.records.decision_log import encode_record
from cancellation.serving.records.decision_record import DECISION_SCHEMA
from cancellation.serving.records.feedback import feedback_table
from cancellation.serving.records.log_shipping import ShipperSettings
from cancellation.serving.records.segments import OPEN, SEALED, SegmentWriter, encode_line, read_segment
from cancellation.serving.records.shipped_log import day_start
from cancellation.simulation.simulator import SimulationSettings, simulate

DAY = date(2026, 11, 22)
MARKETS = ("BR", "ID", "TH")
_PROJECT = Path(__file__).resolve().parents[2]
TEXT_WIDTH = 24
_SPREAD = np.linspace(3.0, 0.2, TEXT_WIDTH)
_MARKET_SPREAD = np.array([0.6, 1.0, 1.4])
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Features (n, 68) -> features as they became."""


@cache
def pool(num_events: int = 1500, seed: int = 3) -> np.ndarray:
    """Features of simulated events, (n, 68)."""
    return feature_table([one.event for one in simulate(SimulationSettings(num_events=num_events), seed)])


@cache
def profile() -> FeatureProfile:
    """What those looked like."""
    return fit_profile(pool())


def decisions(
    day: date,
    num_events: int,
    *,
    seed: int = 0,
    markets: Sequence[str] = MARKETS,
    induced: float = 0.3,
    fallback: float = 0.01,
    total_ms: float = 12.0,
    change: Change | None = None,
    pick: np.ndarray | None = None,
    prefix: str = "e",
) -> pa.Table:
    """Make a day's decisions, spread over its hours; scores are calibrated: a verdict is right as often as they say."""
    rng = np.random.default_rng([seed, day.toordinal()])
    features = pool()[rng.integers(0, len(pool()), num_events) if pick is None else pick]
    features = features.astype(np.float32) if change is None else change(features.astype(np.float32), rng)
    is_induced = rng.random(num_events) < induced
    score = np.where(is_induced, rng.beta(12, 1, num_events), rng.beta(1, 8, num_events)).astype(np.float32)
    source = np.where(rng.random(num_events) < fallback, "fallback", "model")
    model = source == "model"
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    instants = np.sort(rng.integers(0, 86_400_000_000, num_events)) + int(start.timestamp() * 1e6)
    total = rng.lognormal(np.log(total_ms), 0.4, num_events).astype(np.float32)
    codes = np.array(FACTORS)[rng.zipf(1.7, num_events) % len(FACTORS)]
    columns = {
        "event_id": pa.array([f"{prefix}-{day:%m%d}-{number:06d}" for number in range(num_events)]),
        "market": pa.array(np.array(markets)[rng.integers(0, len(markets), num_events)]),
        "received_at": pa.array(instants, pa.timestamp("us", tz="UTC")),
        "verdict": pa.array(np.where(score > 0.5, "induced", "not_induced")).dictionary_encode(),
        "score": pa.array(score),
        "action": pa.array(np.where((score > 0.95) & model, "penalty", "none")).dictionary_encode(),
        "model_version": pa.array(np.where(model, "small@1", "rules-1")).dictionary_encode(),
        "source": pa.array(source).dictionary_encode(),
        "decision_factors": pa.array([[{"code": code, "probability": 0.9, "evidence": None}] for code in codes]),
        "features": pa.ListArray.from_arrays(
            np.arange(0, 68 * num_events + 1, 68, dtype=np.int32), pa.array(features.ravel(), from_pandas=True)
        ),
        "feature_digest": pa.array([feature_digest()] * num_events),
        "state": pa.array(["live"] * num_events),
        "timings_ms": pa.StructArray.from_arrays(
            [pa.array(total * share) for share in (0.1, 0.2, 0.2, 0.5, 1.0)],
            ["parse", "encode", "queue", "model", "total"],
        ),
        "fallback_reason": pa.array(np.where(model, None, "late"), pa.string()),
    }
    arrays = [
        columns[column.name].cast(column.type) if column.name in columns else pa.nulls(num_events, column.type)
        for column in DECISION_SCHEMA
    ]
    return pa.table(arrays, schema=DECISION_SCHEMA)


def ship(
    archive: Path,
    table: pa.Table,
    *,
    log: str = "decisions",
    name: str = "0001",
    skip: Sequence[int] = (),
    num_hours: int = 24,
) -> list[Path]:
    """Write a log's records where the shipper does; hours in `skip` never arrive. Gives the files.

    With fewer than 24 hours to a file of its own there are fewer files: the monitor goes by the records' own instants.
    """
    written = []
    table = table.filter(~np.isin(pc.hour(table["received_at"]).to_numpy(), skip))
    hours = pc.strftime(table["received_at"], "%H" if num_hours == 24 else "00")
    days = pc.strftime(table["received_at"], "%Y-%m-%d")
    keys = pc.binary_join_element_wise(pc.fill_null(table["market"], "unknown"), days, hours, "/")
    for key in sorted(pc.unique(keys).to_pylist()):
        market, day, hour = key.split("/")
        path = archive / log / f"market={market}" / f"day={day}" / f"{hour}-{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pc.equal(keys, key)), path, compression="zstd")
        written.append(path)
    return written


def ship_quiet_days(archive: Path, day: date, num_days: int, num_events: int) -> None:
    """Write the days before one, all of the same kind."""
    for back in range(num_days, 0, -1):
        earlier = day - timedelta(days=back)
        ship(archive, decisions(earlier, num_events), num_hours=1)


def feedback(
    table: pa.Table, day: date, number: int, *, precision: float = 0.95, seed: int = 0, hour: int = 23
) -> list[dict[str, object]]:
    """Review induced verdicts of the model: messages as the endpoint records them, received on a day."""
    rng = np.random.default_rng([seed, day.toordinal(), number])
    rows = table.select(["event_id", "market", "verdict", "source"]).to_pylist()
    induced = [row for row in rows if row["verdict"] == "induced" and row["source"] == "model"][:number]
    first = datetime(day.year, day.month, day.day, hour, 59, tzinfo=UTC).timestamp()
    return [
        {
            "event_id": row["event_id"],
            "market": row["market"],
            "received_at": first + place / 100,
            "outcome": "confirmed" if rng.random() < precision else "rejected",
            "label": None,
            "reviewer": "ann",
            "verdict": "induced",
            "model_version": "small@1",
            "caller": "operations",
        }
        for place, row in enumerate(induced)
    ]


def ship_feedback(archive: Path, messages: Sequence[dict[str, object]], *, name: str = "0001") -> None:
    """Write messages where the shipper does."""
    ship(archive, feedback_table(messages), log="feedback", name=name)


class Calendar:
    """Days for an endpoint that has only the machine's clock: its records get other dates on their way to the shipper.

    The log on the endpoint's disk is read and left as it is. What is new in it is copied, with another instant of
    receipt and whatever was reckoned from that, into a folder that a shipping process of its own empties, as where
    `serving.output` is null.
    """

    def __init__(self, log: Path, folder: Path, archive: Path) -> None:
        self._log, self._folder, self._archive = log, folder, archive
        self._taken = dict.fromkeys(TABLES, 0)
        self._decided: dict[str, float] = {}

    def ship(self, day: date, *, skip: Sequence[int] = ()) -> dict[str, int]:
        """Ship what is new as of a day; give the number of records by log.

        Decisions are spread evenly over the day's hours (UTC), in their order, and over none of `skip`; all else
        follows in its last minutes. Of each log there are two segments, so that a day has files to be put together.
        """
        counts = {}
        for name in TABLES:
            records = self._new(name)
            instants = _instants(name, day, len(records), skip)
            if name == "decisions":
                self._decided |= {record["event_id"]: at for record, at in zip(records, instants, strict=True)}
            dated = [self._dated(record, at) for record, at in zip(records, instants, strict=True)]
            middle = len(dated) // 2
            for number, part in enumerate((dated[:middle], dated[middle:])):
                _write_segment(self._folder / name, f"{day}-{number}", part)
            counts[name] = len(records)
        command = [sys.executable, "-m", "cancellation.serving.records.archive", str(self._folder), str(self._archive)]
        command.append(ShipperSettings().model_dump_json())
        subprocess.run(command, cwd=_PROJECT, stdin=subprocess.DEVNULL, check=True, timeout=120)
        return counts

    def _new(self, name: str) -> list[dict[str, Any]]:
        paths = [path for path in (self._log / name).glob("*-*") if path.suffix in (OPEN, SEALED)]
        read = chain.from_iterable(read_segment(path).records for path in sorted(paths))
        records = list(read)[self._taken[name] :]
        self._taken[name] += len(records)
        return records

    def _dated(self, record: Mapping[str, Any], at: float) -> dict[str, Any]:
        dated = {**record, "received_at": at}
        if "decided_at" in record:
            dated["decided_at"] = self._decided[record["event_id"]]
        if "deadline" in record:
            dated["deadline"] = at + record["deadline"] - record["received_at"]
        return dated


def _instants(log: str, day: date, number: int, skip: Sequence[int]) -> list[float]:
    if log != "decisions":
        return [day_start(day) + 86_100 + place for place in range(number)]
    hours = [hour for hour in range(24) if hour not in skip]
    places = [len(hours) * (place + 0.5) / number for place in range(number)]
    return [day_start(day) + 3600 * (hours[int(place)] + place % 1) for place in places]


def _write_segment(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    segment = SegmentWriter(folder, name)
    for record in records:
        segment.append(encode_line(encode_record(record)))
    segment.seal()


def text_vectors(
    number: int, *, seed: int = 0, shares: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)
) -> tuple[np.ndarray, list[str]]:
    """Draw texts' vectors (n, TEXT_WIDTH) without a model, and the market of each.

    Each market has a mean and a spread of its own; entries differ less and less.
    """
    rng = np.random.default_rng([seed, number])
    rows = rng.choice(len(MARKETS), number, p=shares)
    means = np.random.default_rng(7).normal(0, 4, (len(MARKETS), TEXT_WIDTH))
    noise = rng.normal(0, 1, (number, TEXT_WIDTH)) * _SPREAD * _MARKET_SPREAD[rows, None]
    return means[rows] + noise, [MARKETS[row] for row in rows]


def with_events(table: pa.Table, events: Sequence[Event], *, mode: Mode = "redacted") -> pa.Table:
    """Put events into a day's decisions, row by row: their ids stay, market, features and what the log keeps change."""
    flat = pa.array(feature_table(events).astype(np.float32).ravel(), from_pandas=True)
    logged = [json.dumps(redact_event(event_mapping(event), mode), ensure_ascii=False) for event in events]
    columns = {
        "market": pa.array([event.market for event in events]),
        "features": pa.ListArray.from_arrays(np.arange(0, 68 * len(events) + 1, 68, dtype=np.int32), flat),
        "event": pa.array(logged),
    }
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values.cast(table.schema.field(place).type))
    return table
