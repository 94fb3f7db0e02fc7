"""What an input's folder says of its files: which are seen, which do not count, and whether a writer is done."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from cluster import storage
from cluster.commit import SUCCESS
from cluster.sharded.report import RUN
from cluster.storage_failures import named_failures

_LOGS = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table"}
"""Folders in which a table keeps which of its files count."""
_AT_WORK = "_temporary"
"""Where Spark and Hadoop keep what is not committed yet."""
_MARK = re.compile(r"(?P<folder>(?:.*/)?)_(?P<mark>started|committed)_(?P<number>[0-9]+)", re.DOTALL)
"""What Databricks lays beside its files."""


def visible_files(url: str) -> list[storage.StoredFile]:
    """List what other readers would take for an input's own: not what is hidden, or a finished job says of itself.

    Raises:
        ValueError: If the files are a table's whose log says which of them count, `url` is itself a file too, or a
            name is not UTF-8.
        RuntimeError: If a writer is at work there: the same command is right later.
    """
    files = {inner_path(file.url, url): file for file in storage.list_files(url)}
    _refuse_hidden_object(url, files)
    _refuse_logged_table(url, files)
    shown = [name for name in files if not any(map(_is_hidden, name.split("/")))]
    if shown:
        _refuse_writer(url, files)
        _refuse_open_commits(url, files)
    for name in shown:
        if not _is_utf8(name):
            raise ValueError(f"{url}: the name of {name!a} is not UTF-8: rename it")
    return [files[name] for name in shown if not (name == RUN and SUCCESS in files)]


def _is_hidden(part: str) -> bool:
    """Tell what begins with `.` or `_` from a column of Spark's, whose name may begin so (`_market=BR`)."""
    return part.startswith(".") or (part.startswith("_") and "=" not in part)


def _refuse_hidden_object(url: str, names: Collection[str]) -> None:
    """Stop where a key of s3:// is both an object and a folder: a listing gives what lies in the folder alone."""
    filesystem, path = storage.open_filesystem(url)
    if "file" in filesystem.protocol or not names or "" in names or "/" not in path:
        return
    # What is below it may be all that is ours to read, or gone by now.
    with suppress(PermissionError, FileNotFoundError), named_failures(url):
        found = filesystem.info(path)
        if found["type"] == "file" and found["size"]:
            raise ValueError(f"{url}: an object and a folder of one name: rename one, or name files in the folder")


def _refuse_logged_table(url: str, names: Iterable[str]) -> None:
    """Stop at tables that keep rows in their files which they have removed or replaced since."""
    for name in names:
        *folders, last = name.split("/")
        for place, log in enumerate(folders):
            if log in _LOGS:
                _refuse_log(url, log, _LOGS[log])
            if _is_hidden(log):
                break  # nothing below it is read
            if place == len(folders) - 1 and log == "metadata" and last.endswith(".metadata.json"):
                _refuse_log(url, name, "an Iceberg table")
    above = storage.absolute_url(url).rstrip("/")
    while "=" in above.rpartition("/")[2]:  # one partition of a table, whose log lies beside all of them
        above = above.rpartition("/")[0]
        for log, kind in _LOGS.items():
            with suppress(PermissionError):  # this input alone may be ours to read
                if storage.exists(storage.join_url(above, log)):
                    _refuse_log(url, f"../{log}", f"a part of {kind}")


def _refuse_log(url: str, log: str, kind: str) -> None:
    raise ValueError(
        f"{url}: {kind} ({log} is there), whose files hold removed and superseded rows too: write the current version "
        "out as parquet first, and give that"
    )


def _refuse_writer(url: str, names: Collection[str]) -> None:
    """Stop at a folder in which Spark has not committed: what it shows is a part."""
    inner = [name.split("/") for name in names]
    found = {tuple(parts[: parts.index(_AT_WORK)]) for parts in inner if _AT_WORK in parts[:-1]}
    with suppress(PermissionError):  # what is there may be all that is ours to read
        if "" not in names and storage.exists(storage.join_url(url, _AT_WORK)):
            found.add(())  # maybe without a file in it
    for folder in sorted(found):
        if "/".join((*folder, SUCCESS)) not in names and not any(map(_is_hidden, folder)):
            raise RuntimeError(
                f"{storage.join_url(url, *folder, _AT_WORK)}: a writer is at work there and has not laid {SUCCESS} "
                f"beside it: run again when it is done, or remove {_AT_WORK} if it has died"
            )


def _refuse_open_commits(url: str, files: Mapping[str, storage.StoredFile]) -> None:
    """Stop at files that do not count, or not yet, in a folder in which Databricks writes straight to its place.

    `_started_7` is laid before the files, `_committed_7` behind them, with the names of those that it superseded: they
    stay until somebody cleans up.
    """
    marks = [found for name in sorted(files) if (found := _MARK.fullmatch(name)) and not _is_hidden_below(found)]
    done = {found["number"] for found in marks if found["mark"] == "committed"}
    for found in marks:
        if found["mark"] == "started" and found["number"] not in done:
            raise RuntimeError(
                f"{storage.join_url(url, found[0])}: a writer is at work there and has not laid "
                f"_committed_{found['number']} beside it: run again when it is done, or run VACUUM if it has died"
            )
    commits = [found for found in marks if found["mark"] == "committed" and files[found[0]].size_bytes]
    stored = [files[found[0]] for found in commits]
    contents = storage.read_ranges(
        [file.url for file in stored], [0] * len(stored), [file.size_bytes for file in stored]
    )
    for found, file, content in zip(commits, stored, contents, strict=True):
        try:
            superseded = [found["folder"] + name for name in json.loads(content)["removed"]]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file.url}: expected JSON with removed files, found none: remove it if it is no commit"
            ) from None
        if left := [name for name in superseded if name in files]:
            raise ValueError(
                f"{storage.join_url(url, left[0])}: superseded, as {found[0]} says ({len(left)} such files): remove "
                "what does not count any more (VACUUM)"
            )


def _is_hidden_below(mark: re.Match[str]) -> bool:
    return any(map(_is_hidden, mark["folder"].split("/")))


def _is_utf8(name: str) -> bool:
    """Tell a name of a disk that nothing can be written down with, as old archives leave it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def refuse_output_inside(output: str, url: str) -> None:
    """Stop before results are laid among what is read: the next run would take them for data.

    Raises:
        ValueError: If the output is the input or lies in it, where it would be seen.
    """
    inner = f"{storage.absolute_url(output)}/".partition(f"{storage.absolute_url(url)}/")
    if not inner[0] and inner[1] and not any(map(_is_hidden, inner[2].split("/"))):
        raise ValueError(f"{output}: an output that lies in the input {url}, which would grow by it: choose another")


def inner_path(file_url: str, url: str) -> str:
    """Name a file by its path below the input; empty where it is the input."""
    root = storage.open_filesystem(url)[1]
    return file_url.removeprefix("s3://").removeprefix(root).removeprefix("/")  # `day//a` is another key than `day/a`
