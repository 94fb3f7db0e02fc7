"""Counting an archive's days: what is there once, what came late too, and nothing that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cancellation.features.vector import FEATURES
from cancellation.monitoring.counts import merge, quantile_ms
from cancellation.monitoring.days import Days
from cancellation.monitoring.figures import day_figures
from cancellation.monitoring.parts import one_by_one
from cancellation.monitoring.run import MonitoredDay, MonitorSettings, monitor_day
from cancellation.serving.records.compaction import compact
from cancellation.serving.records.decision_record import decision_table
from cancellation.serving.records.shipped_log import day_start
from tests.builders.decision_records import decision_record
from tests.builders.monitored_days import (
    DAY,
    decisions,
    feedback,
    pool,
    profile,
    ship,
    ship_feedback,
    ship_quiet_days,
)
from tests.servers.s3 import S3Server

LATER = day_start(DAY) + 2 * 86_400


def monitored(folder: Path, day: date = DAY, **changes: object) -> MonitoredDay:
    given = {"profile": profile(), "profile_missing": None, "settings": MonitorSettings(), "now": LATER, **changes}
    return monitor_day(str(folder / "archive"), str(folder / "out"), day, **given)


def texts(found: MonitoredDay) -> str:
    return "\n".join(one.text for one in found.findings)


def test_every_decision_is_counted_once(tmp_path: Path) -> None:
    table = decisions(DAY, 700)
    ship(tmp_path / "archive", table)
    found = monitored(tmp_path)
    assert found.today.events == 700
    assert sum(found.whole.verdicts.values()) == sum(found.whole.sources.values()) == 700
    assert found.whole.verdicts["induced"] == table["verdict"].to_pylist().count("induced")
    assert sum(found.whole.scores) == found.whole.sources["model"] == table["source"].to_pylist().count("model")
    assert sum(found.whole.features[0]) == 700
    totals = [row["total"] for row in table["timings_ms"].to_pylist()]
    assert quantile_ms(found.today.stages["total"], 0.5) == pytest.approx(sorted(totals)[350], rel=0.1)
    slim = pq.read_table(found.events_url)
    assert sorted(slim["event_id"].to_pylist()) == sorted(table["event_id"].to_pylist())


def test_a_day_that_is_run_again_is_not_counted_again_and_late_hours_are(tmp_path: Path) -> None:
    table = decisions(DAY, 400)
    ship(tmp_path / "archive", table, skip=(22, 23))
    first = monitored(tmp_path)
    kept = tmp_path / "out" / "days" / str(DAY) / "decisions.json"
    before = kept.stat().st_mtime_ns
    again = monitored(tmp_path)
    assert again.today == first.today
    assert kept.stat().st_mtime_ns == before, "what has not changed is not read again"
    ship(tmp_path / "archive", table, name="0001")
    assert first.today.events < monitored(tmp_path).today.events == 400


@pytest.mark.parametrize("broken_off", [False, True])
def test_a_day_that_is_put_together_while_it_is_read_is_counted_once(tmp_path: Path, broken_off: bool) -> None:
    archive, old = tmp_path / "archive", tmp_path / "old"
    table = decisions(DAY, 400)
    ship(archive, table)
    for number, message in enumerate(feedback(table, DAY, 2)):
        ship_feedback(archive, [message], name=f"{number:04d}")
    shutil.copytree(archive, old)
    runs = []

    def put_together_first(units: Sequence[Any], step: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        if not runs:
            compact(str(archive), before=DAY + timedelta(days=1))
        if broken_off and not runs:
            shutil.copytree(old, archive, dirs_exist_ok=True)
            min((archive / "decisions").rglob("*.parquet")).unlink()
        runs.append(len(units))
        return one_by_one(units, step, *arguments)

    found = monitored(tmp_path, through=put_together_first)
    assert len(runs) > 1, "it met a file that had gone"
    assert (found.today.events, found.today.damage.repeated) == (400, 0)
    assert (found.feedback[-1].messages, found.feedback[-1].damage.repeated) == (2, 0)
    assert monitored(tmp_path).today.events == 400


def test_a_file_cut_in_half_is_named_and_not_half_counted(tmp_path: Path) -> None:
    table = decisions(DAY, 400)
    cut = ship(tmp_path / "archive", table)[3]
    lost = pq.read_table(cut).num_rows
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found = monitored(tmp_path)
    assert found.today.events == 400 - lost
    assert f"1 file cannot be read and not counted: decisions/market=BR/day={DAY}/{cut.name}" in texts(found)


def test_repeats_wrong_clocks_and_records_that_did_not_fit_are_named(tmp_path: Path) -> None:
    table = decisions(DAY, 200, markets=("BR",))
    ship(tmp_path / "archive", table, num_hours=1)
    folder = tmp_path / "archive" / "decisions" / "market=BR" / f"day={DAY}"
    misplaced = decisions(DAY + timedelta(days=3), 4)
    unread = decision_table([{"event_id": "x", "market": "BR", "verdict": {"score": "no number"}}])
    pq.write_table(
        pa.concat_tables([table.slice(0, 7), misplaced, unread]).unify_dictionaries(), folder / "0002.parquet"
    )
    found = monitored(tmp_path)
    assert found.today.events == 200
    damage = found.today.damage
    assert (damage.repeated, damage.misplaced, damage.unread) == (7, 4, 1)
    assert "7 records repeat one that was counted" in texts(found)


def test_a_log_of_the_endpoint_itself_is_read(tmp_path: Path) -> None:
    """Records as the gateway writes them, and columns that an older log lacks."""
    noon = day_start(DAY) + 43_200
    table = decision_table([decision_record(number, received_at=noon) for number in range(5)])
    ship(tmp_path / "archive", table.drop_columns(["unread", "fallback_reason"]))
    found = monitored(tmp_path)
    assert found.today.events == 5
    assert found.whole.factors == {"chat.out_of_stock": 5}
    assert found.today.other_features == 5
    assert found.drift == []


def test_a_day_without_traffic(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 8, 120)
    found = monitored(tmp_path)
    assert found.today.events == 0
    assert "no decision of that day is in the log" in texts(found)
    assert not found.decision.retrain
    assert found.decision.model_version is None


def test_no_archive_is_no_quiet_day(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"archive .*: expected decisions/ there, found none; run again when .* serving.output"
    ):
        monitored(tmp_path)


def test_a_day_that_is_still_being_shipped_is_compared_with_nothing(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 8, 600)
    ship(tmp_path / "archive", decisions(DAY, 600), skip=range(8, 24))
    found = monitored(tmp_path, now=day_start(DAY) + 8 * 3600)
    assert [one.subject for one in found.findings] == ["log"]
    assert "still being shipped: all of it is there in 16.5 h" in texts(found)


def test_hours_without_a_record_are_named(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 8, 1200)
    ship(tmp_path / "archive", decisions(DAY, 1200), skip=(3, 4, 17))
    found = monitored(tmp_path)
    assert found.hours_missing == {code: [3, 4, 17] for code in ("BR", "ID", "TH")}
    assert "BR, ID, TH: nothing from 03:00 to 05:00, 17:00 to 18:00 UTC" in texts(found)


def test_a_market_with_three_events_is_not_compared(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 8, 300)
    ship(tmp_path / "archive", decisions(DAY, 300))
    ship(tmp_path / "archive", decisions(DAY, 3, markets=("TW",), induced=1.0, prefix="tw"))
    found = monitored(tmp_path)
    assert found.today.markets["TW"].events == 3
    assert "TW" not in texts(found)


def test_feedback_counts_once_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    yesterday = DAY - timedelta(days=1)
    old = decisions(yesterday, 400)
    ship(tmp_path / "archive", old)
    ship(tmp_path / "archive", decisions(DAY, 400))
    ship_feedback(tmp_path / "archive", feedback(old, yesterday, 5, precision=1.0))
    said = feedback(old, DAY, 12, precision=1.0)
    unknown, appeal = {**said[0], "event_id": "nobody"}, {**said[8], "outcome": "appealed"}
    contradicts, wrong = {**said[1], "outcome": "rejected"}, {**said[9], "outcome": "rejected"}
    ship_feedback(tmp_path / "archive", [*said[:9], wrong, unknown, appeal, contradicts, said[6]])
    day = monitored(tmp_path).feedback[-1]
    assert day.messages == 14
    assert day.unknown == 1
    assert sum(day.appeals.values()) == 1
    assert day.damage.repeated == 5 + 1, "five were reviewed the day before, one was sent twice"
    assert day.contradicting == 1
    assert [review.right for review in day.reviews] == [True] * 4 + [False]
    assert monitored(tmp_path).precision[""].measured == pytest.approx(0.8)


def test_a_verdict_that_was_overturned_on_appeal_is_wrong_whatever_was_said_before(tmp_path: Path) -> None:
    yesterday = DAY - timedelta(days=1)
    old = decisions(yesterday, 400)
    ship(tmp_path / "archive", old)
    ship(tmp_path / "archive", decisions(DAY, 400))
    ship_feedback(tmp_path / "archive", feedback(old, yesterday, 3, precision=1.0))
    said = feedback(old, DAY, 3, precision=1.0)
    overturned = {"outcome": "rejected", "label": "not_induced", "reviewer": "bob", "appeal_id": "appeal-1"}
    by_hand = {**overturned, "appeal_id": None}
    ship_feedback(tmp_path / "archive", [{**said[0], **overturned}, {**said[1], **by_hand}, said[2]])
    found = monitored(tmp_path)
    assert [(review.event_id, review.right) for review in found.feedback[-1].reviews] == [(said[0]["event_id"], False)]
    assert found.feedback[-1].contradicting == 2


def test_an_appeal_is_counted_though_its_decision_is_in_no_log_any_more(tmp_path: Path) -> None:
    ship(tmp_path / "archive", decisions(DAY, 400))
    message = feedback(decisions(DAY, 400), DAY, 1)[0]
    about = {"outcome": "rejected", "label": "not_induced", "source": "model", "action": "penalty"}
    long_ago = {**message, **about, "event_id": "long-ago", "appeal_id": "appeal-1"}
    ship_feedback(tmp_path / "archive", [long_ago, {**long_ago, "event_id": "nobody", "appeal_id": None}])
    found = monitored(tmp_path)
    (review,) = found.feedback[-1].reviews
    assert (review.event_id, review.right, review.action) == ("long-ago", False, "penalty")
    assert (found.feedback[-1].unknown, found.feedback[-1].early) == (1, 0)
    (wrong,) = [one for one in found.decision.triggers if one.name == "wrong_predictions"]
    assert wrong.reason.startswith("1 of 1,000")


def test_what_people_said_of_an_event_that_was_judged_anew_is_about_the_decision_of_then(tmp_path: Path) -> None:
    old = decisions(DAY - timedelta(days=2), 40, induced=0.0)
    anew = decisions(DAY, 40, induced=1.0, fallback=0.0)
    anew = anew.set_column(0, "event_id", old["event_id"])
    ship(tmp_path / "archive", old)
    ship(tmp_path / "archive", anew)
    about = {"model_version": "small@2", "source": "model", "action": "investigate"}
    said = [{**message, **about} for message in feedback(anew, DAY, 3, precision=1.0)]
    said[2] = {**said[2], "outcome": "rejected", "label": "not_induced"}
    ship_feedback(tmp_path / "archive", [{**said[0], "label": "induced"}, *said[1:]])
    reviews = monitored(tmp_path).feedback[-1].reviews
    assert [(review.right, review.verdict, review.model_version) for review in reviews] == [
        *[(True, "induced", "small@2")] * 2,
        (False, "induced", "small@2"),
    ]


def test_what_people_said_stays_when_the_decision_is_older_than_the_window(tmp_path: Path) -> None:
    """A case is reviewed days after its decision: it counts as long as its model serves, whichever day is looked at."""
    archive, settings = tmp_path / "archive", MonitorSettings(history_days=7)
    decided = decisions(DAY, 60)
    for later in range(13):
        ship(archive, decisions(DAY + timedelta(days=later), 60), num_hours=1)
    said = DAY + timedelta(days=3)
    ship_feedback(archive, feedback(decided, said, 5, precision=0.0))
    repeated = DAY + timedelta(days=10)
    ship_feedback(archive, feedback(decided, repeated, 5, precision=0.0))
    for later in range(3, 13):
        day = DAY + timedelta(days=later)
        found = monitored(tmp_path, day, settings=settings, now=day_start(day) + 2 * 86_400)
        wrong = next(one.reason for one in found.decision.triggers if one.name == "wrong_predictions")
        assert wrong.startswith("5 of 1,000"), f"{later} days after the decision"
        late = [one.unknown for one in found.feedback if one.day == str(repeated)]
        assert late == [5] * (day >= repeated), "ten days are more than are looked through"


def test_what_people_said_before_is_read_once_for_all_days(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    archive, days = tmp_path / "archive", [DAY - timedelta(days=back) for back in range(7, -1, -1)]
    for day in days:
        table = decisions(day, 60)
        ship(archive, table, num_hours=1)
        ship_feedback(archive, feedback(table, day, 2))
    first, reads = Days(str(archive), bucket, None), len(s3_server.requests)
    first.complete(DAY - timedelta(days=4), 3)
    first.complete(DAY, 7)
    asked = [path for method, path in s3_server.requests[reads:] if method == "GET" and path.endswith("feedback.json")]
    assert len(asked) == 4 + 4, "of the four days that are kept, as they are, and for the four that are not"


def test_feedback_older_than_its_decision_is_named(tmp_path: Path) -> None:
    table = decisions(DAY, 200)
    ship(tmp_path / "archive", table)
    early = [{**one, "received_at": day_start(DAY) + place} for place, one in enumerate(feedback(table, DAY, 3))]
    ship_feedback(tmp_path / "archive", early)
    found = monitored(tmp_path)
    assert found.feedback[-1].early == 3
    assert "3 messages older than the decision that it is about: clocks that disagree" in texts(found)


def test_counts_of_days_add_up(tmp_path: Path) -> None:
    ship_quiet_days(tmp_path / "archive", DAY, 2, 150)
    days = Days(str(tmp_path / "archive"), str(tmp_path / "out"), profile())
    counts, _ = days.complete(DAY, 28)
    whole = merge([market for day in counts for market in day.markets.values()])
    assert whole.events == sum(sum(row) for row in whole.features[:1]) == 300
    assert [day.day for day in counts] == ["2026-11-20", "2026-11-21", "2026-11-22"]


def test_sellers_who_were_flagged_and_gave_no_reason_again_have_stopped(tmp_path: Path) -> None:
    def told(day: date, *sellers: tuple[str, str]) -> None:
        table = decisions(day, len(sellers), induced=0.0, prefix="s")
        for name, place in (("seller_digest", 0), ("action", 1)):
            column = pa.array([one[place] for one in sellers]).cast(table.schema.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        ship(tmp_path / "archive", table)

    told(
        DAY - timedelta(days=14), ("a", "penalty"), ("b", "investigate"), ("b", "none"), ("c", "penalty"), ("d", "none")
    )
    for back in range(13, -1, -1):
        told(DAY - timedelta(days=back), ("a", "investigate" if back == 3 else "none"), ("d", "penalty"), ("b", "none"))
    found = monitored(tmp_path)
    assert (found.compliance.flagged, found.compliance.stopped) == (3, 2)  # a was flagged again; b, c not; d only later
    assert found.compliance.share == pytest.approx(2 / 3)
    assert str(DAY - timedelta(days=14)) in str(found.compliance)
    early = monitored(tmp_path, DAY - timedelta(days=1))
    assert early.compliance.share is None
    assert f"nothing is kept of {DAY - timedelta(days=15)}" in str(early.compliance)


def test_what_buyers_cancelled_beside_is_counted_from_the_orders_in_hand(tmp_path: Path) -> None:
    names = [feature.name for feature in FEATURES]
    rows = np.tile(pool()[:1], (3, 1))
    rows[:, names.index("concurrent_order_count")] = [10, 0, 30]
    rows[:, names.index("concurrent_cancelled_share")] = [0.1, np.nan, 0.3]
    ship(tmp_path / "archive", decisions(DAY, 3, pick=np.arange(3), change=lambda *_: rows.astype(np.float32)))
    found = monitored(tmp_path)
    assert found.whole.other_orders == pytest.approx([40, 10])
    assert day_figures(found.today)["share.buyers_cancel"] == pytest.approx(0.25)
