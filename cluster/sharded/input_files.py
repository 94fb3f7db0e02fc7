"""The files of an input: which of them are data, how they are cut, and what is said where one cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage

_PARALLEL_FILES = 16

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


def cut_input(url: str, suffixes: tuple[str, ...], cut: Callable[[int, storage.StoredFile], list[Part]]) -> list[Part]:
    """Cut an input's files, a file or all below a folder, each for itself; the parts come in the files' order.

    Files and folders whose names begin with `_` or `.` are passed over, as other readers do.

    Args:
        url: Where the files are.
        suffixes: Of the names that are data, in the order in which an error names them.
        cut: Number and file -> the file's parts; several are cut at once.

    Raises:
        ValueError: If there is no such file.
    """
    root = storage.open_filesystem(url)[1]
    files = [file for file in storage.list_files(url) if _is_data(file.url, root, suffixes)]
    if not files:
        raise ValueError(f"{url}: no {', '.join(suffixes[:-1])} or {suffixes[-1]} file there")
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        return [part for parts in pool.map(cut, range(len(files)), files) for part in parts]


def _is_data(url: str, root: str, suffixes: tuple[str, ...]) -> bool:
    inner = url.removeprefix("s3://").removeprefix(root).split("/")
    return url.endswith(suffixes) and not any(part.startswith(("_", ".")) for part in inner)


@contextmanager
def open_input(url: str, file_format: str) -> Iterator[IO[bytes]]:
    """Open a file for a block that reads it; what goes wrong in the block is said with the file's name.

    Raises:
        ValueError: If the file is damaged.
        RuntimeError: If the storage failed, and a rerun may do.
    """
    filesystem, path = storage.open_filesystem(url)
    try:
        with filesystem.open(path, "rb") as stream:
            yield stream
    except (pa.ArrowInvalid, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if getattr(error, "errno", None) is None:  # Arrow's own complaints carry none
            raise ValueError(f"{url}: not a readable {file_format} file ({reason}): replace or remove it") from error
        raise RuntimeError(f"{url}: storage failed while reading ({reason}): run the job again") from error


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
