import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from cluster import storage
from cluster.sharded.input_files import open_input
from tests.conftest import PROJECT
from tests.servers.s3 import S3Server


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "f") if request.param == "local" else request.getfixturevalue("bucket") + "/f"


def test_bytes_come_back(folder: str) -> None:
    storage.write_bytes(f"{folder}/a.bin", b"0123456789")
    storage.write_bytes(f"{folder}/deep/b.bin", b"abc")
    assert storage.read_bytes(f"{folder}/a.bin") == b"0123456789"
    assert storage.read_ranges([f"{folder}/a.bin", f"{folder}/deep/b.bin"], [2, 1], [5, 3]) == [b"234", b"bc"]
    listed = storage.list_files(folder, suffix=".bin")
    assert [(file.url, file.size_bytes) for file in listed] == [(f"{folder}/a.bin", 10), (f"{folder}/deep/b.bin", 3)]
    assert storage.list_files(f"{folder}/a.bin")[0].size_bytes == 10
    assert storage.list_files(f"{folder}/nothing") == []


def test_version_changes_with_content(folder: str) -> None:
    storage.write_bytes(f"{folder}/a", b"one")
    before = storage.list_files(folder)
    storage.write_bytes(f"{folder}/a", b"two")
    assert storage.list_files(folder)[0].version != before[0].version


def test_exactly_one_of_many_creators_wins(folder: str) -> None:
    wins: list[bytes] = []
    start = threading.Barrier(8)

    def create(content: bytes) -> None:
        start.wait()
        if storage.create_exclusive(f"{folder}/manifest", content):
            wins.append(content)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wins == [storage.read_bytes(f"{folder}/manifest")]


def test_copy_and_remove(folder: str) -> None:
    storage.write_bytes(f"{folder}/a", b"x")
    storage.copy_files([f"{folder}/a"], [f"{folder}/b"])
    assert storage.read_bytes(f"{folder}/b") == b"x"
    storage.remove(f"{folder}/a")
    storage.remove(f"{folder}/a")
    assert not storage.exists(f"{folder}/a")


def test_a_missing_file_is_a_file_not_found_error(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{folder}/none")


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gs://x: unknown storage gs://, expected a local path or s3://bucket/key"):
        storage.open_filesystem("gs://x")


@pytest.mark.parametrize("status", [500, 503])
def test_requests_outlive_a_store_that_is_briefly_away(s3_server: S3Server, bucket: str, status: int) -> None:
    with s3_server.fail("PUT", "/away$", status=status, times=3) as fault:
        storage.write_bytes(f"{bucket}/away", b"x")
    assert fault.times == 0
    with s3_server.fail("GET", "/away$", status=status, times=2):
        assert storage.read_bytes(f"{bucket}/away") == b"x"


def test_a_creator_whose_answer_was_lost_still_knows_that_it_won(s3_server: S3Server, bucket: str) -> None:
    with s3_server.fail("PUT", "/manifest$", status=500, times=1, apply=True):
        assert storage.create_exclusive(f"{bucket}/manifest", b"mine")
    assert not storage.create_exclusive(f"{bucket}/manifest", b"other")
    assert storage.read_bytes(f"{bucket}/manifest") == b"mine"


def test_remote_folders_are_fetched_once_per_content(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/m/config.json", b"{}")
    storage.write_bytes(f"{bucket}/m/w.safetensors", b"1")
    light = Path(storage.fetch_folder(f"{bucket}/m", str(tmp_path), skip_suffix=".safetensors"))
    assert [path.name for path in light.iterdir()] == ["config.json"]
    first = storage.fetch_folder(f"{bucket}/m", str(tmp_path))
    asked = len(s3_server.requests)
    assert storage.fetch_folder(f"{bucket}/m", str(tmp_path)) == first
    assert not any(path.endswith("w.safetensors") for _, path in s3_server.requests[asked:])
    storage.write_bytes(f"{bucket}/m/w.safetensors", b"2")
    second = Path(storage.fetch_folder(f"{bucket}/m", str(tmp_path)))
    assert (second / "w.safetensors").read_bytes() == b"2"


@pytest.mark.parametrize("apply", [False, True], ids=["nobody was first", "a request of before was applied"])
def test_a_creation_that_meets_another_is_tried_again(bucket: str, s3_server: S3Server, apply: bool) -> None:
    with s3_server.fail("PUT", "manifest", status=409, times=3, apply=apply):
        assert storage.create_exclusive(f"{bucket}/manifest", b"mine")
    assert not storage.create_exclusive(f"{bucket}/manifest", b"theirs")
    assert storage.read_bytes(f"{bucket}/manifest") == b"mine"


def test_local_paths_become_absolute_and_are_shown_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute_url("var/scores/") == f"{tmp_path}/var/scores"
    assert storage.short_url(f"{tmp_path}/var/scores") == "var/scores"
    assert (
        storage.absolute_url("s3://bucket/scores/") == storage.short_url("s3://bucket/scores") == "s3://bucket/scores"
    )


ODD_NAMES = ("scores?", "score[s]", "score*", "a b+c&d=e", "100%25", "ü #1", "{x}", "~x", "a:b")
"""Names that somewhere would be patterns, queries or escapes."""


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_an_odd_name_is_a_name_in_every_function(folder: str, odd: str, tmp_path: Path) -> None:
    neighbours = {f"{folder}/{name}/kept": b"kept" for name in ("scores", "scoresx", "scored", "100%", "ax")}
    for url, content in neighbours.items():
        storage.write_bytes(url, content)
    base = f"{folder}/{odd}"
    assert not storage.exists(base)
    assert storage.list_files(base) == []
    storage.remove(base)
    storage.write_bytes(f"{base}/one", b"1")
    assert storage.create_exclusive(f"{base}/{odd}", b"22")
    assert not storage.create_exclusive(f"{base}/{odd}", b"other")
    assert storage.exists(base)
    assert storage.exists(f"{base}/{odd}")
    assert {file.url: file.size_bytes for file in storage.list_files(base)} == {f"{base}/one": 1, f"{base}/{odd}": 2}
    assert [file.url for file in storage.list_files(f"{base}/{odd}")] == [f"{base}/{odd}"]
    storage.copy_files([f"{base}/{odd}"], [f"{base}/{odd}.copy"])
    assert storage.read_bytes(f"{base}/{odd}.copy") == storage.read_bytes(f"{base}/{odd}") == b"22"
    assert storage.read_ranges([f"{base}/{odd}"], [1], [2]) == [b"2"]
    fetched = Path(storage.fetch_folder(base, str(tmp_path / "cache"), skip_suffix=".copy"))
    assert (fetched / odd).read_bytes() == b"22"
    storage.send_folder(fetched, f"{base} sent")
    assert storage.read_bytes(f"{base} sent/{odd}") == b"22"
    storage.remove_files([file.url for file in storage.list_files(f"{base} sent")])
    assert storage.list_files(f"{base} sent") == []
    storage.remove(f"{base}/{odd}")
    assert [file.url for file in storage.list_files(base)] == sorted([f"{base}/one", f"{base}/{odd}.copy"])
    storage.remove(base)
    assert storage.list_files(base) == []
    assert {url: storage.read_bytes(url) for url in neighbours} == neighbours


def test_what_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import resource; from cluster import storage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"storage.write_bytes({str(tmp_path / 'file')!r}, b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_links_of_a_disk_are_what_they_lead_to(tmp_path: Path) -> None:
    for name in ("in/a", "elsewhere/b", "elsewhere/deep/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "in" / "file").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "nowhere").symlink_to(tmp_path / "gone")
    found = {file.url.removeprefix(f"{tmp_path}/in/"): file for file in storage.list_files(str(tmp_path / "in"))}
    assert list(found) == ["a", "file", "folder/b", "folder/deep/c", "nowhere"]
    assert [file.size_bytes for file in found.values()] == [4, 11, 11, 16, 0]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(found["nowhere"].url)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "in")
    with pytest.raises(OSError, match="in/folder/up: a link to a folder that it lies in: remove the link"):
        storage.list_files(str(tmp_path / "in"))


def test_a_folder_that_may_not_be_read_is_not_left_out(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as root:  # tmp_path is readable by its owner alone
        Path(root).chmod(0o755)
        (Path(root) / "market=ID").mkdir()
        (Path(root) / "market=ID" / "a").touch()
        (Path(root) / "market=ID").chmod(0)
        user = os.geteuid()
        try:
            os.seteuid(user or 65534)  # root may read everything
            with pytest.raises(PermissionError, match=r"market=ID: cannot be read .*: give this user the right"):
                storage.list_files(root)
        finally:
            os.seteuid(user)
            (Path(root) / "market=ID").chmod(0o755)


def test_a_folder_that_a_console_made_is_no_file(bucket: str) -> None:
    filesystem, name = storage.open_filesystem(bucket)
    filesystem.call_s3("put_object", Bucket=name, Key="day/")
    assert storage.list_files(f"{bucket}/day") == []
    storage.write_bytes(f"{bucket}/day/a", b"x")
    assert [file.url for file in storage.list_files(f"{bucket}/day")] == [f"{bucket}/day/a"]


def test_what_a_store_refuses_is_named_by_place(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/a.bin"
    storage.write_bytes(url, b"abc")
    calls: list[Callable[[str], object]] = [
        storage.read_bytes,
        storage.list_files,
        lambda url: storage.write_bytes(url, b""),
        lambda url: storage.create_exclusive(f"{url}.new", b""),
        lambda url: storage.copy_files([url], [f"{url}.copy"]),
        lambda url: storage.read_ranges([url], [0], [1]),
    ]
    for call in calls:
        with (
            s3_server.fail("PUT", "", status=403, times=9),
            s3_server.fail("GET", "", status=403, times=9),
            pytest.raises(
                PermissionError, match=rf"{re.escape(url)}.*: the storage refused \(injected\): give, or renew"
            ),
        ):
            call(url)
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket/a: The specified bucket .*: create the bucket"):
        storage.write_bytes("s3://no-such-bucket/a", b"")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{url}.none")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(
            PermissionError, match=rf"{re.escape(url)}: the storage refused \(Unable to locate credentials"
        ):
            storage.read_bytes(url)
        with (
            pytest.raises(RuntimeError, match=rf"{re.escape(url)}: the storage refused to read it .*: renew"),
            open_input(url, "csv"),
        ):
            raise AssertionError("it was opened")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_key_that_ends_in_a_slash_and_has_content_is_not_left_out(bucket: str) -> None:
    s3fs.S3FileSystem().pipe_file(f"{bucket}/day/a.csv/", b"content")
    assert [file.size_bytes for file in storage.list_files(f"{bucket}/day")] == [7]


@pytest.mark.parametrize("key", ["/weights.bin", "sub/", "sub//weights.bin"])
def test_keys_that_would_be_one_file_on_a_disk_are_refused_when_a_folder_is_fetched(
    bucket: str, tmp_path: Path, key: str
) -> None:
    for name in ("weights.bin", "sub/weights.bin", key):
        s3fs.S3FileSystem().pipe_file(f"{bucket}/model/{name}", name.encode())
    with pytest.raises(ValueError, match=rf"/model/{key}: no name of a file on a disk: remove it, or write it"):
        storage.fetch_folder(f"{bucket}/model", str(tmp_path))


@pytest.mark.parametrize("name", ["s3:/bucket/x", "s3:bucket/x", "s3://", "s3:///x", "s3://bucket//x"])
def test_what_is_nearly_a_name_in_s3_is_refused(name: str) -> None:
    """Taken for a path it is a folder `s3:` of this machine; with two slashes it is written where no listing looks."""
    for use in (storage.list_files, storage.read_bytes, lambda url: storage.write_bytes(url, b"x")):
        with pytest.raises(ValueError, match=r"expected s3://bucket/key, found too few slashes or too many"):
            use(name)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(bucket: str) -> None:
    assert storage.list_files(bucket) == storage.list_files(f"{bucket}/none") == []
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket/a: .*: create the bucket, or give another"):
        storage.list_files("s3://no-such-bucket/a")


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("AWS_PROFILE", "nobody", "(nobody) could not be found): AWS_PROFILE has to name a profile"),
        ("AWS_CONFIG_FILE", "broken", "broken): mend that file, or name another in AWS_CONFIG_FILE"),
        ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint: nonsense: AWS_ENDPOINT_URL has to be an address"),
    ],
)
def test_how_this_machine_reaches_the_store_is_mended_not_tried_again(
    variable: str, value: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").write_text("[broken")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(variable, str(tmp_path / value) if variable == "AWS_CONFIG_FILE" else value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises((PermissionError, ValueError), match=re.escape(remedy)) as failed:
            storage.list_files("s3://bucket/folder")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert str(failed.value).startswith("s3://bucket/folder: ")
    assert "run it again" not in str(failed.value)


def test_a_page_of_a_proxy_is_not_taken_for_the_store(tmp_path: Path, bucket: str, s3_server: S3Server) -> None:
    """Neither where a file is sent, nor where a folder is, or a file is copied or removed."""
    (tmp_path / "model.json").write_text("{}")
    storage.write_bytes(f"{bucket}/here", b"x")
    for does in (
        lambda: storage.write_bytes(f"{bucket}/there", b"x"),
        lambda: storage.send_folder(tmp_path, f"{bucket}/there"),
        lambda: storage.copy_files([f"{bucket}/here"], [f"{bucket}/there"]),
    ):
        with s3_server.fail("PUT", "", status=200, times=99), pytest.raises(OSError, match="expected a"):
            does()
    for removes in (lambda: storage.remove(bucket), lambda: storage.remove_files([f"{bucket}/here"])):
        with s3_server.fail("DELETE", "", status=200, times=99), pytest.raises(OSError, match="found it there"):
            removes()
    assert [file.url for file in storage.list_files(bucket)] == [f"{bucket}/here"]
