"""Labelled events read from files in the form of the reviewed cases, without a simulator."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cancellation.events.event import Event, parse_event
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.events.fields import EventError, type_name
from cancellation.events.files import ENDINGS, is_sampling_weight, is_table
from cancellation.events.table import EVENT_SCHEMA, event_of_row
from cluster.sharded.input_files import data_files, json_lines, open_input, plain_name

logger = logging.getLogger(__name__)

_OF_EXAMPLE = {"event", "label", "label_factors", *EVENT_SCHEMA.names}


@dataclass(frozen=True, slots=True)
class Example:
    """An event with what a model should say about it.

    `factors` is None where nobody looked for them, which is not the same as finding none. `message_acts` names what
    each chat message is (several apart by a space), where a simulation knows it.
    """

    event: Event
    label: str
    factors: tuple[str, ...] | None
    message_acts: tuple[str, ...] = ()
    weight: float = 1.0
    """What it counts in training; a model's label less than a person's."""
    sampling_weight: float | None = None
    """How many cancellations it stands for, in a weighted sample; it counts for as many in training too."""


def check_label(label: Any, factors: Any, where: str) -> tuple[str, tuple[str, ...] | None]:
    """Check a label and its factors; None where there are none written, an empty list says that there were none.

    Raises:
        ValueError: If the label is none of the classes, or a factor none of the contract's codes.
    """
    if label not in VERDICTS:
        found = repr(label)[:60]
        raise ValueError(f"{where}: expected label to be one of {', '.join(VERDICTS)}, found {found}; correct it")
    if factors is None:
        return label, None
    if not isinstance(factors, list | tuple):
        raise ValueError(
            f"{where}: expected label_factors to be a list of codes, found {type_name(factors)}; correct it"
        )
    codes = tuple(factors)
    unknown = sorted(set(map(str, codes)) - set(FACTORS))
    if unknown:
        raise ValueError(f"{where}: expected label_factors of the contract, found {', '.join(unknown)[:200]}")
    return label, codes


def example_files(url: str) -> list[str]:
    """List the JSONL and parquet files of a location, itself one or a folder of them.

    Raises:
        ValueError: If there are none.
    """
    if plain_name(url).endswith(ENDINGS):
        return [url]
    files, others = data_files(url, ENDINGS)
    if others:
        logger.warning("%s: passed over: %s", url, ", ".join(others))
    return [file.url for file in files]


def read_examples(url: str) -> Iterator[Example]:
    """Read a JSONL file of `{"event": …, "label": …, "label_factors": […]}` lines, or a parquet file of such rows.

    A row of `jobs.cancellation_label` that has an error has no label and is passed over.

    Raises:
        ValueError: If an event or a label is refused, naming the file and the line.
    """
    return (example for example, _ in read_labelled_rows(url))


def read_labelled_rows(url: str) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Read what `read_examples` reads, and beside each example whatever else its line, or row, says of it.

    Raises:
        ValueError: As there.
    """
    for number, (event, labels) in enumerate(_rows(url), 1):
        where = f"{url} line {number}"
        if labels.get("error") is not None:
            continue
        label, factors = check_label(labels.get("label"), labels.get("label_factors"), where)
        try:
            parsed = event_of_row(event) if is_table(url) else parse_event(event)
        except EventError as error:
            raise ValueError(f"{where}: {error}") from None
        others = {name: value for name, value in labels.items() if name not in _OF_EXAMPLE}
        weights = _weight(labels.get("label_weight"), where), _sampling_weight(labels.get("sampling_weight"), where)
        yield Example(parsed, label, factors, (), *weights), others


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{where}: expected label_weight from 0 to 1; correct it, or leave it out")
    return float(value)


def _sampling_weight(value: Any, where: str) -> float | None:
    if value is not None and not is_sampling_weight(value):
        raise ValueError(f"{where}: expected a sampling_weight above 0; correct it, or leave it out")
    return value


def _rows(url: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    with open_input(url, "events") as stream:
        if is_table(url):
            for batch in pq.ParquetFile(stream).iter_batches():
                for row in batch.to_pylist():
                    yield row, row
            return
        for number, line in json_lines(url, stream):
            try:
                row = json.loads(line)
                pair = row["event"], row
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{url} line {number}: expected a JSON object with event and label") from None
            yield pair
