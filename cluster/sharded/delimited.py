"""Tables as text with a separator (CSV), record by record: no line is lost, whatever quotes it opens.

A quoted value may hold line ends, so a quote that nobody closes swallows what follows it up to the next quote. Here a
record of several lines is believed only if its quotes are well formed, its width is the header's, and the lines in it
do not look like records of their own; else they come back as lines, with an error where they cannot be read.

Nearly every line leaves no such doubt: `tables` finds whole runs of them and leaves their cells to Arrow.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from cluster.sharded.input_files import BYTE_ORDER_MARK, text_blocks

SEPARATORS = {b",": "comma", b"\t": "tab", b";": "semicolon", b"|": "bar", b"\x01": "\\x01"}
"""What may stand between columns; the one in a file is found by its header."""

NULL = b"\\N"
"""A cell that is nothing, as Hive and PostgreSQL write it; an empty one is a text of no characters."""

_MAX_RECORD_BYTES = 2**20
_QUOTED = rb'[^"]*(?:""[^"]*)*'
_UNCLOSED = "a quote opens a value and is not closed as it should be"


@dataclass(frozen=True, slots=True)
class Record:
    """A line, or several of one record: its cells, or what is wrong with it."""

    line: int
    """Number of its first line in the file, counted from 1."""
    cells: Sequence[bytes | None]
    """None where nothing is in it (`NULL`)."""
    error: str | None = None


class _Lines:
    """A file's lines, one by one or many at a time; those behind a record's first may be put back."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._text, self._position = b"", 0
        self._second = 0, 0
        self.number = 0
        """Of the line taken last, counted from 1."""

    def take(self, *, more: bool = False) -> bytes:
        """Take a line with its end, the first of a record or one more of it; empty at the end."""
        end = self._text.find(b"\n", self._position) + 1 or self._read_on()
        line = self._text[self._position : end]
        self._position, self.number = end, self.number + bool(line)
        if not more:
            self._second = end, self.number
        return line

    def put_back(self) -> None:
        """Put all lines of a record back but its first."""
        self._position, self.number = self._second

    def ahead(self) -> bytes:
        """Look at the lines that were read and not taken, some at least; empty at the end."""
        if self._text.find(b"\n", self._position) < 0:
            self._read_on()
        return self._text[self._position : self._text.rfind(b"\n", self._position) + 1 or len(self._text)]

    def skip(self, lines: bytes, count: int) -> None:
        """Take so many lines at once."""
        self._position, self.number = self._position + len(lines), self.number + count
        self._second = self._position, self.number

    def _read_on(self) -> int:
        """Read until a line ends; gives its end, or that of the text."""
        kept, number = self._second
        parts = [self._text[kept:]]
        while block := next(self._blocks, b""):
            parts.append(block)
            if b"\n" in block:
                break
        self._text, self._position, self._second = b"".join(parts), self._position - kept, (0, number)
        return self._text.find(b"\n", self._position) + 1 or len(self._text)


class DelimitedTable:
    """A file's column names, and its records."""

    def __init__(self, url: str, stream: IO[bytes], *, wanted: Sequence[str] = ()) -> None:
        """Read the header.

        Args:
            url: The file's, for errors.
            stream: Its bytes.
            wanted: Names of which at least one stands in a header, in whatever case; they help to find the separator.

        Raises:
            ValueError: If no separator is found in a file that is not empty, its first line is no header, or it is no
                text that can be read. What stands in a line that is no header is not said: it may be anybody's words.
        """
        self._url = url
        self._lines = _Lines(text_blocks(url, stream))
        header = self._first_line()
        told = re.fullmatch(rb'"?sep=([^"\w\x80-\xff])"?', header)  # a line that Excel writes and reads
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
        known = {name.lower() for name in wanted}
        if known and self.names and known.isdisjoint(name.lower() for name in self.names):
            raise ValueError(
                f"{url}: no header: of its first line's {len(self.names)} values none is the name of a column that is "
                f"read ({', '.join(wanted)}); put the names of the columns there"
            )
        self._field = _field_pattern(best, _QUOTED)
        self._escaped_field = _field_pattern(best, rb'(?:[^"\\]|\\.|"")*')

    @property
    def separator_name(self) -> str:
        return SEPARATORS.get(self.separator, repr(self.separator))

    def _first_line(self) -> bytes:
        """Pass over blank lines; empty at the end."""
        while line := self._lines.take():
            if line.strip():
                return line.strip(b"\r\n ")
        return b""

    def records(self) -> Iterator[Record]:
        """Read all records; every line that is not empty is in exactly one."""
        while line := self._lines.take():
            yield from self._records_from(line)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read all records many at a time: their cells in some columns, as bytes, null where nothing is in them.

        Where a table has a record with an error, it has a column `error` too, and nulls in that row.
        """
        while text := self._lines.ahead():
            starts, is_plain = _plain_lines(text, self.separator, len(self.names))
            longest = re.escape(max(self.names, key=len, default="").encode())
            for found in re.finditer(longest, text) if longest else ():  # the header again, maybe
                is_plain[bisect_right(starts, found.start()) - 1] = False
            parts: list[bytes] = []
            errors: list[str | None] = []
            first, line = self._lines.number, 0
            for doubted in (*np.flatnonzero(~is_plain).tolist(), len(is_plain)):
                if doubted < line:
                    continue  # in a record of several lines
                parts.append(text[starts[line] : starts[doubted]])
                errors += [None] * (doubted - line)
                self._lines.skip(parts[-1], doubted - line)
                if doubted < len(is_plain):
                    for record in self._records_from(self._lines.take()):
                        parts.append(self._written(record))
                        errors.append(record.error)
                line = self._lines.number - first
            if errors:
                yield self._table(columns, b"".join(parts), errors)

    def _written(self, record: Record) -> bytes:
        """Write a record as plain as can be, one with an error as empty cells."""
        cells = [b""] * len(self.names) if record.error else record.cells
        texts = (NULL if cell is None else cell for cell in cells)
        return self.separator.join([b'"' + text.replace(b'"', b'""') + b'"' for text in texts]) + b"\n"

    def _table(self, columns: Sequence[str], text: bytes, errors: Sequence[str | None]) -> pa.Table:
        places = [str(self.names.index(name)) for name in columns]
        table = pacsv.read_csv(
            pa.BufferReader(text),
            read_options=pacsv.ReadOptions(
                use_threads=False,
                block_size=len(text) + 1,
                column_names=[str(place) for place in range(len(self.names))],
            ),
            parse_options=pacsv.ParseOptions(delimiter=self.separator.decode("ascii"), newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=places,
                column_types=dict.fromkeys(places, pa.binary()),
                check_utf8=False,
                null_values=[NULL.decode()],
                strings_can_be_null=True,
            ),
        ).rename_columns(list(columns))
        assert len(table) == len(errors), f"{len(table)} rows of {len(errors)} records"
        if any(errors):
            said = pa.array(errors, pa.string())
            empty = pa.scalar(None, pa.binary())
            table = pa.table({name: pc.if_else(pc.is_null(said), table[name], empty) for name in columns})
            table = table.append_column("error", said)
        return table

    def _records_from(self, line: bytes) -> Iterator[Record]:
        """Read the record that begins with the line taken last, or its lines one by one; nothing of a blank one."""
        number = self._lines.number
        body = line.rstrip(b"\r\n")
        if not body:
            return
        cells, is_open = self._cells(body)
        if is_open:
            yield from self._several_lines(line)
        elif rows := self._between_returns(body, cells):
            yield from (self._record(number, row) for row in rows)
        elif cells is None:
            yield Record(number, (), f"line {number}: {_UNCLOSED}")
        elif len(cells) != len(self.names):
            yield Record(number, (), f"line {number}: {len(cells)} columns, expected {len(self.names)}")
        else:
            yield self._record(number, cells)

    def _record(self, line: int, cells: Sequence[bytes]) -> Record:
        if self._is_header(line, cells):
            return Record(line, (), f"line {line}: the header again, as where files were put together")
        return Record(line, _with_nulls(cells))

    def _between_returns(self, body: bytes, cells: Sequence[bytes] | None) -> list[list[bytes]]:
        """Cut a line that is no record into those that a carriage return alone ends; none if one is not as wide."""
        if b"\r" not in body or (cells is not None and len(cells) == len(self.names)):
            return []
        rows = [self._cells(part)[0] or [] for part in body.split(b"\r") if part]
        return rows if all(len(row) == len(self.names) for row in rows) else []

    def _is_header(self, line: int, cells: Sequence[bytes]) -> bool:
        """Tell a line of the columns' names from a record; what is below one in another order would be mixed up.

        Raises:
            ValueError: If it is one in another order.
        """
        said = [cell.removeprefix(BYTE_ORDER_MARK).decode("utf-8", errors="replace").strip() for cell in cells]
        if said != self.names and sorted(said) == sorted(self.names):
            raise ValueError(
                f"{self._url}: line {line} is a header with these columns in another order, as where files were put "
                "together: give them one by one"
            )
        return said == self.names

    def _several_lines(self, first: bytes) -> Iterator[Record]:
        """Read on to the closing quote; what was read is one record, or goes back to be read line by line."""
        number, record = self._lines.number, first
        more: list[bytes] = []
        cells: list[bytes] | None = None
        is_open = True
        while is_open and len(record) < _MAX_RECORD_BYTES and (line := self._lines.take(more=True)):
            more.append(line)
            record += line
            if b'"' in line:
                cells, is_open = self._cells(record.rstrip(b"\r\n"))
        if is_open or cells is None or len(cells) != len(self.names):
            self._lines.put_back()
            yield Record(number, (), f"line {number}: {_UNCLOSED}")
        elif self._hides_records(more):
            for at, line in enumerate((first, *more), start=number):
                if line.strip(b"\r\n"):
                    yield Record(at, (), f"line {at}: between quotes from line {number} on, which may be one unclosed")
        else:
            yield Record(number, _with_nulls(cells))

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


def _with_nulls(cells: Sequence[bytes]) -> list[bytes | None]:
    return [None if cell == NULL else cell for cell in cells]


def _names(header: bytes, separator: bytes) -> list[str]:
    cells, _ = _cut(header, _field_pattern(separator, _QUOTED), separator, escaped=False)
    cells = header.split(separator) if cells is None else cells
    return [cell.decode("utf-8", errors="replace").strip() for cell in cells]


def _plain_lines(text: bytes, separator: bytes, width: int) -> tuple[list[int], np.ndarray]:
    """Tell which lines leave no doubt: all columns are there, and quotes, if any, are around whole values of one line.

    Returns:
        Where each line begins, and where the last one ends; whether each is plain, bool (lines,).
    """
    data = np.frombuffer(text + b"\n", np.uint8)
    ends = np.flatnonzero(data == ord("\n"))[: text.count(b"\n")]
    starts = np.append(0, ends + 1)
    if starts[-1] < len(text):
        starts = np.append(starts, len(text))
    is_plain = data[starts[:-1]] != ord("\r")
    is_plain &= data[starts[:-1]] != ord("\n")
    is_plain[len(ends) :] = False  # a last line without an end
    if b"\r" in text:
        returns = np.flatnonzero(data == ord("\r"))
        is_plain[np.searchsorted(ends, returns[data[returns + 1] != ord("\n")])] = False
    marks = np.flatnonzero(data == ord(separator))
    num_marks = np.diff(np.searchsorted(marks, starts))
    if b'"' in text:
        quotes = np.flatnonzero(data == ord('"'))
        line, before = np.searchsorted(ends, quotes), np.searchsorted(quotes, starts)
        is_plain &= np.diff(before) % 2 == 0
        # A quote that opens a value stands behind a separator, one that closes it before one; two in a row are one.
        opens = (np.arange(len(quotes)) - before[line]) % 2 == 0
        beside = data[np.where(opens, quotes - 1, quotes + 1)]
        is_right = np.isin(beside, np.frombuffer(separator + b'"\r\n', np.uint8))
        is_plain[line[~is_right]] = False
        inside = np.where(opens, -1, 1) * np.searchsorted(marks, quotes)
        num_marks = num_marks - np.bincount(line, inside, minlength=len(is_plain)).astype(np.int64)
    is_plain &= num_marks == width - 1
    return starts.tolist(), is_plain


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
            is_escaped = escaped and value != NULL
            cells.append(re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL) if is_escaped else value)
        position = found.end()
        if position == len(record):
            return cells, False
        position += len(separator)
