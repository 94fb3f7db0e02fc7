"""The files of an input: which of them are data, how they are cut, and what is said where one cannot be read."""

from __future__ import annotations

import io
import lzma
import platform
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.sharded.compression import decompressed, is_compressed, plain_name, refuse_compressed_text, refuse_unread
from cluster.sharded.listing import inner_path, visible_files
from cluster.storage_failures import is_archived, is_failure, is_refusal

PARQUET_ENDINGS = (".parquet", ".parq", ".pq")
JSONL_ENDINGS = (".jsonl", ".ndjson", ".json")
"""JSON too: what most programs write under that name is a line per object; anything else is refused by name."""

_PARALLEL_FILES = 16
_READ_BYTES = 8 * 2**20
_BLOCK_BYTES = 2**22
_MOST_NAMED = 50
_READING = (pa.ArrowException, EOFError, zlib.error, lzma.LZMAError)
_OF_STORAGE = (FileNotFoundError, TimeoutError, ConnectionError)
"""What object storage raises without a number."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"

Part = TypeVar("Part")


@dataclass(frozen=True)
class RowGroups:
    """Neighbouring row groups of a parquet file, from `start` to before `end`."""

    start: int
    end: int
    first_row: int
    """Number of the first row in the file, counted from 0."""
    num_rows: int
    size_bytes: int
    """Of decoded data."""


def data_files(url: str, endings: tuple[str, ...]) -> tuple[list[storage.StoredFile], list[str]]:
    """Tell an input's data from what is passed over: a file, or all below a folder.

    Hidden files and folders are neither (see `visible_files`). Case does not matter, and a text file may be compressed
    (.gz, .bz2, .xz). What a finished job says of itself beside its data (`run.json`) is neither.

    Args:
        url: Where the files are.
        endings: Of the names that are data, in the order in which an error names them.

    Returns:
        The data in order, and the names of all other files below the folder.

    Raises:
        ValueError: If no file is data, naming what is there instead, one is compressed as no reader here knows it, or
            they are a table's whose log says which of them count.
        RuntimeError: If a writer is at work there.
    """
    found, others = [], []
    for file in visible_files(url):
        _refuse_compressed(file.url, endings)
        is_data = plain_name(file.url).endswith(endings)
        (found if is_data else others).append(file if is_data else place_of(file.url, url))
    if not found:
        there = f"; found {', '.join(others[:3])}" if others else ""
        raise ValueError(f"{url}: no {_either(endings)} file there{there}")
    more = [f"and {len(others) - _MOST_NAMED} more"] if len(others) > _MOST_NAMED else []
    return found, others[:_MOST_NAMED] + more


def files_from_people(urls: Sequence[str], endings: tuple[str, ...]) -> list[storage.StoredFile]:
    """List what people gave back, each file once: none of it is passed over, since each holds somebody's work.

    Raises:
        ValueError: If a location has no such file, or one of another kind, such as what a spreadsheet saves by itself.
    """
    files: dict[str, storage.StoredFile] = {}
    for url in urls:
        found, others = data_files(url, endings)
        others += [place_of(file.url, url) for file in found if is_compressed(file.url)]
        if others:
            raise ValueError(
                f"{url}: expected {_either(endings)} files alone, found {', '.join(others)}; what somebody did there "
                f"would be left out: save it as {_either(endings)}, or take it out of the folder"
            )
        files |= {file.url: file for file in found}
    return list(files.values())


def _either(endings: Sequence[str]) -> str:
    *some, last = endings
    return f"{', '.join(some)} or {last}" if some else last


def require_files(url: str, *, what: str, marker: str | None = None, setting: str = "scoring.require_marker") -> None:
    """See to it that the input's writer has been there and, where it says so, is done.

    Args:
        url: The input. A writer at work may have no more than `_temporary/` there.
        what: What its rows are.
        marker: File that the writer lays into the folder last; None: it does not.
        setting: What names the marker on the command line.

    Raises:
        ValueError: If the files are a table's whose log says which of them count.
        RuntimeError: If not: the same command is right later.
    """
    if not visible_files(url):
        raise RuntimeError(f"nothing is at {url}: run again when its {what} are there, or give another input")
    if marker and not storage.exists(storage.join_url(url, marker)):
        raise RuntimeError(f"{url}: no {marker} there ({setting}): run again when its writer is done")


def _refuse_compressed(url: str, endings: tuple[str, ...]) -> None:
    refuse_unread(url, endings)
    if is_compressed(url) and plain_name(url).endswith(PARQUET_ENDINGS):
        raise ValueError(f"{url}: a parquet file that is compressed as a whole: unpack it, parquet compresses itself")


def place_of(file_url: str, url: str) -> str:
    """Name a file for who looks for a row of it: by its path below the input, or its last part where it is that."""
    return inner_path(file_url, url) or file_url.rpartition("/")[2]


def path_values(file_url: str, url: str) -> dict[str, str | None]:
    """Read what the folders between an input and a file say, as Hive writes it: `market=BR/` -> {"market": "BR"}."""
    folders = [part.partition("=") for part in inner_path(file_url, url).split("/")[:-1] if "=" in part]
    return {name: None if value == _NO_VALUE else unquote(value) for name, _, value in folders}


def cut_input(url: str, endings: tuple[str, ...], cut: Callable[[int, storage.StoredFile], list[Part]]) -> list[Part]:
    """Cut an input's files (see `data_files`), each for itself; the parts come in the files' order.

    Args:
        url: Where the files are.
        endings: Of the names that are data.
        cut: Number and file -> the file's parts; several are cut at once.

    Raises:
        ValueError: If there is no such file.
    """
    files = data_files(url, endings)[0]
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        return [part for parts in pool.map(cut, range(len(files)), files) for part in parts]


@contextmanager
def open_input(
    url: str, file_format: str, *, read_ahead: bool = True, version: str | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for a block that reads it, decompressed; what goes wrong in the block is said with the file's name.

    Without `read_ahead` nothing is fetched but what is asked for: for who reads a column of many. With `version` (see
    `storage.StoredFile`) it has to be the file that was listed, before the block and after it: cuts of another one
    would pass over rows.

    Raises:
        ValueError: If the file is damaged, or is a folder.
        RuntimeError: If the storage failed, the file is not there or was replaced, and a rerun may do.
    """
    filesystem, path = storage.open_filesystem(url)
    refuse_another(url, version)
    try:
        with filesystem.open(path, "rb", **({} if read_ahead else {"cache_type": "none"})) as stored:
            if getattr(stored, "details", {}).get("type") == "directory":  # of s3 it would be read as an empty file
                raise IsADirectoryError
            yield decompressed(url, stored)
        refuse_another(url, version)
    except Exception as error:
        if not isinstance(error, _READING) and not is_failure(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, IsADirectoryError):
            raise ValueError(f"{url}: a folder, where one {file_format} file is read: name the file") from error
        if is_archived(error):
            remedy = "restore it, then run the job again"
            raise RuntimeError(f"{url}: archived by its storage class, such as Glacier: {remedy}") from error
        if is_refusal(error):  # keys that ran out, a clock
            remedy = "renew the credentials or the right to read it, then run the job again"
            raise RuntimeError(f"{url}: the storage refused to read it ({reason}): {remedy}") from error
        of_content = isinstance(error, (*_READING, OSError)) and not isinstance(error, _OF_STORAGE)
        if of_content and getattr(error, "errno", None) is None:  # Arrow's own complaints have no number
            raise ValueError(f"{url}: not a readable {file_format} file ({reason}): replace or remove it") from error
        place = ", or name what is there" if isinstance(error, FileNotFoundError) else ""
        raise RuntimeError(f"{url}: storage failed while reading ({reason}): run the job again{place}") from error


def refuse_another(url: str, version: str | None) -> None:
    """Refuse a file that is not the one that was listed with this version; None: whichever it is.

    Raises:
        RuntimeError: If another one is there, or none.
    """
    found = [] if version is None else [file.version for file in storage.list_files(url) if file.url == url]
    if version is not None and not found:
        where = "any more" if "://" in url else f"on {platform.node()}: all machines of a cluster have to see the input"
        raise RuntimeError(f"{url}: it is not there {where}; run again when it is")
    if version is not None and found != [version]:
        raise RuntimeError(
            f"{url}: it is not the file any more that this job began with: let its writer end, run again"
        )


def text_blocks(url: str, stream: IO[bytes]) -> Iterator[bytes]:
    """Read some MiB at a time, less the mark that Windows programs put in front of UTF-8.

    Raises:
        ValueError: If it is UTF-16, or compressed or no text though its name does not say so; the file is named.
    """
    start = stream.read(_BLOCK_BYTES)
    _refuse_no_text(url, start)
    yield start.removeprefix(BYTE_ORDER_MARK)
    while block := stream.read(_BLOCK_BYTES):
        yield block


_TABLES = {
    b"PAR1\x15": "parquet, though its name says text: let it end with .parquet",
    b"Obj\x01": "Avro, though its name says text: convert it to parquet",
    b"ARROW1\0\0": "Arrow, though its name says text: convert it to parquet",
}
"""How files of tables begin, and what to do with them."""


def _refuse_no_text(url: str, start: bytes) -> None:
    refuse_compressed_text(url, start)
    if said := next((said for head, said in _TABLES.items() if start.startswith(head)), None):
        raise ValueError(f"{url}: {said}")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:2]:
        raise ValueError(f"{url}: UTF-16 text: save it as UTF-8")


def text_lines(url: str, stream: IO[bytes], *, keep_mark: bool = False) -> Iterator[bytes]:
    """Read lines with their ends, less the mark that Windows programs put in front of UTF-8.

    Raises:
        ValueError: If it is UTF-16, or compressed or no text though its name does not say so; the file is named.
    """
    lines = io.BufferedReader(stream, _READ_BYTES)  # type: ignore[arg-type]
    try:
        start = lines.peek(8)[:8]
        _refuse_no_text(url, start)
        if start.startswith(BYTE_ORDER_MARK) and not keep_mark:
            lines.read(len(BYTE_ORDER_MARK))
        for line in lines:  # noqa: UP028 - `yield from` would close the stream with the generator
            yield line
    finally:
        if not stream.closed:
            lines.detach()  # else the stream is closed with this reader


def json_lines(url: str, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file of JSON objects that are not blank, with their numbers, counted from 1.

    Raises:
        ValueError: If the file is one JSON value over many lines, naming it.
    """
    first = True
    for number, line in enumerate(text_lines(url, stream), start=1):
        content = line.strip()
        if first and content and (content.startswith(b"[") or content == b"{"):
            kind = "an array" if content.startswith(b"[") else "one object over several lines"
            raise ValueError(f"{url}: JSON, but {kind}: write one object per line, without brackets around them")
        if content:
            first = False
            yield number, content


def cut_row_groups(metadata: pq.FileMetaData, *, part_bytes: int) -> list[RowGroups]:
    """Cut a parquet file behind the row group with which a part has reached its size, in bytes of decoded data."""
    parts: list[RowGroups] = []
    start = first_row = num_rows = size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        num_rows, size = num_rows + group.num_rows, size + group.total_byte_size
        if size >= part_bytes or number == metadata.num_row_groups - 1:
            parts.append(RowGroups(start, number + 1, first_row, num_rows, size))
            start, first_row, num_rows, size = number + 1, first_row + num_rows, 0, 0
    return parts


def refuse_missing_column(url: str, name: str, found: list[str], *, why: str = "required") -> None:
    """Stop where a column is not among those of a file.

    Raises:
        ValueError: Naming the file, the column and those that are there.
    """
    if name not in found:
        raise ValueError(f"{url}: column {name!r} is missing ({why}); found {', '.join(found) or 'none'}")


def refuse_repeated_column(url: str, name: str, found: list[str]) -> None:
    """Stop where a column that is read stands in a file more than once.

    Raises:
        ValueError: Naming the file and the column.
    """
    if found.count(name) > 1:
        raise ValueError(f"{url}: column {name!r} stands there {found.count(name)} times: keep one of them")


def refuse_other_spelling(url: str, name: str, found: list[str]) -> None:
    """Stop where a column that is read is not there, and one is whose name differs by case or blanks alone.

    Passed over, what it holds would be missing from every row, and no row would say so.

    Raises:
        ValueError: Naming the file and both.
    """
    other = next((one for one in found if one.strip().lower() == name.lower()), name)
    if name not in found and other != name:
        raise ValueError(f"{url}: column {other!r} stands there, and {name!r} is what is read: rename it")
