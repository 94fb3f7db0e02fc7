"""The archive's small files put together: the same rows in fewer files, whenever it is broken off."""

from __future__ import annotations

import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cancellation.serving.records.compaction import Compacted, compact
from cancellation.serving.records.decision_log import DecisionLog
from cancellation.serving.records.decision_record import decision_table
from cancellation.serving.records.forgetting import Places, find, forget
from cancellation.serving.records.log_shipping import Shipper
from cancellation.serving.records.people import ROLES
from cancellation.serving.records.shipped_log import find_rows, read_log
from cluster import storage
from tests.builders.decision_records import NOON, decision_record
from tests.servers.s3 import S3Server

NEXT_DAY = date(2026, 11, 1)
_POOLS: list[pa.MemoryPool] = []
"""Kept: Arrow's own threads give memory back to one after its last table has gone; if it has too, the process ends."""


def _ship(folder: Path, numbers: range, *, day: int = 0) -> None:
    """A file for each event; sellers alternate after every two."""
    for number in numbers:
        log = DecisionLog(folder / "log")
        market, people = ("BR", "TH")[number % 2], dict.fromkeys(ROLES, "ab"[number // 2 % 2] * 32)
        log.append(decision_record(number, market=market, people=people, received_at=NOON + 86_400 * day + number))
        log.close()
    Shipper(folder / "log", str(folder / "out" / "decisions")).ship_once()


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("*.parquet"))


def test_a_day_of_a_market_is_one_file_with_the_same_rows(tmp_path: Path) -> None:
    _ship(tmp_path, range(6))
    _ship(tmp_path, range(6, 9), day=1)
    before = read_log(str(tmp_path / "out" / "decisions"))
    assert compact(str(tmp_path / "out"), before=NEXT_DAY) == Compacted(folders=2, files_before=6, files_after=2)
    assert len(_files(tmp_path)) == 2 + 3
    assert read_log(str(tmp_path / "out" / "decisions")).equals(before)
    assert compact(str(tmp_path / "out"), before=NEXT_DAY) == Compacted(folders=0, files_before=2, files_after=2)


def test_what_came_late_joins_the_rest_of_its_day(tmp_path: Path) -> None:
    _ship(tmp_path, range(4))
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    _ship(tmp_path, range(4, 6))
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    assert len(_files(tmp_path)) == 2
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6


def test_broken_off_before_the_old_files_went_no_row_is_there_twice(tmp_path: Path) -> None:
    _ship(tmp_path, range(6))
    shutil.copytree(tmp_path / "out", tmp_path / "old")
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    shutil.copytree(tmp_path / "old", tmp_path / "out", dirs_exist_ok=True)
    assert len(_files(tmp_path)) == 8
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    assert len(_files(tmp_path)) == 2
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 6


def test_a_file_that_a_shipper_brings_again_stays_replaced_when_its_day_is_put_together_again(tmp_path: Path) -> None:
    _ship(tmp_path, range(4))
    shutil.copytree(tmp_path / "out", tmp_path / "old")
    for late in (range(4, 6), range(6, 8)):
        compact(str(tmp_path / "out"), before=NEXT_DAY)
        _ship(tmp_path, late)
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    shutil.copytree(tmp_path / "old", tmp_path / "out", dirs_exist_ok=True)
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 8
    compact(str(tmp_path / "out"), before=NEXT_DAY)
    assert len(_files(tmp_path)) == 2
    assert read_log(str(tmp_path / "out" / "decisions")).num_rows == 8


def test_no_day_is_held_in_memory_that_is_put_together_searched_for_somebody_or_read_for_a_few_rows(
    tmp_path: Path,
) -> None:
    day = tmp_path / "out" / "decisions" / "market=BR" / "day=2026-10-31"
    day.mkdir(parents=True)
    for file in range(12):
        numbers = range(200 * file, 200 * (file + 1))
        texts = {number: random.Random(number).randbytes(1500).hex() * 20 for number in numbers}
        rows = [decision_record(one, received_at=NOON + one, event={"chat": texts[one]}) for one in numbers]
        rows = [row | {"people": dict.fromkeys(ROLES, "ab"[place % 2] * 32)} for place, row in enumerate(rows)]
        pq.write_table(decision_table(rows), day / f"{file:04d}-a.parquet", compression="zstd")
    out = str(tmp_path / "out")

    def read_one() -> list[str]:
        return read_log(f"{out}/decisions", where=pc.field("event_id") == "e-001000")["event_id"].to_pylist()

    def look_up() -> list[str]:
        rows = find_rows(f"{out}/decisions", "e-001001", market="BR", day=date(2026, 10, 31))
        return rows["event_id"].to_pylist()

    for step, expected in (
        (lambda: compact(out, before=NEXT_DAY), Compacted(folders=1, files_before=12, files_after=1)),
        (read_one, ["e-001000"]),
        (look_up, ["e-001001"]),
        (lambda: forget(Places(out), {"b" * 32})[0].archive, 1_200),
    ):
        whole = pa.default_memory_pool()
        pa.set_memory_pool(pool := pa.proxy_memory_pool(whole))
        _POOLS.append(pool)
        try:
            found = step()
        finally:
            pa.set_memory_pool(whole)
        assert found == expected
        assert pool.max_memory() < 2_400 * 60_000


def test_of_a_large_file_of_a_bucket_an_event_is_found_as_of_a_small_one(tmp_path: Path, bucket: str) -> None:
    rows = [
        decision_record(number, received_at=NOON + number, event={"chat": random.Random(number).randbytes(8_000).hex()})
        for number in range(1_500)
    ]
    rows.append(decision_record(7, received_at=NOON + 5_000))  # judged again
    sink = pa.BufferOutputStream()
    pq.write_table(decision_table(rows), sink, compression="zstd", row_group_size=400)
    assert sink.tell() > 8 * 2**20
    storage.write_bytes(f"{bucket}/decisions/market=BR/day=2026-10-31/day-a.parquet", sink.getvalue())
    for name, times in (("e-000007", 2), ("e-000400", 1), ("e-001499", 1), ("e-9", 0)):
        found = find_rows(f"{bucket}/decisions", name, market="BR", day=date(2026, 10, 31))
        assert found["event_id"].to_pylist() == [name] * times
    read = read_log(f"{bucket}/decisions", columns=["event_id"], where=pc.field("event_id") == "e-000007")
    assert read.num_rows == 2


def test_what_an_earlier_release_had_no_column_for_is_null(tmp_path: Path) -> None:
    _ship(tmp_path, range(0, 4, 2))
    (old, _) = _files(tmp_path)
    pq.write_table(pq.read_table(old).drop_columns(["induced_threshold"]), old)
    read = read_log(str(tmp_path / "out" / "decisions"), start=NOON, where=pc.field("action") == "investigate")
    assert read["event_id"].to_pylist() == ["e-000000", "e-000002"]
    assert read["induced_threshold"].null_count == 2


def test_who_reads_while_a_day_is_put_together_has_every_row_once(tmp_path: Path) -> None:
    _ship(tmp_path, range(60))
    out = str(tmp_path / "out")
    day = find_rows(f"{out}/decisions", "e-000000", market="BR", day=date(2026, 10, 31))
    with ThreadPoolExecutor(1) as pool:
        compacting = pool.submit(compact, out, before=NEXT_DAY)
        while not compacting.done():
            assert read_log(f"{out}/decisions").num_rows == 60
            found = find_rows(f"{out}/decisions", "e-000000", market="BR", day=date(2026, 10, 31))
            assert found.num_rows == day.num_rows == 1
    assert compacting.result().folders == 2


def test_who_is_forgotten_while_a_day_is_put_together_is_gone_from_it(tmp_path: Path) -> None:
    """Whichever comes first: a file goes that is searched, or a row of a file that is put together."""
    for turn in range(5):
        folder, start = tmp_path / str(turn), threading.Barrier(2)
        _ship(folder, range(16))

        def put_together(archive: str, start: threading.Barrier = start) -> None:
            start.wait()
            compact(archive, before=NEXT_DAY)

        places = Places(str(folder / "out"))
        with ThreadPoolExecutor(1) as pool:
            compacting = pool.submit(put_together, places.archive_url)
            start.wait()
            before, left = forget(places, {"a" * 32})
        assert compacting.exception() is None
        assert before.rows >= 8
        assert left.rows == find(places, {"a" * 32}).rows == 0
        assert read_log(str(folder / "out" / "decisions"))["seller_digest"].to_pylist() == ["b" * 32] * 8


def test_a_day_that_is_put_together_anew_behind_who_is_being_forgotten_is_searched_again(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    """Of files that each hold somebody one is put together as it was before, and goes before it is searched."""
    _ship(tmp_path, range(0, 4, 2))
    day, local = f"{bucket}/decisions/market=BR/day=2026-10-31", _files(tmp_path)
    for path, name in zip(local, ("1-a-000001.parquet", "day-ffffffffffffffff.parquet"), strict=True):
        storage.write_bytes(f"{day}/{name}", path.read_bytes())
    people = {"a" * 32, "b" * 32}
    with ThreadPoolExecutor(2) as pool, s3_server.hold("GET", "list-type.*market") as looking:
        compacting = pool.submit(compact, bucket, before=NEXT_DAY)
        assert looking.reached.wait(60)  # the day is there, and what it was made of is not looked at again yet
        with s3_server.hold("PUT", r"/day-(?!f{16})\w+\.parquet") as cleaning:
            forgetting = pool.submit(forget, Places(bucket), people)
            assert cleaning.reached.wait(60)
            with s3_server.hold("GET", r"/day-f{16}\.parquet") as going_on:
                cleaning.released.set()
                assert going_on.reached.wait(60)
                looking.released.set()
                assert compacting.result(60).folders == 1
        before, left = forgetting.result(60)
    assert before.rows
    assert left.rows == find(Places(bucket), people).rows == 0
    assert read_log(f"{bucket}/decisions").num_rows == 0
