"""What a folder says of its files: those that do not count, or not yet, are never read as data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import s3fs

from cluster.sharded.input_files import data_files, open_input
from cluster.sharded.listing import refuse_output_inside
from tests.servers.s3 import S3Server


def _databricks(folder: Path, *started: int, **committed: list[str]) -> None:
    """A folder as Databricks leaves it: a file and a mark of each transaction, and what each one superseded."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in started:
        (folder / f"_started_{number}").touch()
        (folder / f"part-0-tid-{number}.parquet").touch()
    for name, removed in committed.items():
        mark = {"added": [f"part-0-tid-{name[2:]}.parquet"], "removed": removed}
        (folder / f"_committed_{name[2:]}").write_text(json.dumps(mark))


def _places(folder: Path) -> list[str]:
    return [Path(file.url).name for file in data_files(str(folder), (".parquet",))[0]]


@pytest.mark.parametrize("folder", ["", "market=BR"])
def test_what_databricks_has_not_committed_is_asked_for_again(tmp_path: Path, folder: str) -> None:
    _databricks(tmp_path / folder, 1, 2, of1=[])
    with pytest.raises(RuntimeError, match=r"_started_2: a writer is at work there and has not laid _committed_2 besi"):
        data_files(str(tmp_path), (".parquet",))
    _databricks(tmp_path / folder, of2=[])
    assert _places(tmp_path) == ["part-0-tid-1.parquet", "part-0-tid-2.parquet"]


@pytest.mark.parametrize("folder", ["", "market=BR"])
def test_what_databricks_has_superseded_is_not_read_again(tmp_path: Path, folder: str) -> None:
    _databricks(tmp_path / folder, 1, 2, of1=[], of2=["part-0-tid-1.parquet"])
    with pytest.raises(ValueError, match=r"part-0-tid-1\.parquet: superseded, as .*_committed_2 says \(1 such files\)"):
        data_files(str(tmp_path), (".parquet",))
    (tmp_path / folder / "part-0-tid-1.parquet").unlink()
    assert _places(tmp_path) == ["part-0-tid-2.parquet"]


def test_marks_in_a_hidden_folder_are_nothing(tmp_path: Path) -> None:
    _databricks(tmp_path / "_old", 1)
    _databricks(tmp_path, 2, of2=[])
    assert _places(tmp_path) == ["part-0-tid-2.parquet"]


@pytest.mark.parametrize("name", [b"caf\xe9.csv", b"market=caf\xe9/a.csv"])
def test_a_name_that_nothing_can_be_written_down_with_is_refused(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    with open(path, "wb"):  # noqa: PTH123
        pass
    with pytest.raises(ValueError, match=r"the name of '.*caf.*' is not UTF-8: rename it"):
        data_files(str(tmp_path), (".csv",))


@pytest.mark.parametrize("root", ["", "s3://bucket"])
def test_results_are_not_laid_among_what_is_read(tmp_path: Path, root: str) -> None:
    root = root or str(tmp_path)
    for output in ("pairs", "pairs/", "pairs/scores", "pairs/ds=2026-11-22/x"):
        with pytest.raises(ValueError, match=r"an output that lies in the input .*/pairs.*: choose another"):
            refuse_output_inside(f"{root}/{output}", f"{root}/pairs")
    for output in ("scores", "pairs2", "pairs/_scores", ""):
        refuse_output_inside(f"{root}/{output}", f"{root}/pairs")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_an_object_in_an_archive_has_to_be_restored(bucket: str, s3_server: S3Server, kind: str) -> None:
    name = f"{bucket.removeprefix('s3://')}/a.{kind}"
    store = s3fs.S3FileSystem(endpoint_url=s3_server.url)
    store.call_s3("put_object", Bucket=name.partition("/")[0], Key=f"a.{kind}", Body=b"abcd", StorageClass="GLACIER")
    with (
        pytest.raises(RuntimeError, match=rf"a\.{kind}: archived by its storage class, such as Glacier: restore it"),
        open_input(f"s3://{name}", kind) as stream,
    ):
        stream.read()
