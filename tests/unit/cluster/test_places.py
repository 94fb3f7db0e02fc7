"""Places that settings name: found in any section and any type, and looked at before work begins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field

from cluster import storage
from cluster.launch import run_job
from cluster.models.files import ModelName
from cluster.places import AsideUrl, CachePath, InputUrl, OutputPath, OutputUrl, check_places, places_of
from cluster.settings import Settings, load_settings
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server


class Section(Settings):
    start: ModelName | None = None
    chats: tuple[InputUrl, ...] | None = ()
    sets: dict[str, InputUrl] = Field(default_factory=dict)


class Job(Settings):
    input: InputUrl
    output: OutputUrl | None = None
    name: str = "no place"
    section: Section = Section()


class Indexed(Settings):
    texts: InputUrl | None = None
    encoder: ModelName = "an/encoder"

    def unused(self) -> set[str]:
        return set() if self.texts else {"encoder"}


class Further(Settings):
    index: Indexed = Indexed()
    own_texts: bool = False

    def used(self) -> set[str]:
        return {"index.encoder"} if self.own_texts else set()


class Whole(Settings):
    further: Further = Further()


def test_a_place_that_its_section_alone_would_leave_unused_is_looked_at_where_another_uses_it() -> None:
    assert list(places_of(Whole())) == []
    for job in (Whole(further=Further(own_texts=True)), Further(own_texts=True)):
        assert [one.setting.removeprefix("further.") for one in places_of(job)] == ["index.encoder"]


def test_places_are_found_in_sections_lists_tables_and_what_may_be_left_out() -> None:
    job = Job(input="a", output="b", section=Section(start="c", chats=("d", "e"), sets={"ours": "f"}))
    found = [(one.place.verb, one.setting, one.name) for one in places_of(job)]
    assert found == [
        ("reads", "input", "a"),
        ("writes", "output", "b"),
        ("reads", "section.start", "c"),
        ("reads", "section.chats", "d"),
        ("reads", "section.chats", "e"),
        ("reads", "section.sets.ours", "f"),
    ]
    assert [one.setting for one in places_of(Job(input="a", section=Section(chats=None)))] == ["input"]


def test_what_is_there_is_told_of_s3_as_of_a_disk(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/in/a.csv", b"x" * 2_500_000)
    storage.write_bytes(f"{bucket}/in/b.csv", b"x")
    (tmp_path / "out").write_bytes(b"x" * 1500)
    job = Job(input=f"{bucket}/in", output=str(tmp_path / "out"), section=Section(start="relevance/small_model"))
    assert check_places(job) == [
        f"reads input={bucket}/in: 2 files, 2.5 MB",
        f"writes output={tmp_path}/out: there already: 1 file, 1.5 kB",
        "reads section.start=relevance/small_model: the folder small_model",
    ]
    assert check_places(Job(input=f"{bucket}/in/b.csv", output=f"{bucket}/out")) == [
        f"reads input={bucket}/in/b.csv: 1 file, 0.0 kB",
        f"writes output={bucket}/out: nothing there yet",
    ]


def test_all_that_is_wrong_is_named_in_one_sentence(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    job = Job(
        input=f"{bucket}/gone",
        output=str(tmp_path / "file" / "scores"),
        section=Section(start=str(PROJECT / "no" / "model"), chats=(str(tmp_path / "gone"),)),
    )
    with pytest.raises(ValueError, match=re.escape(f"input={bucket}/gone: nothing is at {bucket}/gone")) as refused:
        check_places(job)
    assert f"output={tmp_path}/file/scores: {tmp_path}/file cannot be written to" in str(refused.value)
    assert f"section.start={PROJECT}/no/model: model " in str(refused.value)
    assert f"section.chats={tmp_path}/gone: nothing is at" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_storage_is_refused_like_a_place_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="input=ftp://x/y: ftp://x/y: unknown storage ftp://"):
        check_places(Job(input="ftp://x/y"))


def test_a_folder_that_a_job_works_in_is_of_this_machine() -> None:
    class Work(Settings):
        work: OutputPath = "var/work"

    with pytest.raises(ValueError, match=r"expected a path on the disk of the machine .*, found s3://bucket/work"):
        Work(work="s3://bucket/work")
    assert [one.place.verb for one in places_of(Work())] == ["writes"]


def test_what_the_store_would_refuse_is_found_out_before_the_work(
    bucket: str, s3_server: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{bucket}/in/a.csv", b"x")
    begun: list[Settings] = []

    def status(output: str, *flags: str) -> int | str | None:
        with pytest.raises(SystemExit) as left:
            run_job(begun.append, Job, arguments=[f"input={bucket}/in", f"output={output}", *flags])
        return left.value.code

    for flags in ((), ("--dry-run",)):
        monkeypatch.setattr(s3_server, "writes_left", 0)
        assert status(f"{bucket}/out", *flags) == 2
        assert f"output={bucket}/out: {bucket}/out: the storage refused" in capsys.readouterr().err
        monkeypatch.setattr(s3_server, "writes_left", float("inf"))
        assert status("s3://no-such-bucket/out", *flags) == 2
        assert "output=s3://no-such-bucket/out: s3://no-such-bucket/out: The specified bucket does not exist" in (
            capsys.readouterr().err
        )
    assert not begun
    run_job(begun.append, Job, arguments=[f"input={bucket}/in", f"output={bucket}/out"])
    assert len(begun) == 1
    filesystem, name = storage.open_filesystem(bucket)
    assert not filesystem.call_s3("list_multipart_uploads", Bucket=name).get("Uploads")
    assert [file.url for file in storage.list_files(bucket)] == [f"{bucket}/in/a.csv"]


def test_a_path_below_home_is_there_and_a_cache_is_of_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work(Settings):
        work: OutputPath = "~/work"
        cache_dir: CachePath = "~/cache"

    monkeypatch.setenv("HOME", "/home/somebody")
    assert (Work().work, Work().cache_dir) == ("/home/somebody/work", "~/cache")
    with pytest.raises(ValueError, match=r"cache_dir.*expected a path on the disk .*, found s3://bucket/cache"):
        load_settings(Work, ["cache_dir=s3://bucket/cache"])


class Judge(Settings):
    kind: str = "local"
    local: Section = Section()

    def unused(self) -> set[str]:
        return {"local"} if self.kind == "server" else set()


class Asking(Settings):
    examples: AsideUrl | None = None
    judge: Judge = Judge()


def test_what_other_settings_leave_without_a_meaning_need_not_be_there() -> None:
    gone = Section(start="no/such")
    assert [one.setting for one in places_of(Asking(judge=Judge(local=gone)))] == ["judge.local.start"]
    assert not list(places_of(Asking(judge=Judge(kind="server", local=gone))))


def test_what_is_read_beside_the_input_is_missed_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Settings] = []
    with pytest.raises(SystemExit) as left:
        run_job(begun.append, Asking, arguments=[f"examples={tmp_path}/gone"])
    assert (left.value.code, begun) == (2, [])
    assert f"error: examples={tmp_path}/gone: nothing is at {tmp_path}/gone: give a file" in capsys.readouterr().err
    run_job(begun.append, Asking, arguments=[f"examples={tmp_path}"])
    assert len(begun) == 1
