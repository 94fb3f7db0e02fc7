"""The text that a person would write for a value of whatever type a file has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as types

EXACT_WHOLE = 2**53
"""From here on a double stands for several whole numbers."""
_EXACT_BITS = {16: 11, 32: 24}

_NESTED = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_map)
_SIMPLE = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_integer,
    types.is_floating,
    types.is_decimal,
    types.is_boolean,
    types.is_date,
    types.is_time,
    types.is_timestamp,
    types.is_null,
)
_TEXTS = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
)


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type holds text, or bytes that may be text."""
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return isinstance(kind, pa.JsonType) or any(check(kind) for check in _TEXTS)


def has_text(kind: pa.DataType) -> bool:
    """Tell whether values of a type can be written as text; bytes inside a list or a struct cannot."""
    return is_text(kind) or _is_readable(kind)


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a type holds numbers or truth values."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(check(kind) for check in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean))


def carried_kind(kind: pa.DataType) -> pa.DataType:
    """Say as which type a column is copied: bytes are texts, as old Hive writes them, and views are what they show."""
    value = kind.value_type if types.is_dictionary(kind) else kind
    return pa.string() if value in (pa.binary(), pa.large_binary(), pa.binary_view()) else without_views(kind)


def without_views(kind: pa.DataType) -> pa.DataType:
    """Give a type the texts and bytes that Arrow can take rows of, however deep, in the place of views of them."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    if types.is_struct(kind):
        return pa.struct([field.with_type(without_views(field.type)) for field in kind.fields])
    if types.is_map(kind):
        return pa.map_(without_views(kind.key_type), without_views(kind.item_type))
    if any(check(kind) for check in _NESTED[:3]):
        inner = kind.value_field.with_type(without_views(kind.value_type))
        if types.is_large_list(kind):
            return pa.large_list(inner)
        return pa.list_(inner, kind.list_size if types.is_fixed_size_list(kind) else -1)
    return plain.get(kind, kind)


def exact_whole(kind: pa.DataType) -> int:
    """From which on a floating-point type stands for several whole numbers."""
    return 2 ** _EXACT_BITS[kind.bit_width] if kind.bit_width in _EXACT_BITS else EXACT_WHOLE


def _is_readable(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind) or any(check(kind) for check in _NESTED[:3]):
        return _is_readable(kind.value_type)
    if types.is_map(kind):
        return _is_readable(kind.key_type) and _is_readable(kind.item_type)
    if types.is_struct(kind):
        return all(_is_readable(kind.field(number).type) for number in range(kind.num_fields))
    return any(check(kind) for check in _SIMPLE)


def text_column(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Write a column as text; one of texts or bytes stays as it is.

    Raises:
        TypeError: If its type has no text.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = column.type
    if types.is_dictionary(kind):
        return text_column(column.dictionary_decode())
    if isinstance(kind, pa.JsonType):
        return text_column(column.storage)
    if is_text(kind):
        return column
    if not has_text(kind):
        raise TypeError(f"{kind} has no text")
    if types.is_integer(kind) or types.is_null(kind):
        return column.cast(pa.string())
    if types.is_floating(kind):
        return _number_texts(column)
    if types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    return pa.array([value_text(value) for value in column.to_pylist()], pa.string())


def _number_texts(column: pa.Array) -> pa.Array:
    """Arrow writes the shortest digits of whatever width; whole numbers lose point and exponent."""
    column = column.cast(pa.float32()) if types.is_float16(column.type) else column
    pairs = zip(column.to_pylist(), column.cast(pa.string()).to_pylist(), strict=True)
    return pa.array([short if _is_broken(value) else value_text(value) for value, short in pairs], pa.string())


def _is_broken(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and not value.is_integer()


def value_text(value: Any) -> str | None:
    """Write one value: `5` for 5.0, ISO for a date, JSON for what is nested; None for NaN and nothing.

    Raises:
        TypeError: If it has no text.
    """
    value = _plain(value)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Turn a value into what JSON has."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else format(value, "f")
    if isinstance(value, datetime):
        midnight = value.tzinfo is None and value.time() == time()
        return value.date().isoformat() if midnight else value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {_key(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, tuple) for item in value):  # how Arrow gives a map
            return {_key(name): _plain(item) for name, item in value}
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{type(value).__name__} has no text")


def _key(name: Any) -> str:
    return value_text(name) or ""


def attribute_text(attributes: str | None) -> str | None:
    """Write attributes given as JSON, `{"colour": "red"}` or `[{"name": "colour", "value": "red"}]`, as `colour: red`.

    Other text stays as it is.
    """
    if attributes is None or not attributes.startswith(("{", "[")):
        return attributes
    try:
        found = json.loads(attributes)
    except (ValueError, RecursionError):
        return attributes
    items = list(found.items()) if isinstance(found, dict) else [_named(item) for item in found]
    if any(item is None for item in items):
        return attributes
    shown = ((name, value_text(value)) for name, value in items)
    return "; ".join(f"{name}: {value}" if name else value for name, value in shown if value is not None)


def _named(item: Any) -> tuple[str, Any] | None:
    """A name with its value, of a struct or a list of the two; a text alone has no name."""
    if isinstance(item, dict) and len(item) == 2:
        first, second = item.items()
        name, value = (second[1], first[1]) if first[0].lower() in ("value", "v") else (first[1], second[1])
        return (name, value) if isinstance(name, str) else None
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
        return item[0], item[1]
    return ("", item) if isinstance(item, str) else None
