"""Bytes on a local disk or in an S3 bucket, behind one set of functions.

Locations are strings (`s3://bucket/key` or a path): `Path` would fold the two slashes. S3 is reached
through s3fs; the endpoint and the credentials come from the usual AWS_* variables. A location is a name and never
a pattern: only calls that take `[`, `?` and `*` for themselves are made here (`rm` and `copy` of fsspec do not).
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from cluster.downloads import fetch_once
from cluster.storage_failures import is_conflict, named_failures, remove_object

Buffer = bytes | bytearray | memoryview
"""Or anything else that lends its bytes, such as `pyarrow.Buffer`."""

_PARALLEL_REQUESTS, _IN_PARTS_BYTES = 16, 100 * 2**20
_CONFLICT_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds, give or take a half."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_NO_S3 = re.compile(r"s3:(?!//)|s3://(/|[^/]+//+[^/]|$)")
"""One slash, or none before the bucket, or two behind it: s3fs writes there under a key that its listings leave out."""
_S3_OPTIONS: dict[str, Any] = {
    # The one retry policy: botocore's standard mode repeats 500, 502, 503, 504, throttling and broken connections with
    # backoff and jitter, two minutes in all; s3fs all that up to five times after SlowDown, and where a store hangs.
    "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 10}, "connect_timeout": 10, "read_timeout": 60},
    # Another process may have written since: a cached listing would hide its manifests.
    "use_listings_cache": False,
}


@dataclass(frozen=True)
class StoredFile:
    """A file in a listing; `version` changes when its content does (ETag, or modification time)."""

    url: str
    size_bytes: int
    version: str


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a location and the path inside it.

    Raises:
        ValueError: If it is neither a path, file:// nor s3:// with a bucket and a key without an empty first part.
    """
    if _NO_S3.match(url):
        raise ValueError(f"{url}: expected s3://bucket/key, found too few slashes or too many: write it with these")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file" or not _SCHEME.fullmatch(scheme):
        path = url.removeprefix("file://")
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
    if scheme == "s3":
        return fsspec.filesystem("s3", **_S3_OPTIONS), url.removeprefix("s3://").rstrip("/")
    raise ValueError(f"{url}: unknown storage {scheme}://, expected a local path or s3://bucket/key")


def absolute_url(url: str) -> str:
    """Make a local path absolute: a worker's working directory is not the driver's."""
    return url.rstrip("/") if "://" in url else open_filesystem(url)[1]


def short_url(url: str) -> str:
    """Show a local path below the working directory as people typed it."""
    return url.removeprefix(f"{os.getcwd()}/")  # noqa: PTH109


def join_url(base: str, *names: str) -> str:
    """Append path parts to a location."""
    return "/".join([base.rstrip("/"), *names])


def read_bytes(url: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: If there is none.
    """
    filesystem, path = open_filesystem(url)
    with named_failures(url):
        return filesystem.cat_file(path)


def read_ranges(urls: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """Read one byte range of each file, in parallel where the storage is remote."""
    if not urls:
        return []
    filesystem, _ = open_filesystem(urls[0])
    paths = [open_filesystem(url)[1] for url in urls]
    with named_failures(urls[0]):
        return filesystem.cat_ranges(paths, list(starts), list(ends), on_error="raise")


def exists(url: str) -> bool:
    """Tell whether a file or folder is there."""
    filesystem, path = open_filesystem(url)
    with named_failures(url):
        return filesystem.exists(path)


def list_files(url: str, *, suffix: str = "") -> list[StoredFile]:
    """List the files under a folder, or the file itself, sorted by location; none if nothing is there.

    Links of a disk are what they lead to; one that leads nowhere is a file that cannot be read.

    Raises:
        OSError: If a folder cannot be read, or is a link to one that it lies in; or there is no such bucket.
    """
    filesystem, path = open_filesystem(url)
    if "file" in filesystem.protocol:
        files = [_stored_file(name) for name in _walk(path, ()) if name.endswith(suffix)]
        return sorted((file for file in files if file), key=lambda file: file.url)
    with named_failures(url):
        found = filesystem.find(path, detail=True)
    files = [
        StoredFile(f"s3://{name}", int(info["size"]), str(info.get("ETag", "")).strip('"'))
        for name, info in found.items()
        # What ends in a slash is a console's folder, unless it has content: then it is passed over by name.
        if name.endswith(suffix) and info.get("type") == "file" and (info["size"] or not name.endswith("/"))
    ]
    return sorted(files, key=lambda file: file.url)


def _walk(path: str, above: tuple[os.stat_result, ...]) -> Iterator[str]:
    """Name what lies below a path; fsspec's own walk leaves links, and folders that it may not read, out in silence."""
    try:
        here = os.stat(path)  # noqa: PTH116
        if not stat.S_ISDIR(here.st_mode):
            yield path
            return
        if any(os.path.samestat(here, folder) for folder in above):
            raise OSError(f"{path}: a link to a folder that it lies in: remove the link")
        names = os.listdir(path)  # noqa: PTH208
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114
            yield path
        return  # else it has gone meanwhile
    except PermissionError as error:
        raise PermissionError(
            f"{path}: cannot be read ({error.strerror}): give this user the right to read it"
        ) from None
    for name in names:
        yield from _walk(os.path.join(path, name), (*above, here))  # noqa: PTH118


def _stored_file(path: str) -> StoredFile | None:
    """Look at a file; None if it has gone meanwhile, or is a pipe or a device."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return StoredFile(path, 0, "") if os.path.islink(path) else None  # noqa: PTH114
    return StoredFile(path, found.st_size, str(found.st_mtime)) if stat.S_ISREG(found.st_mode) else None


def write_bytes(url: str, data: Buffer) -> None:
    """Write a file whole: a reader sees the old content or the new, never a part."""
    filesystem, path = open_filesystem(url)
    if "file" in filesystem.protocol:
        temporary = _write_beside(path, data)
        os.replace(temporary, path)  # noqa: PTH105
    else:
        with named_failures(url):
            _put_object(filesystem, path, bytes(memoryview(data)))


def create_exclusive(url: str, data: bytes) -> bool:
    """Write a file only if there is none, in one atomic step.

    Returns:
        True if this call's bytes are what is stored, False if somebody else was first. A request that was applied but
        answered with an error is repeated and then finds its own bytes: still True.
    """
    filesystem, path = open_filesystem(url)
    try:
        if "file" in filesystem.protocol:
            temporary = _write_beside(path, data)
            try:
                os.link(temporary, path)  # unlike rename, link refuses an existing name
            finally:
                os.unlink(temporary)  # noqa: PTH108
        else:
            with named_failures(url):
                _create_object(filesystem, path, data)
    except FileExistsError:
        return read_bytes(url) == data
    return True


def _create_object(filesystem: AbstractFileSystem, path: str, data: bytes) -> None:
    """Put an object that is not there yet; of several that do so at once S3 may ask all to come again (409)."""
    for pause in (*_CONFLICT_PAUSES, None):
        try:
            _put_object(filesystem, path, data, mode="create")
            return
        except OSError as error:
            if pause is None or not is_conflict(error):
                raise
            time.sleep(pause * random.uniform(0.5, 1.5))


def _put_object(filesystem: AbstractFileSystem, path: str, data: bytes, **how: str) -> None:
    """Put an object; an answer that names none, as a proxy's page with a status of 200, is no store's."""
    answer = filesystem.pipe_file(path, data, **how)
    if answer is not None and "ETag" not in answer:  # None: it went in parts, of which s3fs needs the ETags
        raise OSError("expected an answer with an ETag, found one without; look at what AWS_ENDPOINT_URL leads to")


def _write_beside(path: str, data: Buffer) -> str:
    folder = os.path.dirname(path)  # noqa: PTH120
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")  # noqa: PTH118
    try:
        with open(temporary, "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a disk that is full would stay so by what nobody reads
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    return temporary


def copy_files(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Copy files within one storage, on the server where it can; a target that exists is replaced."""

    def copy(source: str, target: str) -> None:
        filesystem, path = open_filesystem(source)
        if "file" in filesystem.protocol:
            write_bytes(target, read_bytes(source))
        else:
            with named_failures(target):
                filesystem.cp_file(path, to := open_filesystem(target)[1])
                # s3fs passes over the answer: a proxy's page with a status of 200 would be a copy.
                copied = None
                with suppress(FileNotFoundError):
                    copied = filesystem.info(to)["size"]
                if copied != filesystem.info(path)["size"]:
                    raise OSError(f"{target}: expected a copy of {source} there, found none; copy it again")

    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        list(pool.map(copy, sources, targets))


def remove(url: str) -> None:
    """Remove a file or a folder with all in it; nothing to remove is fine."""
    filesystem, path = open_filesystem(url)
    if "file" in filesystem.protocol:
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)  # noqa: PTH108
        return
    remove_files([file.url for file in list_files(url)])


def remove_files(urls: Sequence[str]) -> None:
    """Remove files, many at a time; one that is gone already is fine."""

    def remove_file(url: str) -> None:
        filesystem, path = open_filesystem(url)
        if "file" in filesystem.protocol:
            Path(path).unlink(missing_ok=True)
        else:
            with named_failures(url):
                remove_object(filesystem, path)

    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        list(pool.map(remove_file, urls))


def send_folder(folder: Path, url: str) -> None:
    """Copy a folder of this machine to a location, files that are there replaced, those of other names left alone."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]

    def send(path: Path) -> None:
        target = join_url(url, *path.relative_to(folder).parts)
        filesystem, remote = open_filesystem(target)
        if "file" in filesystem.protocol:
            Path(remote).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, remote)
        elif path.stat().st_size < _IN_PARTS_BYTES:
            write_bytes(target, path.read_bytes())
        else:
            with named_failures(target):
                filesystem.put_file(str(path), remote)

    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        list(pool.map(send, paths))


@contextmanager
def local_folder(url: str, *, anew: bool = False) -> Iterator[Path]:
    """Write to a location what knows paths alone: gives a folder of this machine, which need not exist yet.

    A local folder is written in place; a remote one is sent when the block has ended, and not if it failed.

    Args:
        url: The location.
        anew: Whether what lay there before goes; else it stays beside what is written. The folder exists then.
    """
    if not url.startswith("s3://"):
        folder = Path(open_filesystem(url)[1])
        if anew:
            remove(url)
            folder.mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
        if anew:
            remove(url)
        send_folder(Path(temporary), url)


def fetch_folder(url: str, cache_dir: str, *, skip_suffix: str = "", listing: str | None = None) -> str:
    """Make the files of a folder, less those of one suffix, available on the local disk and return where.

    A local folder is used in place. A remote one is copied once per content into `cache_dir`.

    Args:
        url: The folder.
        cache_dir: Where copies are kept.
        skip_suffix: Files that are left where they are.
        listing: `listing_digest` that the folder has to have, before and after it is copied.

    Raises:
        ValueError: If nothing is there, the folder is not the one that `listing` names, or a key has an empty part.
    """
    if not url.startswith("s3://"):
        return open_filesystem(url)[1]
    found = list_files(url)
    _require_listing(found, listing, url)
    files = [file for file in found if not (skip_suffix and file.url.endswith(skip_suffix))]
    target = Path(cache_dir).expanduser() / listing_digest(files)
    root = open_filesystem(url)[1]

    def download(folder: Path) -> None:
        filesystem, _ = open_filesystem(url)

        def fetch(file: StoredFile) -> None:
            remote = file.url.removeprefix("s3://")
            local = folder / _path_below(root, remote)
            local.parent.mkdir(parents=True, exist_ok=True)
            with named_failures(file.url):
                filesystem.get_file(remote, str(local))

        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            list(pool.map(fetch, files))
        _require_listing(list_files(url), listing_digest(found), url)

    return str(fetch_once(target, download))


def _path_below(root: str, key: str) -> str:
    """Give a key's path below a folder, where it is one on a disk too: two keys would be one file there."""
    path = key.removeprefix(root).removeprefix("/")
    if path.startswith("/") or path.endswith("/") or "//" in path:
        raise ValueError(f"s3://{key}: no name of a file on a disk: remove it, or write it without the empty part")
    return path


def listing_digest(files: Sequence[StoredFile]) -> str:
    """Name what a listing holds; hex, 24 digits."""
    listing = repr([(file.url, file.size_bytes, file.version) for file in files])
    return hashlib.sha256(listing.encode()).hexdigest()[:24]


def _require_listing(files: Sequence[StoredFile], listing: str | None, url: str) -> None:
    if not files:
        raise ValueError(f"{url}: no files there")
    if listing and listing_digest(files) != listing:
        raise ValueError(f"{url}: its files have changed since this job began: run it again")
