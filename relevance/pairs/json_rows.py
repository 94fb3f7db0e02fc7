"""Pairs as JSON objects, one a line: the columns that any of the lines has, and the lines as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from cluster.sharded.input_files import json_lines
from relevance.pairs.texts import EXACT_WHOLE, value_text

_READ_WHOLE = 100
_IDS = ("query_id", "product_id")


def json_names(url: str, stream: IO[bytes], wanted: Sequence[str]) -> list[str]:
    """Find the columns of a file: all of its first lines, and the wanted ones wherever they first appear.

    Raises:
        ValueError: If the file is no JSON by lines.
    """
    names: dict[str, None] = {}
    missing = {name: json.dumps(name).encode() for name in wanted}
    for number, line in json_lines(url, stream):
        if number > _READ_WHOLE and not any(key in line for key in missing.values()):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            names.update(dict.fromkeys(row))
        missing = {name: key for name, key in missing.items() if name not in names}
        if number >= _READ_WHOLE and not missing:
            break
    return list(names)


def json_rows(url: str, stream: IO[bytes], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read each line as bytes by column, or with an `error` that names the line."""
    for number, line in json_lines(url, stream):
        yield _row(line, number, columns)


def _row(line: bytes, number: int, columns: Sequence[str]) -> dict[str, Any]:
    try:
        row = _DECODER.decode(line.decode("utf-8"))
        if not isinstance(row, dict):
            return {"error": f"line {number}: not a JSON object"}
        for name in _IDS:
            if isinstance(row.get(name), float) and abs(row[name]) >= EXACT_WHOLE:
                return {"error": f"line {number}: {name} is a number that has lost digits: write ids as text"}
        return {name: _bytes(row.get(name)) for name in columns}
    except UnicodeDecodeError:
        return {"error": f"line {number}: bytes that are not UTF-8"}
    except _RepeatedKeyError:
        return {"error": f"line {number}: a key stands there twice"}
    except (ValueError, RecursionError):
        return {"error": f"line {number}: not JSON"}


def _bytes(value: Any) -> bytes | None:
    text = value_text(value)
    return None if text is None else text.encode("utf-8", errors="surrogatepass")


class _RepeatedKeyError(ValueError):
    """Says that an object has a key twice: which of the two was meant is not known."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _RepeatedKeyError
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
