"""Chats without labels, as timelines, for a text encoder to learn the language from.

Read from files, each line one of
    an event, bare or wrapped as `{"event": …}`    a market's own past cancellations (.jsonl, .parquet)
    {"turns": [{"role": …, "content": …}, …]}       a dialogue; `agent` and `seller` speak for the shop (.jsonl)
    a message                                       plain text (.txt)
each maybe compressed; or drawn from the simulation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from cancellation.events.clean_text import clean_text
from cancellation.events.event import parse_event
from cancellation.events.fields import EventError
from cancellation.events.files import ENDINGS, check_columns, is_table
from cancellation.events.table import batch_rows, event_of_row
from cancellation.text.timeline import BUYER, SELLER, Segment, Timeline, timeline
from cluster.sharded.compression import plain_name
from cluster.sharded.input_files import data_files, open_input, text_lines

logger = logging.getLogger(__name__)

_ENDINGS = (*ENDINGS, ".txt")
_SHOP = frozenset(("agent", "seller", "assistant"))


def chat_files(url: str) -> list[str]:
    """List the files of a location that hold chats.

    Raises:
        ValueError: If there are none.
    """
    files, others = data_files(url, _ENDINGS)
    if others:
        logger.warning("%s: passed over: %s", url, ", ".join(others))
    return [file.url for file in files]


def read_chats(url: str, *, part: int = 0, num_parts: int = 1) -> Iterator[Timeline]:
    """Read every `num_parts`-th chat of a file, from the `part`-th on.

    Raises:
        ValueError: If a line is not in one of the forms, naming the file and the line.
    """
    with open_input(url, "chats") as stream:
        if is_table(url):
            parquet = pq.ParquetFile(stream)
            if parquet.metadata.num_rows:
                check_columns(url, parquet.schema_arrow.names, ())
            rows = (row for batch in parquet.iter_batches() for row in batch_rows(batch))
            for number, row in islice(enumerate(rows, 1), part, None, num_parts):
                try:
                    yield timeline(event_of_row(row))
                except EventError as error:
                    raise ValueError(f"{url} row {number}: {error}") from None
            return
        plain = plain_name(url).endswith(".txt")
        for number, line in enumerate(text_lines(url, stream)):
            if number % num_parts != part or not line.strip():
                continue
            try:
                chat = _message(line.decode().rstrip("\r\n")) if plain else _chat(json.loads(line))
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
