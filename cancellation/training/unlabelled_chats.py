"""Chats without labels, as timelines, for a text encoder to learn the language from.

Read from files, each line one of
    an event, bare or wrapped as `{"event": …}`    a market's own past cancellations (.jsonl, .parquet)
    {"turns": [{"role": …, "content": …}, …]}       a dialogue; `agent` and `seller` speak for the shop (.jsonl)
    a message                                       plain text (.txt)
each maybe gzipped; or drawn from the simulation.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from cancellation.events.clean_text import clean_text
from cancellation.events.event import parse_event
from cancellation.events.table import event_of_row
from cancellation.text.timeline import BUYER, SELLER, Segment, Timeline, timeline
from cluster.storage import list_files, read_bytes

_SUFFIXES = (".jsonl", ".txt", ".parquet", ".jsonl.gz", ".txt.gz")
_SHOP = frozenset(("agent", "seller", "assistant"))


def chat_files(url: str) -> list[str]:
    """List the files of a location that hold chats.

    Raises:
        ValueError: If there are none.
    """
    files = [file.url for file in list_files(url) if file.url.endswith(_SUFFIXES)]
    if not files:
        raise ValueError(f"chats {url}: expected files that end in {', '.join(_SUFFIXES)}, found none")
    return files


def read_chats(url: str, *, part: int = 0, num_parts: int = 1) -> Iterator[Timeline]:
    """Read every `num_parts`-th chat of a file, from the `part`-th on.

    Raises:
        ValueError: If a line is not in one of the forms, naming the file and the line.
    """
    content = read_bytes(url)
    if url.endswith(".parquet"):
        rows = (row for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches() for row in batch.to_pylist())
        yield from (timeline(event_of_row(row)) for number, row in enumerate(rows) if number % num_parts == part)
        return
    lines = (gzip.decompress(content) if url.endswith(".gz") else content).decode().splitlines()
    plain = url.removesuffix(".gz").endswith(".txt")
    for number in range(part, len(lines), num_parts):
        if not lines[number].strip():
            continue
        try:
            chat = _message(lines[number]) if plain else _chat(json.loads(lines[number]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{url} line {number + 1}: expected an event or a dialogue with turns") from None
        if chat.segments:
            yield chat


def _chat(line: dict[str, Any]) -> Timeline:
    if "turns" not in line:
        return timeline(parse_event(line.get("event", line)))
    turns = ((SELLER if turn["role"] in _SHOP else BUYER, clean_text(turn["content"])) for turn in line["turns"])
    return Timeline(tuple(Segment(kind, text, 0.0) for kind, text in turns if text))


def _message(line: str) -> Timeline:
    text = clean_text(line)
    return Timeline((Segment(BUYER, text, 0.0),) if text else ())
