"""What settings name outside of the process: places that a job reads and writes, looked at before any work is done.

A field says so by its type: `input: InputUrl`, `chats: tuple[InputUrl, ...]`, `sets: dict[str, InputUrl]`,
`output: OutputUrl`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator

from cluster import storage
from cluster.settings import Settings
from cluster.storage_failures import named_failures


@dataclass(frozen=True)
class Place:
    """Marks a setting as the name of something that is read or written."""

    verb: str
    look: Callable[[str, Settings], str]
    """Says in a few words what is at a name, given the whole job.

    Raises:
        ValueError: If the job could not use it.
    """

    require: Callable[[str], None] | None = None
    """Looks before any run, not a dry one alone, and raises as `look` does; None: the job finds out in time."""


@dataclass(frozen=True)
class NamedPlace:
    """A value of a job's settings that names a place."""

    setting: str
    """Dotted name of the setting."""
    name: str
    place: Place


def look_at_input(url: str, _job: Settings) -> str:
    """Say how much there is to read.

    Raises:
        ValueError: If there is nothing.
    """
    files = storage.list_files(url)
    if not files:
        raise ValueError(_nothing_at(url))
    return _amount(files)


def look_at_output(url: str, _job: Settings) -> str:
    """Say whether something is there already, of a place that can be written to.

    Raises:
        ValueError: If it cannot.
        OSError: If storage refuses or fails.
    """
    _try_to_write(url)
    files = storage.list_files(url)
    return f"there already: {_amount(files)}" if files else "nothing there yet"


def _try_to_write(url: str) -> None:
    """Find out whether a place can be written to, leaving nothing there."""
    filesystem, path = storage.open_filesystem(url)
    if "file" in filesystem.protocol:
        above = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        if not os.access(above, os.W_OK) or (above != Path(path) and not above.is_dir()):
            raise ValueError(f"{above} cannot be written to: give another place, or the right to write there")
        return
    bucket, key, _ = filesystem.split_path(f"{path}/_tried")
    with named_failures(url):  # an upload in parts that is begun needs the right to write, and shows nowhere
        begun = filesystem.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        with suppress(OSError):
            filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=begun["UploadId"])


def look_aside(url: str) -> None:
    """Refuse a place of `AsideUrl` at which nothing is.

    Raises:
        ValueError: If nothing is there.
        OSError: If storage refuses or fails.
    """
    if not storage.exists(url):
        raise ValueError(_nothing_at(url))


def _nothing_at(url: str) -> str:
    return f"nothing is at {url}: give a file or folder that is there, local or s3://"


def on_this_machine(name: str) -> str:
    """Refuse an address where a path is expected.

    Raises:
        ValueError: If it is one.
    """
    if "://" in name:
        raise ValueError(f"expected a path on the disk of the machine that the job runs on, found {name}")
    return name


def _below_home(name: str) -> str:
    return os.path.expanduser(on_this_machine(name))  # noqa: PTH111


InputUrl = Annotated[str, Place("reads", look_at_input)]
"""A file or folder, local or s3://, that has to be there."""

AsideUrl = Annotated[str, Place("reads", look_at_input, look_aside)]
"""An `InputUrl` that is read beside the input, maybe late: it is not what comes later, so it is looked at first."""

OutputUrl = Annotated[str, Place("writes", look_at_output, _try_to_write)]
"""A file or folder, local or s3://, that need not be there."""

OutputPath = Annotated[str, AfterValidator(_below_home), Place("writes", look_at_output, _try_to_write)]
"""A file or folder that need not be there, of this machine alone: what a job works in, where a later run goes on."""

CachePath = Annotated[str, AfterValidator(on_this_machine)]
"""A folder for copies of what is remote, on each machine that needs them; below its own home where it begins with ~."""


def places_of(settings: Settings, prefix: str = "", used: Set[str] = frozenset()) -> Iterator[NamedPlace]:
    """List the places that settings name and use, sections included; what is left out (null, an empty list) is none."""
    used = used | settings.used()
    unused = settings.unused() - {one.partition(".")[0] for one in used}
    for name, field in type(settings).model_fields.items():
        if name in unused:
            continue
        value = getattr(settings, name)
        if isinstance(value, Settings):
            below = {one.removeprefix(f"{name}.") for one in used if one.startswith(f"{name}.")}
            yield from places_of(value, f"{prefix}{name}.", below)
        elif place := _place([*field.metadata, field.annotation]):
            if isinstance(value, Mapping):
                yield from (NamedPlace(f"{prefix}{name}.{key}", one, place) for key, one in value.items())
                continue
            for one in (value,) if isinstance(value, str) else value or ():
                yield NamedPlace(prefix + name, one, place)


def check_places(job: Settings) -> list[str]:
    """Look at all places of a job; gives a line each.

    Raises:
        ValueError: If the job could not use some of them, naming each.
    """
    lines, wrong = [], []
    for found in places_of(job):
        try:
            lines.append(f"{found.place.verb} {found.setting}={found.name}: {found.place.look(found.name, job)}")
        except (ValueError, FileNotFoundError, PermissionError) as error:
            wrong.append(f"{found.setting}={found.name}: {error}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return lines


def require_places(job: Settings) -> None:
    """Refuse a job that could not write its output, or lacks what it reads late: else hours would be lost.

    Raises:
        ValueError: If the storage refuses, naming the setting.
        OSError: If it fails.
    """
    for found in places_of(job):
        if found.place.require is not None:
            try:
                found.place.require(found.name)
            except (ValueError, FileNotFoundError, PermissionError) as error:
                raise ValueError(f"{found.setting}={found.name}: {error}") from error


def _place(annotations: list[Any]) -> Place | None:
    """Find the mark in a field's type, however deep: `tuple[InputUrl, ...] | None` has it too."""
    for annotation in annotations:
        if isinstance(annotation, Place):
            return annotation
        inner = [*get_args(annotation), *getattr(annotation, "__metadata__", ())]
        if inner and (found := _place(inner)):
            return found
    return None


def _amount(files: list[storage.StoredFile]) -> str:
    size = sum(file.size_bytes for file in files)
    divisor, unit = next((one for one in ((1e9, "GB"), (1e6, "MB")) if size >= one[0]), (1e3, "kB"))
    return f"{len(files):,} file{'s' if len(files) > 1 else ''}, {size / divisor:,.1f} {unit}"
