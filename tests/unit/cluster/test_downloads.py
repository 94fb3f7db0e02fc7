"""Several processes that want one folder: one downloads, nobody sees half of it, a killed one leaves nothing behind."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.downloads import fetch_once

CONTENT = b"weights"


def test_of_many_at_once_one_downloads(tmp_path: Path) -> None:
    target, together, downloads = tmp_path / "cache" / "model", threading.Barrier(8), []

    def download(folder: Path) -> None:
        downloads.append(folder)
        assert not target.exists(), "nobody sees it before it is whole"
        (folder / "a").write_bytes(CONTENT)
        (folder / "b").write_bytes(CONTENT)

    def fetch(_: int) -> list[str]:
        together.wait()
        return sorted(path.name for path in fetch_once(target, download).iterdir())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fetch, range(8))) == [["a", "b"]] * 8
    assert len(downloads) == 1


def test_what_a_broken_download_left_is_neither_used_nor_kept(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def lose_the_connection(folder: Path) -> None:
        (folder / "a").write_bytes(CONTENT[:2])
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError):
        fetch_once(target, lose_the_connection)
    assert not target.exists()
    fetched = fetch_once(target, lambda folder: (folder / "a").write_bytes(CONTENT))
    assert (fetched / "a").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.lock"]


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, flushed, flush = tmp_path / "model", set(), os.fsync

    def noted(descriptor: int) -> None:
        assert not target.exists()
        flushed.add(os.fstat(descriptor).st_ino)
        flush(descriptor)

    def download(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(CONTENT)
        (folder / "b").write_bytes(CONTENT)

    monkeypatch.setattr(os, "fsync", noted)
    fetch_once(target, download)
    assert {path.stat().st_ino for path in (target, *target.rglob("*"))} <= flushed


def test_what_is_not_whole_is_thrown_away_and_fetched_once(tmp_path: Path) -> None:
    target, downloads = tmp_path / "model", []
    target.mkdir()
    (target / "a").write_bytes(b"")
    (target / "of another day").write_bytes(b"")

    def download(folder: Path) -> None:
        downloads.append(folder)
        (folder / "a").write_bytes(CONTENT)

    for _ in range(2):
        fetch_once(target, download, whole=lambda folder: (folder / "a").read_bytes() == CONTENT)
    assert [path.name for path in target.iterdir()] == ["a"]
    assert len(downloads) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.lock"]
