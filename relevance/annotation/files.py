"""Files that people fill in and give back: CSV sheets, and exports of Label Studio."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import storage
from cluster.annotation.label_studio import name_people
from cluster.sharded.delimited import DelimitedTable
from cluster.sharded.input_files import files_from_people, refuse_repeated_column
from relevance.annotation.annotation import Annotation, show_pair
from relevance.annotation.label_studio import read_export
from relevance.labels import parse_label

TASK_COLUMNS = ("query_id", "product_id", "query", "title", "details", "round", "guideline_version", "annotator")
"""What a task carries, in a sheet and in Label Studio alike. Nothing of it tells a gold pair from another."""

SHEET_COLUMNS = (*TASK_COLUMNS, "label", "comment", "annotated_at")
"""A sheet: a task per line, the last three for people to fill in."""

_REQUIRED = ("query_id", "product_id", "label", "annotator", "round", "guideline_version")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class AnnotationFiles:
    """What was read."""

    annotations: list[Annotation]
    names: tuple[str, ...]
    """Of the files that were read."""


def write_sheet(tasks: Iterable[Mapping[str, str]]) -> bytes:
    """Write tasks as CSV for a spreadsheet (UTF-8 with a mark, which Excel needs).

    A text that a spreadsheet would take for a formula gets an apostrophe in front: sellers write titles. Keys stay.
    """
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, SHEET_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for task in tasks:
        shown = {name: harmless(task[name]) if name in ("query", "title", "details") else task[name] for name in task}
        writer.writerow({"label": "", "comment": "", "annotated_at": "", **shown})
    return b"\xef\xbb\xbf" + buffer.getvalue().encode()


def harmless(text: str) -> str:
    """Keep a spreadsheet from running a text as a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def read_annotations(urls: Sequence[str], *, people: Mapping[str, str] | None = None) -> AnnotationFiles:
    """Read annotations from .csv sheets and .json exports: files, or folders of such files alone.

    Args:
        urls: Where.
        people: Names of Label Studio's users, by e-mail or number. A project that was made for one person needs
            none: its tasks say whose they are.

    Raises:
        ValueError: If a file cannot be read or is of another kind, a column is missing or a label is none of the four;
            file and line named.
    """
    files = files_from_people(urls, (".csv", ".json"))
    annotations: list[Annotation] = []
    for file in files:
        name, content = file.url.rpartition("/")[2], storage.read_bytes(file.url)
        if name.lower().endswith(".csv"):
            rows = [row for row in read_rows(content, name, _REQUIRED) if row["label"]]
        else:
            rows = read_export(content, name=name)
            given = [(row.get("annotator") or "", row["user"]) for row in rows]
            for row, person in zip(rows, name_people(given, people or {}, name=name), strict=True):
                row["annotator"] = person
        annotations += [_annotation(row, name, number) for number, row in enumerate(rows, start=1)]
    return AnnotationFiles(annotations, tuple(file.url for file in files))


def read_rows(content: bytes, name: str, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV's lines as texts, blanks trimmed; the separator is found (spreadsheets of many countries write ";").

    A cell of nothing (`\\N`) is a blank one.

    Raises:
        ValueError: If it is no UTF-8, a required column is missing or twice there, or a line is none of the table's.
    """
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{name}: not UTF-8: save it as CSV UTF-8") from None
    table = DelimitedTable(name, io.BytesIO(content), wanted=required)
    columns = table.names
    missing = [column for column in required if column not in columns]
    if missing:
        raise ValueError(f"{name}: missing column {', '.join(missing)}; found {', '.join(columns) or 'none'}")
    for column in required:
        refuse_repeated_column(name, column, columns)
    records = list(table.records())
    if wrong := [record.error for record in records if record.error]:
        raise ValueError(f"{name}: {wrong[0]} ({len(wrong)} such lines): correct them")
    return [
        {column: (cell or b"").decode().strip() for column, cell in zip(columns, record.cells, strict=True)}
        for record in records
    ]


def _annotation(row: Mapping[str, Any], name: str, number: int) -> Annotation:
    missing = [column for column in _REQUIRED if not str(row.get(column) or "").strip()]
    where = f"{name}: annotation {number}"
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} is blank or missing: tasks made by relevance_annotate have it")
    pair = show_pair((row["query_id"], row["product_id"]))
    try:
        label = parse_label(row["label"])
    except ValueError as error:
        raise ValueError(f"{where}, pair {pair}, annotator {row['annotator']!r}: {error}") from None
    return Annotation(
        query_id=row["query_id"],
        product_id=row["product_id"],
        label=label,
        annotator=row["annotator"],
        round=str(row["round"]),
        guideline_version=row["guideline_version"],
        annotated_at=row.get("annotated_at") or "",
        comment=row.get("comment") or "",
        source=name,
    )
