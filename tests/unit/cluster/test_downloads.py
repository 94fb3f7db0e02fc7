"""Several processes that want one folder: one downloads, nobody sees half of it, a killed one leaves nothing behind."""

from __future__ import annotations

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
