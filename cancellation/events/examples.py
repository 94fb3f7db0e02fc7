"""Labelled events read from files in the form of the reviewed cases, without a simulator."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cancellation.events.event import Event, parse_event
from cancellation.events.factors import FACTORS, VERDICTS
from cancellation.events.fields import EventError, decode_json, type_name
from cancellation.events.files import ENDINGS, check_columns, is_sampling_weight, is_table
from cancellation.events.table import EVENT_SCHEMA, batch_rows, event_of_row, plain_number
from cluster.sharded.compression import plain_name
from cluster.sharded.input_files import data_files, json_lines, open_input

logger = logging.getLogger(__name__)

_OF_EXAMPLE = {"event", "label", "label_factors", *EVENT_SCHEMA.names}
_READ_BESIDE = ("label", "label_factors", "label_weight", "sampling_weight", "error")


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

    @property
    def counts(self) -> float:
        """What it counts in training, all in all."""
        return self.weight * (self.sampling_weight or 1.0)


def check_label(label: Any, factors: Any, where: str) -> tuple[str, tuple[str, ...] | None]:
    """Check a label and its factors; None where there are none written, an empty list says that there were none.

    Raises:
        ValueError: If the label is none of the classes, or a factor none of the contract's codes.
    """
    if label not in VERDICTS:
        found = "none; label the row, or leave it out" if label is None else "another; correct it"
        raise ValueError(f"{where}: expected label to be one of {', '.join(VERDICTS)}, found {found}")
    if factors is None:
        return label, None
    if not isinstance(factors, list | tuple):
        raise ValueError(
            f"{where}: expected label_factors to be a list of codes, found {type_name(factors)}; correct it"
        )
    codes = tuple(factors)
    if any(not isinstance(code, str) or code not in FACTORS for code in codes):
        raise ValueError(f"{where}: expected label_factors of the contract, found another; correct it")
    return label, codes


def refuse_twice(examples: Sequence[Example], source: str, *, agreeing: bool = True) -> None:
    """Refuse events that are labelled twice: both labels would count, whichever is right.

    Raises:
        ValueError: If there are any; with `agreeing=False` only if two labels of one differ.
    """
    first: dict[tuple[str, str], str] = {}
    twice = []
    for one in examples:
        key = one.event.market, one.event.event_id
        if key in first and (agreeing or first[key] != one.label):
            twice.append(one.event.event_id)
        first.setdefault(key, one.label)
    if twice:
        how = "" if agreeing else " and differently"
        raise ValueError(
            f"{source}: {len(twice):,} events are labelled twice{how}, such as {twice[0]}; keep one of their rows"
        )


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

    A row of `jobs.cancellation_label` that has an error has no label: it is passed over, and counted in the log.

    Raises:
        ValueError: If an event or a label is refused, or a row has none, naming the file and the line.
    """
    return (example for example, _ in read_labelled_rows(url))


def read_labelled_rows(url: str) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Read what `read_examples` reads, and beside each example whatever else its line, or row, says of it.

    Raises:
        ValueError: As there.
    """
    read = failed = 0
    for number, event, labels in _rows(url):
        where = f"{url} line {number}"
        read += 1
        if labels.get("error") is not None:
            failed += 1
            continue
        label, factors = check_label(labels.get("label"), labels.get("label_factors"), where)
        try:
            parsed = event_of_row(event) if is_table(url) else parse_event(event)
        except EventError as error:
            raise ValueError(f"{where}: {error}") from None
        others = {name: value for name, value in labels.items() if name not in _OF_EXAMPLE}
        weight, sampling_weight = (plain_number(labels.get(name)) for name in ("label_weight", "sampling_weight"))
        weights = _weight(weight, where), _sampling_weight(sampling_weight, where)
        yield Example(parsed, label, factors, (), *weights), others
    if failed:
        logger.warning("%s: %d of %d rows have an error and are passed over", url, failed, read)


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


def _rows(url: str) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Give each row's number, counted from 1, blank lines among them; its event; and all that it says."""
    with open_input(url, "events") as stream:
        if is_table(url):
            parquet = pq.ParquetFile(stream)
            if parquet.metadata.num_rows:
                check_columns(url, parquet.schema_arrow.names, _READ_BESIDE)
            rows = (row for batch in parquet.iter_batches() for row in batch_rows(batch))
            for number, row in enumerate(rows, 1):
                yield number, row, row
            return
        for number, line in json_lines(url, stream):
            try:
                row = decode_json(line)
            except EventError as error:
                raise ValueError(f"{url} line {number}: {error}") from None
            if not isinstance(row, dict) or "event" not in row:
                raise ValueError(f"{url} line {number}: expected a JSON object with event and label")
            yield number, row["event"], row
