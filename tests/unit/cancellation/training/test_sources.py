"""Files to learn from: endings in any spelling, marks and rare line ends lose no line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cancellation.events.examples import example_files
from cancellation.events.files import find_event_shards, passed_over, read_event_rows
from cancellation.training.unlabelled_chats import chat_files, read_chats

_CHAT = {"turns": [{"role": "buyer", "content": "where\u2028is it?"}, {"role": "seller", "content": "on its way"}]}
_LINE = json.dumps(_CHAT, ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.jsonl.gz", "a.json"])
def test_chats_of_any_spelling_are_read_whole(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbf" + 3 * _LINE
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "notes.xlsx").touch()
    (file,) = chat_files(str(tmp_path))
    assert len(list(read_chats(file))) == 3
    assert len(example_files(str(tmp_path))) == 1


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.jsonl.gz"])
def test_events_of_any_spelling_have_a_row_per_line(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbf" + 3 * b"{}\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "notes.xlsx").touch()
    rows = [row for shard in find_event_shards(str(tmp_path), shard_bytes=1) for row in read_event_rows(shard)]
    assert [row.place for row in rows] == [f"{name}:{number}" for number in (1, 2, 3)]
    assert len({row.error for row in rows}) == 1  # the mark makes no other error of the first
    assert passed_over(str(tmp_path)) == ["notes.xlsx"]
