"""Typed, frozen settings and the three places they come from: code, a TOML file, the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of every settings class: immutable, and a misspelt name is an error, not a silent default."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,  # what waits or counts for ever is found out when it is too late
    )

    def unused(self) -> set[str]:
        """Name the fields that others of these settings leave without a meaning: their places need not be there."""
        return set()

    def used(self) -> set[str]:
        """Name fields of sections, as `section.field`, that these settings use though the section's own do not."""
        return set()


S = TypeVar("S", bound=Settings)


def load_settings(cls: type[S], arguments: Sequence[str], *, defaults: Path | None = None) -> S:
    """Build settings from defaults in code, then a TOML file, then `section.key=value` arguments.

    An argument that ends in `.toml` takes the place of the `defaults` file. Values of arguments stay
    strings until the field's own type converts them; for lists, tables and tuples they are JSON, and
    `null` empties an optional field.

    Raises:
        ValueError: If an argument, a file or a value is refused; the text names the field and the remedy.
    """
    files = [argument for argument in arguments if argument.endswith(".toml") and "=" not in argument]
    if len(files) > 1:
        raise ValueError(f"one settings file is expected, found {len(files)}: {', '.join(files)}")
    path = Path(files[0]) if files else defaults
    values = _read_toml(path) if path and (files or path.exists()) else {}
    for argument in arguments:
        if argument not in files:
            _apply_override(cls, values, argument)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ValueError(_explain(cls, error)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"settings file {path}: {error}") from None


def _apply_override(cls: type[Settings], values: dict[str, Any], argument: str) -> None:
    name, separator, text = argument.partition("=")
    if not separator or not name:
        raise ValueError(f"argument {argument!r}: expected section.key=value or a .toml file (--help lists the keys)")
    *sections, key = name.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"argument {argument!r}: {section!r} is a value, not a section")
    table[key] = _convert(text, _field_type(cls, [*sections, key]))


def _field_type(cls: type[Settings], names: Sequence[str]) -> Any:
    """The annotation at a dotted name, or None where there is no such field (validation will say so)."""
    annotation: Any = cls
    for name in names:
        fields = getattr(annotation, "model_fields", {})
        if name not in fields:
            return None
        annotation = fields[name].annotation
    return annotation


def _convert(text: str, annotation: Any) -> Any:
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if text == "null" and type(None) in options:
        return None
    if str in options or not any(get_origin(option) in (list, tuple, dict) for option in options):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [part for part in text.split(",") if part]


def _explain(cls: type[Settings], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting (--help lists them)")
        elif problem["type"] == "missing":
            lines.append(f"{name}: required, give {name}=VALUE")
        else:
            lines.append(f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return f"{cls.__name__}: " + "; ".join(lines)


def describe_settings(cls: type[Settings], prefix: str = "") -> list[tuple[str, str, str]]:
    """List every setting as (dotted name, default, docstring), sections expanded."""
    rows = []
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            rows += describe_settings(field.annotation, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            rows.append((prefix + name, default, " ".join((field.description or "").split())))
    return rows
