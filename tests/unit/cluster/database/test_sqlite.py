"""What a crash of the machine does to a file: one that may be lost is begun anew, one that must not be is left."""

from __future__ import annotations

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
