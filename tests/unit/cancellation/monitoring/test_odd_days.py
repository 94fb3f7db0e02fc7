"""Everything that can be odd about a day at once: each has its line on the page, and no figure counts it."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import timedelta
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cancellation.monitoring.days import Days
from cancellation.monitoring.page import render_day
from cancellation.monitoring.run import MonitoredDay, MonitorSettings, monitor_day
from cancellation.serving.records.compaction import compact
from cancellation.serving.records.shipped_log import day_start
from cluster.provenance import collect_provenance
from tests.builders.monitored_days import DAY, decisions, feedback, profile, ship, ship_feedback, ship_quiet_days
from tests.servers.s3 import S3Server


def _monitored(folder: Path, *, hours_later: float = 48) -> MonitoredDay:
    return monitor_day(
        str(folder / "archive"),
        str(folder / "out"),
        DAY,
        profile=profile(),
        profile_missing=None,
        settings=MonitorSettings(),
        now=day_start(DAY) + hours_later * 3600,
    )


def _page(found: MonitoredDay) -> str:
    names = dict.fromkeys(("archive", "model", "events", "commit"), "x")
    page = render_day(found, settings={}, identity=names, provenance=collect_provenance()).decode()
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def _cut(path: Path) -> int:
    rows = pq.read_table(path).num_rows
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return rows


@pytest.fixture
def odd(tmp_path: Path) -> MonitoredDay:
    archive = tmp_path / "archive"
    ship_quiet_days(archive, DAY, 8, 600)
    table = decisions(DAY, 600)
    lost = _cut(ship(archive, table)[5])
    ship(archive, decisions(DAY, 3, markets=("TW",), prefix="tw"))
    misplaced = archive / "decisions" / "market=BR" / f"day={DAY}" / "wrong-clock.parquet"
    pq.write_table(decisions(DAY + timedelta(days=2), 4, markets=("BR",), prefix="late"), misplaced)
    ship(archive, table.slice(0, 9), name="again", num_hours=1)
    said = [one for one in feedback(table, DAY, 30, precision=1.0) if one["market"] != "BR"]
    early = {**said[0], "received_at": day_start(DAY) + 1}
    ship_feedback(archive, [early, *said[1:6], said[1], {**said[7], "event_id": "nobody"}])
    ship_feedback(archive, said[8:10], name="cut")
    _cut(next((archive / "feedback").rglob("*cut.parquet")))
    found = _monitored(tmp_path)
    assert found.today.events == 600 - lost + 3
    assert len(found.feedback[-1].reviews) == 6
    return found


def test_each_has_its_line(odd: MonitoredDay) -> None:
    text = _page(odd)
    for line in (
        "decisions: 1 file cannot be read and not counted: decisions/market=BR",
        "decisions: 4 records have an instant outside of the folder's day: clocks that disagree, not counted",
        "records repeat one that was counted, not counted",
        "feedback: 1 record repeat",
        "feedback: 1 message about an event that is in none of the days' logs, not counted",
        "feedback: 1 message older than the decision that it is about: clocks that disagree; counted",
        "cannot be read and not counted: feedback/market=",
        "too few to compare",
    ):
        assert line in text


def test_a_day_without_traffic_and_one_on_its_way(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 8, 300)
    text = _page(_monitored(tmp_path))
    assert "no decision of that day is in the log" in text
    assert "0 decisions, nothing that such days do not do" not in text
    text = _page(_monitored(tmp_path, hours_later=12))
    assert "the day is still being shipped: all of it is there in 12.5 h; nothing is compared" in text


def _restless(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return features + rng.random(features.shape, np.float32)


def test_a_compacted_day_is_the_same_day(tmp_path: Path) -> None:
    """Its one file is so large that only the columns that count are read."""
    archive = tmp_path / "archive"
    files = ship(archive, decisions(DAY, 9000, markets=("BR",), change=_restless))
    before = _monitored(tmp_path).today
    compact(str(archive), before=DAY + timedelta(days=1))
    (whole,) = files[0].parent.iterdir()
    assert whole.stat().st_size > 2 * 2**20
    assert asdict(_monitored(tmp_path).today) == asdict(before)
    _cut(whole)
    found = _monitored(tmp_path)
    assert found.today.events == 0
    assert found.today.damage.files == [f"decisions/market=BR/day={DAY}/{whole.name}"]


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_compacted_day_hides_no_file_beside_it(tmp_path: Path, cut: bool) -> None:
    archive = tmp_path / "archive"
    first, *_ = ship(archive, decisions(DAY, 90, markets=("BR",)))
    content, rows = first.read_bytes(), pq.read_metadata(first).num_rows
    compact(str(archive), before=DAY + timedelta(days=1))
    (whole,) = first.parent.iterdir()
    first.write_bytes(content)
    harmed = bytearray(whole.read_bytes())
    footer = len(harmed) - 8 - int.from_bytes(harmed[-8:-4], "little")
    harmed[footer : footer + 64] = bytes(64)  # of which Arrow says OSError, as of a network
    whole.write_bytes(harmed[: len(harmed) // 2] if cut else harmed)
    found = _monitored(tmp_path).today
    assert found.events == rows
    assert found.damage.files == [f"decisions/market=BR/day={DAY}/{whole.name}"]


def test_days_before_it_that_are_not_in_the_log_are_told(tmp_path: Path) -> None:
    """A day that was lost whole has no monitor of its own that would tell."""
    for back in (5, 4, 3):
        ship(tmp_path / "archive", decisions(DAY - timedelta(days=back), 60))
    ship(tmp_path / "archive", decisions(DAY, 60))
    told = [one.text for one in _monitored(tmp_path).findings if "no decision of" in one.text]
    first, last = (DAY - timedelta(days=back) for back in (2, 1))
    assert told == [f"no decision of {first} to {last} is in the log, nor compared with this day"]
    ship(tmp_path / "archive", decisions(last, 60))
    assert not [one for one in _monitored(tmp_path).findings if "no decision of" in one.text]


def test_an_archive_that_may_not_be_read_is_named(bucket: str, s3_server: S3Server, tmp_path: Path) -> None:
    """Its listing is the first that is asked for: "Access Denied" alone named no place."""
    with (
        s3_server.fail("GET", "", status=403, times=9),
        pytest.raises(PermissionError, match=rf"{bucket}/archive/decisions: the storage refused .*: give, or renew"),
    ):
        Days(f"{bucket}/archive", str(tmp_path), None).complete(DAY, 1)
