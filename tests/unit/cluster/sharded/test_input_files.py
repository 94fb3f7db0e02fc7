"""An input's files: found as other readers find them, cut whole, and named where they cannot be read."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import storage
from cluster.sharded.input_files import (
    RowGroups,
    cut_input,
    cut_row_groups,
    data_files,
    open_input,
    refuse_missing_column,
    require_files,
)
from cluster.storage import StoredFile


def names(url: Path, *suffixes: str) -> list[str]:
    def cut(number: int, file: StoredFile) -> list[str]:
        return [f"{number}:{Path(file.url).name}"] * 2

    return cut_input(str(url), suffixes, cut)


def test_parts_come_in_the_order_of_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.csv", "a.json", "_staging/c.csv", ".d.csv", "sub/e.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path, ".json", ".csv") == ["0:a.json", "0:a.json", "1:b.csv", "1:b.csv", "2:e.csv", "2:e.csv"]
    assert names(tmp_path / "_staging" / "c.csv", ".csv") == ["0:c.csv"] * 2  # named itself: meant


def test_an_input_without_files_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: no \.a, \.b or \.c file there"):
        names(tmp_path / "gone", ".a", ".b", ".c")


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta table"),
        ("sub/_delta_log/00000000000000000000.json", "a Delta table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_a_table_whose_log_says_which_files_count_is_refused(tmp_path: Path, log: str, kind: str) -> None:
    """Removed and superseded rows lie in its files too, and nobody would see that they were read."""
    _touch(tmp_path, log, "old.parquet", "new.parquet")
    with pytest.raises(ValueError, match=rf"{kind} .*: write the current version out as parquet first"):
        names(tmp_path, ".parquet")
    with pytest.raises(ValueError, match=kind):
        require_files(str(tmp_path), what="rows")
    assert names(tmp_path / "new.parquet", ".parquet") == ["0:new.parquet"] * 2  # named itself: meant


def test_a_partition_of_such_a_table_is_refused_too(bucket: str, tmp_path: Path) -> None:
    _touch(tmp_path, "t/_delta_log/0.json", "t/market=BR/ds=2026-11-22/a.parquet", "plain/ds=2026-11-22/a.parquet")
    with pytest.raises(ValueError, match=r"ds=2026-11-22: a part of a Delta table \(\.\./_delta_log is there\)"):
        names(tmp_path / "t" / "market=BR" / "ds=2026-11-22", ".parquet")
    assert names(tmp_path / "plain" / "ds=2026-11-22", ".parquet") == ["0:a.parquet"] * 2
    for name in (".hoodie/hoodie.properties", "ds=2026-11-22/a.parquet"):
        storage.write_bytes(f"{bucket}/{name}", b"x")
    with pytest.raises(ValueError, match=r"ds=2026-11-22: a part of a Hudi table"):
        cut_input(f"{bucket}/ds=2026-11-22", (".parquet",), lambda number, file: [number])


@pytest.mark.parametrize("folder", [".", "ds=2026-11-22"])
@pytest.mark.parametrize("begun", [True, False])
def test_what_spark_has_not_committed_is_asked_for_again(tmp_path: Path, folder: str, begun: bool) -> None:
    part = tmp_path / folder
    _touch(part, "part-0.parquet", *(["_temporary/0/task_0/part-1.parquet"] if begun or folder != "." else ()))
    (part / "_temporary").mkdir(exist_ok=True)  # maybe without a file in it
    with pytest.raises(RuntimeError, match=r"_temporary: a writer is at work there .*: run again when it is done"):
        require_files(str(tmp_path), what="rows")
    with pytest.raises(RuntimeError, match="a writer is at work"):
        names(tmp_path, ".parquet")
    (part / "_SUCCESS").touch()
    assert names(tmp_path, ".parquet") == ["0:part-0.parquet"] * 2


def test_what_a_dead_writer_left_in_a_hidden_folder_is_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "a.parquet", ".spark-staging-1/_temporary/0/b.parquet", "_old/_temporary/c.parquet")
    assert names(tmp_path, ".parquet") == ["0:a.parquet"] * 2


def test_a_table_in_a_hidden_folder_is_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "a.parquet", "_backup/_delta_log/0.json", "_backup/b.parquet")
    assert names(tmp_path, ".parquet") == ["0:a.parquet"] * 2


def test_a_column_of_spark_may_begin_with_an_underscore(tmp_path: Path) -> None:
    _touch(tmp_path, "_market=BR/a.parquet", "_market/b.parquet", "._market=BR/c.parquet")
    assert names(tmp_path, ".parquet") == ["0:a.parquet"] * 2


def test_a_writer_that_says_when_it_is_done_is_waited_for(tmp_path: Path) -> None:
    _touch(tmp_path, "a.parquet")
    require_files(str(tmp_path), what="rows")
    with pytest.raises(RuntimeError, match=r"no _DONE there \(x\.marker\): run again when its writer is done"):
        require_files(str(tmp_path), what="rows", marker="_DONE", setting="x.marker")
    (tmp_path / "_DONE").touch()
    require_files(str(tmp_path), what="rows", marker="_DONE", setting="x.marker")


def test_row_groups_stay_whole_and_none_is_lost(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [os.urandom(1000) for _ in range(50)]}), tmp_path / "a.parquet", row_group_size=10)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    sizes = [metadata.row_group(number).total_byte_size for number in range(5)]
    (whole,) = cut_row_groups(metadata, part_bytes=10**9)
    assert whole == RowGroups(0, 5, 0, 50, sum(sizes))
    assert [(part.start, part.end) for part in cut_row_groups(metadata, part_bytes=1)] == [(n, n + 1) for n in range(5)]
    parts = cut_row_groups(metadata, part_bytes=sizes[0] + 1)
    assert [(part.start, part.end, part.first_row, part.num_rows) for part in parts] == [
        (0, 2, 0, 20),
        (2, 4, 20, 20),
        (4, 5, 40, 10),
    ]


def test_a_table_without_rows_has_no_parts(tmp_path: Path) -> None:
    pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("x", pa.int64())])).close()
    assert cut_row_groups(pq.read_metadata(tmp_path / "a.parquet"), part_bytes=1) == []


@pytest.mark.parametrize("error", [pa.ArrowInvalid("bad magic\nand more"), OSError("bad magic")])
def test_damage_is_told_from_storage_that_failed(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "a.parquet").touch()
    url = str(tmp_path / "a.parquet")
    with (
        pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file \(bad magic\): replace or remove"),
        open_input(url, "parquet"),
    ):
        raise error
    with (
        pytest.raises(RuntimeError, match=r"a\.parquet: storage failed while reading .*: run the job again"),
        open_input(url, "parquet"),
    ):
        raise OSError(errno.EIO, "no answer")
    with pytest.raises(RuntimeError, match="storage failed"), open_input(f"{url}.gone", "parquet"):
        pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("The provided token has expired."), r"refused to read it .*expired.*: renew the credentials"),
        (FileNotFoundError("The specified key does not exist."), r"storage failed while reading .*: run the job again"),
    ],
)
def test_object_storage_that_says_no_is_not_a_damaged_file(tmp_path: Path, error: OSError, said: str) -> None:
    """s3fs raises these without a number, and whoever is told to remove the file removes a good one."""
    (tmp_path / "a.parquet").touch()
    with pytest.raises(RuntimeError, match=said), open_input(str(tmp_path / "a.parquet"), "parquet"):
        raise error


def test_a_file_that_was_replaced_is_not_read_by_the_cuts_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"one")
    (file,) = storage.list_files(str(path))
    with open_input(file.url, "parquet", version=file.version) as stream:
        assert stream.read() == b"one"
    os.utime(path, (1, 1))
    with (
        pytest.raises(RuntimeError, match="not the file any more that this job began with"),
        open_input(file.url, "parquet", version=file.version),
    ):
        raise AssertionError("its rows were read")
    (file,) = storage.list_files(str(path))
    with (
        pytest.raises(RuntimeError, match="not the file any more"),
        open_input(file.url, "parquet", version=file.version),
    ):
        os.utime(path, (2, 2))  # while it is read


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    refuse_missing_column("f", "a", ["b", "a"])
    with pytest.raises(ValueError, match=r"f: column 'a' is missing \(required\); found b, c"):
        refuse_missing_column("f", "a", ["b", "c"])
    with pytest.raises(ValueError, match=r"column 'a' is missing \(asked for\); found none"):
        refuse_missing_column("f", "a", [], why="asked for")


def test_a_file_that_this_machine_has_not_is_not_called_another_one(tmp_path: Path) -> None:
    """As where a worker's disk is not the driver's."""
    with (
        pytest.raises(RuntimeError, match=r"a\.parquet: it is not there on .*: all machines of a cluster have to see"),
        open_input(str(tmp_path / "a.parquet"), "parquet", version="1.0"),
    ):
        raise AssertionError("its rows were read")


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_folder_is_not_read_as_a_file(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An object store has no folders: opened like a file, one has no rows."""
    url = str(tmp_path / "pairs") if where == "disk" else f"{request.getfixturevalue('bucket')}/pairs"
    storage.write_bytes(f"{url}/a.csv", b"query,title\n")
    with (
        pytest.raises(ValueError, match=rf"{re.escape(url)}: a folder, where one csv file is read: name the file"),
        open_input(url, "csv") as stream,
    ):
        stream.read()


def test_an_object_that_a_folder_of_its_name_hides_is_not_passed_over(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/day.csv", b"query,title\n")
    assert len(data_files(f"{bucket}/day.csv", (".csv",))[0]) == 1
    storage.write_bytes(f"{bucket}/day.csv/more.csv", b"query,title\n")
    with pytest.raises(ValueError, match=r"day\.csv: an object and a folder of one name: rename one"):
        data_files(f"{bucket}/day.csv", (".csv",))
