"""Text files that are compressed as a whole: which compressions are read, and how to the last byte."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from typing import IO, Any


def _to_the_end(opener: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Open without Python's leniency: it takes a stream with a damaged head for rubbish behind the last, and ends."""

    def open_strictly(stored: Any) -> Any:
        opened = opener(stored)
        opened._buffer.raw._trailing_error = ()  # no error is passed over, as in gzip
        return opened

    return open_strictly


COMPRESSIONS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": _to_the_end(bz2.open),
    ".xz": _to_the_end(lzma.open),
}
_ENDINGS = ", ".join(COMPRESSIONS)
_UNREAD = (
    *(".zst", ".zstd", ".lz4", ".snappy", ".sz", ".deflate", ".br", ".lzo", ".lzma", ".z", ".zip", ".7z", ".rar"),
    *(".gzip", ".bzip2"),
)
"""As other writers name them: what ends so behind the name of data is data, and no row of it may be missed."""


_HEADS = {b"\x1f\x8b": "gzip", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""First bytes of what is no text, and no header of a table could begin with."""


def plain_name(url: str) -> str:
    """Write a file's name as its ending is compared: in small letters, without that of a compression."""
    name = url.lower()
    return next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)


def is_compressed(url: str) -> bool:
    """Tell whether a file is compressed as a whole, by its ending."""
    return plain_name(url) != url.lower()


def refuse_unread(url: str, endings: tuple[str, ...]) -> None:
    """Stop at data in a compression that is not read: passed over, its rows would be missed by nobody.

    Raises:
        ValueError: Naming the file and the compressions that are read.
    """
    name = url.lower()
    unread = next((end for end in _UNREAD if name.endswith(end)), "")
    if unread and plain_name(name.removesuffix(unread)).endswith(endings):
        raise ValueError(f"{url}: compressed as {unread}, which is not read: write it as {_ENDINGS}")


def refuse_compressed_text(url: str, start: bytes) -> None:
    """Stop at what is compressed where text should be, as where a store or a program left the ending off.

    Raises:
        ValueError: Naming the file and its compression.
    """
    if kind := next((kind for head, kind in _HEADS.items() if start.startswith(head)), None):
        raise ValueError(
            f"{url}: compressed ({kind}), and its name does not say so: unpack it, or end it with {_ENDINGS}"
        )


def decompressed(url: str, stored: IO[bytes]) -> IO[bytes]:
    """Give what a file holds, decompressed where its ending says so.

    Raises:
        ValueError: If a compressed file has no byte: gzip reads it as one without a line, but no writer makes it so.
    """
    opener = next((opener for end, opener in COMPRESSIONS.items() if url.lower().endswith(end)), None)
    if opener is None:
        return stored
    if not stored.read(1):
        raise ValueError(f"{url}: 0 bytes, not even the head of a compressed file: upload it again, or remove it")
    stored.seek(0)
    return opener(stored)
