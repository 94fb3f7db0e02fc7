from pathlib import Path

import pytest

from cluster import storage
from cluster.commit import Output, read_job_manifest
from tests.servers.s3 import S3Server

PLAN = {"input": "a", "model": "m1", "num_shards": 2}


def _finish(output: Output, unit: str, content: bytes) -> bool:
    name = output.write_data(unit, content)
    return output.commit_unit("shards", unit, {"data": name, "num_rows": len(content)})


def _publish(output: Output) -> bool:
    manifests = output.manifests("shards")
    output.publish({f"part-{unit}": manifest["data"] for unit, manifest in manifests.items()})
    return output.commit(PLAN, {"files": sorted(f"part-{unit}" for unit in manifests)})


def _visible(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_nothing_is_visible_before_all_is(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "day"))
    assert output.open(PLAN) is None
    assert _finish(output, "0", b"zero")
    assert _finish(output, "1", b"one")
    assert _visible(tmp_path / "day") == {}
    assert read_job_manifest(output.url) is None
    assert _publish(output)
    assert _visible(tmp_path / "day") == {"part-0": b"zero", "part-1": b"one"}
    assert Output(output.url).open(PLAN)["files"] == ["part-0", "part-1"]


def test_the_first_attempt_wins_and_a_late_one_changes_nothing(tmp_path: Path) -> None:
    early, late = Output(str(tmp_path)), Output(str(tmp_path))
    early.open(PLAN)
    late.open(PLAN)
    name_of_late = late.write_data("0", b"late")
    assert _finish(early, "0", b"early")
    assert not late.commit_unit("shards", "0", {"data": name_of_late})
    assert _finish(early, "1", b"x")
    assert _publish(late)  # whoever publishes takes the winners' data
    assert not _publish(early)
    early.clean_up()
    assert late.commit_unit("shards", "0", {"data": name_of_late})  # wakes up when all is over
    assert _visible(tmp_path)["part-0"] == b"early"
    assert Output(str(tmp_path)).open(PLAN)["files"] == ["part-0", "part-1"]


def test_a_resumed_run_finds_what_is_finished(tmp_path: Path) -> None:
    killed = Output(str(tmp_path))
    killed.open(PLAN)
    _finish(killed, "0", b"zero")
    killed.write_data("1", b"half")  # killed before its manifest
    resumed = Output(str(tmp_path))
    assert resumed.open(PLAN) is None
    assert list(resumed.manifests("shards")) == ["0"]


@pytest.mark.parametrize("committed", [False, True])
def test_another_plan_is_refused_naming_what_differs(tmp_path: Path, committed: bool) -> None:
    output = Output(str(tmp_path))
    output.open(PLAN)
    if committed:
        _publish(output)
    with pytest.raises(ValueError, match=r"holds a run with different model: choose another output, or remove"):
        Output(str(tmp_path)).open({**PLAN, "model": "m2"})


def test_staging_stays_until_the_job_is_committed(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.open(PLAN)
    _finish(output, "0", b"zero")
    output.clean_up()
    assert output.manifests("shards")
    _publish(output)
    output.clean_up()
    assert not storage.exists(str(tmp_path / "_staging"))


@pytest.mark.parametrize("name", ["part-00000-1f.snappy.parquet", "part-00000.parquet", "DAY.PARQUET", "part-0.csv"])
def test_a_folder_with_somebody_elses_data_is_refused_before_work_begins(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(ValueError, match=rf"holds {name} \(1 such files\), which no run recorded there has written"):
        Output(str(tmp_path)).open(PLAN)
    assert not (tmp_path / "_staging").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"name": "org.apache.hadoop.SuccessData/1"}', b"\xff"])
def test_a_success_marker_of_another_program_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "_SUCCESS").write_bytes(content)
    with pytest.raises(ValueError, match="the _SUCCESS there is none that a job of this project wrote"):
        Output(str(tmp_path)).open(PLAN)


def test_a_run_that_was_killed_while_it_published_goes_on(tmp_path: Path) -> None:
    killed = Output(str(tmp_path))
    killed.open(PLAN)
    _finish(killed, "0", b"zero")
    killed.publish({"part-0": killed.manifests("shards")["0"]["data"]})
    assert Output(str(tmp_path)).open(PLAN) is None


def test_a_store_on_which_two_runs_would_both_be_first_is_refused_before_work_begins(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(f"{bucket}/day")
    monkeypatch.setattr(s3_server, "refuses_to_create", False)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"/day: the storage writes over what is there .*If-None-Match"):
            output.open({"plan": 1})
    assert storage.list_files(output.url) == []
    monkeypatch.undo()
    assert output.open({"plan": 2}) is None
    with pytest.raises(ValueError, match="a run with different plan"):
        Output(output.url).open({"plan": 1})
    asked = len(s3_server.requests)
    assert Output(output.url).open({"plan": 2}) is None
    assert sum(method == "PUT" for method, _ in s3_server.requests[asked:]) == 2, "one more than the claim"
