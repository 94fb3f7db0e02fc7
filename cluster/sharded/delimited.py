"""Tables as text with a separator (CSV), record by record: no line is lost, whatever quotes it opens.

A quoted value may hold line ends, so a quote that nobody closes swallows what follows it up to the next quote. Here a
record of several lines is believed only if its quotes are well formed, its width is the header's, and the lines in it
do not look like records of their own; else they come back as lines, with an error where they cannot be read.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from cluster.sharded.input_files import text_lines

SEPARATORS = {b",": "comma", b"\t": "tab", b";": "semicolon", b"|": "bar", b"\x01": "\\x01"}
"""What may stand between columns; the one in a file is found by its header."""

_MAX_RECORD_BYTES = 2**20
_UNCLOSED = "a quote opens a value and is not closed as it should be"


@dataclass(frozen=True, slots=True)
class Record:
    """A line, or several of one record: its cells, or what is wrong with it."""

    line: int
    """Number of its first line in the file, counted from 1."""
    cells: Sequence[bytes]
    error: str | None = None


class DelimitedTable:
    """A file's column names, and its records."""

    def __init__(self, url: str, stream: IO[bytes], *, wanted: Sequence[str] = ()) -> None:
        """Read the header.

        Args:
            url: The file's, for errors.
            stream: Its bytes.
            wanted: Names that help to find the separator.

        Raises:
            ValueError: If no separator is found in a file that is not empty, or it is no text that can be read.
        """
        self._lines = enumerate(text_lines(url, stream), start=1)
        self._waiting: deque[tuple[int, bytes]] = deque()
        header = self._first_line()
        told = re.fullmatch(rb'"?sep=(.)"?', header)  # a line that Excel writes and reads
        if told:
            header = self._first_line()
        if b"\r" in header:
            raise ValueError(f"{url}: lines end as on old Macs: save it with line feeds")
        candidates = [told[1]] if told else [mark for mark in SEPARATORS if mark in header]
        if header and not candidates:
            names = ", ".join(SEPARATORS.values())
            raise ValueError(f"{url}: no separator found in the first line: put one between columns ({names})")
        named = {mark: _names(header, mark) for mark in candidates}
        best = max(named, key=lambda mark: (len(set(wanted) & set(named[mark])), len(named[mark])), default=b",")
        self.separator = best
        self.names: list[str] = named.get(best, [])
        self._field = _field_pattern(best, rb'[^"]*(?:""[^"]*)*')
        self._escaped_field = _field_pattern(best, rb'(?:[^"\\]|\\.|"")*')

    @property
    def separator_name(self) -> str:
        return SEPARATORS.get(self.separator, repr(self.separator))

    def _first_line(self) -> bytes:
        """Pass over blank lines; empty at the end."""
        return next((line.strip(b"\r\n ") for _, line in self._lines if line.strip()), b"")

    def records(self) -> Iterator[Record]:
        """Read all records; every line that is not empty is in exactly one."""
        width = len(self.names)
        while (taken := self._take()) is not None:
            number, line = taken
            body = line.rstrip(b"\r\n")
            if not body:
                continue
            cells, is_open = self._cells(body)
            if is_open:
                yield from self._several_lines(number, line)
            elif cells is None:
                yield Record(number, (), f"line {number}: {_UNCLOSED}")
            elif len(cells) != width:
                yield Record(number, (), f"line {number}: {len(cells)} columns, expected {width}")
            else:
                yield Record(number, cells)

    def _take(self) -> tuple[int, bytes] | None:
        return self._waiting.popleft() if self._waiting else next(self._lines, None)

    def _several_lines(self, number: int, first: bytes) -> Iterator[Record]:
        """Read on to the closing quote; what was read is one record, or goes back to be read line by line."""
        record, more = first, []
        cells: list[bytes] | None = None
        is_open = True
        while is_open and len(record) < _MAX_RECORD_BYTES and (taken := self._take()) is not None:
            more.append(taken)
            record += taken[1]
            if b'"' in taken[1]:
                cells, is_open = self._cells(record.rstrip(b"\r\n"))
        if is_open or cells is None or len(cells) != len(self.names):
            self._waiting.extendleft(reversed(more))
            yield Record(number, (), f"line {number}: {_UNCLOSED}")
        elif self._hides_records([line for _, line in more]):
            for line, _ in ((number, first), *(one for one in more if one[1].strip(b"\r\n"))):
                yield Record(line, (), f"line {line}: between quotes from line {number} on, which may be one unclosed")
        else:
            yield Record(number, cells)

    def _hides_records(self, lines: Sequence[bytes]) -> bool:
        """Tell whether half of the lines behind the first are as wide as the header each for itself."""
        bodies = [body for line in lines if (body := line.rstrip(b"\r\n"))]
        wide = sum(len(self._cells(body)[0] or body.split(self.separator)) == len(self.names) for body in bodies)
        return 2 * wide >= len(bodies) > 0

    def _cells(self, record: bytes) -> tuple[list[bytes] | None, bool]:
        """Cut a record; (None, False) where a quote stands wrongly, (None, True) where one is still open."""
        if b'"' not in record:
            return record.split(self.separator), False
        cells, is_open = _cut(record, self._field, self.separator, escaped=False)
        if cells is None and b'\\"' in record:  # as Spark writes a quote in a value
            found = _cut(record, self._escaped_field, self.separator, escaped=True)
            return found if found[0] is not None else (None, is_open)
        return cells, is_open


def _names(header: bytes, separator: bytes) -> list[str]:
    cells, _ = _cut(header, _field_pattern(separator, rb'[^"]*(?:""[^"]*)*'), separator, escaped=False)
    cells = header.split(separator) if cells is None else cells
    return [cell.decode("utf-8", errors="replace").strip() for cell in cells]


def _field_pattern(separator: bytes, quoted: bytes) -> re.Pattern[bytes]:
    mark = re.escape(separator)
    return re.compile(
        rb'(?:"(' + quoted + rb')"|([^"' + mark + rb"][^" + mark + rb"]*|))(?=" + mark + rb"|\Z)", re.DOTALL
    )


def _cut(
    record: bytes, field: re.Pattern[bytes], separator: bytes, *, escaped: bool
) -> tuple[list[bytes] | None, bool]:
    cells, position = [], 0
    while True:
        found = field.match(record, position)
        if found is None:
            inner = record[position + 1 :].replace(b'""', b"")
            inner = re.sub(rb"\\.", b"", inner, flags=re.DOTALL) if escaped else inner
            return None, record[position : position + 1] == b'"' and b'"' not in inner
        quoted, bare = found.groups()
        if quoted is None:
            cells.append(bare)
        else:
            value = quoted.replace(b'""', b'"')
            cells.append(re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL) if escaped else value)
        position = found.end()
        if position == len(record):
            return cells, False
        position += len(separator)
