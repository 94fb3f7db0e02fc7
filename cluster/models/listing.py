"""What a model's files are called, how long they are and how they begin, without fetching them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import storage
from cluster.models import artifacts, hub
from cluster.models.files import ModelFiles


@dataclass(frozen=True)
class Listing:
    """A folder of files, wherever it is."""

    name: str
    """The folder's, for people."""
    sizes: Mapping[str, int]
    """Bytes by path within the folder, sorted."""
    read: Callable[[str, int, int], bytes] | None
    """(path, start, end) -> these bytes, fewer at the file's end; None where only whole files can be had."""


def list_folder(folder: Path) -> Listing:
    """List a folder of this machine."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}

    def read(path: str, start: int, end: int) -> bytes:
        with (folder / path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    return Listing(folder.name, sizes, read)


def list_model(model: ModelFiles) -> Listing:
    """List a pinned model's files where they are.

    Raises:
        ValueError: If the hub refuses them.
        RuntimeError: If the hub does not answer.
    """
    source = model.source
    if source.startswith(hub.SCHEME):
        repository = hub.HubRepository.of(source)
        sizes = repository.sizes()
        if sizes is None:
            return list_folder(repository.fetch(weights=True))
        return Listing(model.version, dict(sorted(sizes.items())), repository.read)
    if source.startswith(artifacts.PROXIED):
        sizes = artifacts.list_artifacts(source, model.registry_uri or "")
        return Listing(model.version, dict(sorted(sizes.items())), None)
    if source.startswith("s3://"):
        return _list_s3(model)
    return list_folder(Path(source))


def _list_s3(model: ModelFiles) -> Listing:
    root = storage.absolute_url(model.source)
    sizes = {file.url.removeprefix(root).lstrip("/"): file.size_bytes for file in storage.list_files(root)}

    def read(path: str, start: int, end: int) -> bytes:
        (found,) = storage.read_ranges([storage.join_url(root, path)], [start], [min(end, sizes[path])])
        return found

    return Listing(model.version, sizes, read)
