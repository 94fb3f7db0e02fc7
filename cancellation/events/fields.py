"""Checked fields: one JSON value after another becomes a float, a text or a refusal that names its path."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MAX_NUMBER = 1e15
"""Largest number taken. The contract has no upper bound; without one a ratio could become infinite."""


_TYPE_NAMES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(Z|z|[+-][0-9]{2}:[0-5][0-9])?"
)
_FIRST_INSTANT = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LAST_INSTANT = datetime(9999, 12, 30, tzinfo=UTC).timestamp()
"""What lies beyond has no date at some offset: whoever writes it down again fails, long after it was taken."""
_MARKET = re.compile(r"[A-Z]{2}")
_NO_FIELDS: frozenset[str] = frozenset()


class EventError(ValueError):
    """An event that was refused: `path` names the field (`chat[3].at`), `problem` what is wrong with it.

    Neither ever holds a value from the event: both may be sent back to the caller and logged.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'event'}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[EventError], tuple[str, str]]:
        return EventError, (self.path, self.problem)  # the default would rebuild it from its message alone

    def within(self, parent: str) -> EventError:
        """The same refusal seen from the object that holds the field."""
        separator = "." if self.path and not self.path.startswith("[") else ""
        return EventError(f"{parent}{separator}{self.path}", self.problem)


def decode_json(source: bytes | bytearray | str) -> Any:
    """Decode JSON as the contract means it: UTF-8, no repeated keys, no NaN or Infinity."""
    try:
        text = source if isinstance(source, str) else bytes(source).decode("utf-8")
        if text.startswith("\ufeff"):
            raise EventError("", "expected JSON without a byte-order mark, found one at its beginning")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise EventError("", f"expected UTF-8, byte {error.start} is none") from None
    except json.JSONDecodeError as error:
        raise EventError("", f"expected JSON, found a syntax error at character {error.pos}") from None
    except RecursionError:
        raise EventError("", "expected JSON at most six levels deep") from None
    except EventError:
        raise
    except ValueError:  # an integer of thousands of digits
        raise EventError("", "expected numbers that a 64-bit float can hold") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise EventError("", "expected each key once in an object, found one repeated")
    return value


def _no_constant(name: str) -> float:
    raise EventError("", f"expected finite numbers, found {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant)


def type_name(value: object) -> str:
    """Name the JSON type of a value, for a refusal; a table may hold others, such as bytes."""
    if isinstance(value, Mapping | list | tuple):
        return "object" if isinstance(value, Mapping) else "array"
    return _TYPE_NAMES.get(type(value)) or type(value).__name__


def check_object(value: Any, fields: frozenset[str], required: frozenset[str] = _NO_FIELDS) -> None:
    """Refuse anything but an object with all of `required` and nothing beyond `fields`."""
    if type(value) is not dict and not isinstance(value, Mapping):
        raise EventError("", f"expected an object, found {type_name(value)}")
    keys = value.keys()
    if not keys <= fields:
        allowed = ", ".join(sorted(fields))
        raise EventError("", f"{len(keys - fields)} unknown field(s); it may have only {allowed}")
    if not required <= keys:
        raise EventError(min(required - keys), "required, but missing")


def read_instant(value: Mapping[str, Any], name: str) -> float:
    """Read an RFC 3339 instant with offset as epoch seconds."""
    text = value[name]
    if type(text) is not str:
        raise EventError(name, f"expected an RFC 3339 instant, found {type_name(text)}")
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise EventError(name, "expected an RFC 3339 instant such as 2026-11-22T08:00:00+07:00")
    if match[1] is None:
        raise EventError(name, "expected an offset such as Z or +07:00 after the time, found none")
    try:
        instant = datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        raise EventError(name, "expected an instant that exists (leap seconds are not taken)") from None
    if not _FIRST_INSTANT <= instant <= _LAST_INSTANT:
        raise EventError(name, "expected an instant of the years 1 to 9999 at any offset")
    return instant


def read_past_instant(value: Mapping[str, Any], name: str, cutoff: float) -> float:
    """Read an instant that must not be later than the cut-off."""
    instant = read_instant(value, name)
    if instant > cutoff:
        raise EventError(name, "later than cancelled_at: an event ends with the cancellation")
    return instant


def read_text(value: Mapping[str, Any], name: str, max_length: int | None) -> str:
    """Read a string that UTF-8 can hold (no half surrogate pairs)."""
    text = value[name]
    if type(text) is not str:
        raise EventError(name, f"expected a string, found {type_name(text)}")
    if max_length is not None and len(text) > max_length:
        raise EventError(name, f"expected at most {max_length} characters, found {len(text)}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise EventError(name, f"expected Unicode text, character {error.start} is half a surrogate pair") from None
    return text


def read_text_or_none(value: Mapping[str, Any], name: str, max_length: int) -> str | None:
    """Read a string that may be null or missing."""
    return None if value.get(name) is None else read_text(value, name, max_length)


def read_stored_text(value: Mapping[str, Any], name: str, max_length: int) -> str:
    """Read a string that becomes a value of a database, where U+0000 cannot be."""
    text = read_text(value, name, max_length)
    if "\0" in text:
        raise EventError(name, f"expected text without U+0000, character {text.index(chr(0))} is one")
    return text


def read_identifier(value: Mapping[str, Any], name: str) -> str:
    """Read an id of 1 to 128 characters."""
    text = read_text(value, name, 128)
    if not text:
        raise EventError(name, "expected at least one character")
    return text


def read_stored_identifier(value: Mapping[str, Any], name: str) -> str:
    """Read an id that becomes a value of a database, where U+0000 cannot be."""
    read_stored_text(value, name, 128)
    return read_identifier(value, name)


def read_pattern(value: Mapping[str, Any], name: str, pattern: re.Pattern[str], meaning: str) -> str:
    """Read a string of a given form."""
    text = value[name]
    if type(text) is not str or pattern.fullmatch(text) is None:
        raise EventError(name, f"expected {meaning}")
    return text


def read_market(value: Mapping[str, Any]) -> str:
    """Read `market`, the code of a market.

    Raises:
        EventError: If it is missing or no two capital letters.
    """
    return read_pattern(value, "market", _MARKET, "two capital letters, such as TH")


def read_choice(value: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """Read one of a few words; the tuple's own string comes back, so that all events share it."""
    text = value[name]
    if type(text) is not str or text not in choices:
        raise EventError(name, f"expected one of {', '.join(choices)}")
    return choices[choices.index(text)]


def read_boolean(value: Mapping[str, Any], name: str) -> bool:
    """Read true or false."""
    flag = value[name]
    if type(flag) is not bool:
        raise EventError(name, f"expected true or false, found {type_name(flag)}")
    return flag


def read_number(value: Mapping[str, Any], name: str) -> float:
    """Read a number from 0 to `MAX_NUMBER`."""
    number = value[name]
    if type(number) is not int and type(number) is not float:
        raise EventError(name, f"expected a number, found {type_name(number)}")
    if not 0 <= number <= MAX_NUMBER or not math.isfinite(number):
        raise EventError(name, f"expected a number from 0 to {MAX_NUMBER:.0e}")
    return number + 0.0  # of -0.0 it makes 0.0, which is the same amount


def read_count(value: Mapping[str, Any], name: str, minimum: int) -> int:
    """Read a whole number; 3.0 is one, as in JSON Schema."""
    number = read_number(value, name)
    if not number.is_integer() or number < minimum:
        raise EventError(name, f"expected a whole number of at least {minimum}")
    return int(number)
