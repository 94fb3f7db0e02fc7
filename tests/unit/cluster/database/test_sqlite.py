"""What a crash of the machine, or somebody, does to a file: one that may be lost is begun anew, others are left."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cluster.database.sqlite import SqliteDatabase

LAYOUT = "CREATE TABLE IF NOT EXISTS things (name TEXT);"


def _crashed(path: Path, *, durable: bool) -> bytes:
    """A file with a row in it that the machine, started anew since, has spoilt."""
    database = SqliteDatabase(path, LAYOUT, durable=durable)
    with database.writing() as execute:
        execute("INSERT INTO things VALUES ('one')")
    database.close()
    path.with_name(f"{path.name}.boot").write_text("an earlier start")
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    return path.read_bytes()


def test_a_harmed_file_is_begun_anew(tmp_path: Path) -> None:
    _crashed(tmp_path / "a.sqlite", durable=False)
    database = SqliteDatabase(tmp_path / "a.sqlite", LAYOUT)
    with database.reading() as execute:
        assert execute("SELECT COUNT(*) FROM things").fetchone() == (0,)
    database.close()


def test_a_durable_one_is_left_for_people_at_every_start(tmp_path: Path) -> None:
    content = _crashed(tmp_path / "a.sqlite", durable=True)
    for _ in range(2):
        with pytest.raises(OSError, match=r"a\.sqlite: harmed by a crash of the machine; restore the file"):
            SqliteDatabase(tmp_path / "a.sqlite", LAYOUT, durable=True)
    assert (tmp_path / "a.sqlite").read_bytes() == content


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 0)])
def test_only_a_durable_one_waits_for_the_disk(tmp_path: Path, durable: bool, synchronous: int) -> None:
    database = SqliteDatabase(tmp_path / "a.sqlite", LAYOUT, durable=durable)
    with database.writing() as execute:
        assert execute("PRAGMA synchronous").fetchone() == (synchronous,)
    database.close()


@pytest.mark.parametrize("gone", ["", "-wal"])
@pytest.mark.parametrize("replaced", [False, True])
def test_what_would_be_written_to_a_file_that_lies_there_no_more_is_refused_and_not_lost(
    tmp_path: Path, gone: str, replaced: bool
) -> None:
    path = tmp_path / "a.sqlite"
    with closing(SqliteDatabase(path, LAYOUT, durable=True)) as database:
        with database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("kept",))
        place = path.with_name(f"{path.name}{gone}")
        place.rename(tmp_path / "moved")
        if replaced:
            shutil.copy(tmp_path / "moved", place)
        for doing in (database.reading, database.writing):
            with pytest.raises(OSError, match=r"expected the file that was opened .*; start again"), doing():
                pass
        place.unlink(missing_ok=True)
        (tmp_path / "moved").rename(place)
        with database.writing() as execute:
            execute("INSERT INTO things (name) VALUES (?)", ("too",))
    with closing(SqliteDatabase(path, LAYOUT, durable=True)) as database, database.reading() as execute:
        assert execute("SELECT name FROM things ORDER BY name").fetchall() == [("kept",), ("too",)]


def test_a_file_of_another_release_is_refused_at_the_start(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "a.sqlite", "CREATE TABLE IF NOT EXISTS things (other TEXT)").close()
    with pytest.raises(OSError, match=r"found some without things.name; move the file away and start again"):
        SqliteDatabase(tmp_path / "a.sqlite", LAYOUT)


@pytest.mark.parametrize("durable", [False, True])
def test_no_file_is_to_be_removed_or_restored_for_a_disk_that_is_full(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a.sqlite"
    with closing(SqliteDatabase(path, LAYOUT, durable=durable)) as database:
        with database.writing() as execute:
            execute("PRAGMA max_page_count = 1")  # as a full disk
        with (
            pytest.raises(
                OSError, match=r"a\.sqlite: SQLite failed \(database or disk is full\); make room on its disk$"
            ),
            database.writing() as execute,
        ):
            execute("INSERT INTO things (name) VALUES (?)", ("x" * 100_000,))


def test_of_a_file_that_somebody_holds_the_remedy_is_to_end_that(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with (
        closing(SqliteDatabase(path, LAYOUT)) as database,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match=r"\(database is locked\); end what holds it"), database.writing():
            pass


def test_a_durable_file_is_waited_for_while_another_writes_for_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with (
        closing(SqliteDatabase(path, LAYOUT, durable=True)) as database,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(2.0, other.execute, ["COMMIT"])  # a disk that is slow to say that it is written
        release.start()
        with database.writing() as execute:
            execute("INSERT INTO things VALUES ('one')")
        release.join()
