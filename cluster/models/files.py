"""Find a model's files by name, know exactly which content is meant, and bring it to this machine.

A name is one of
    relevance/small_model              a folder, relative to the working directory or the project
    s3://bucket/models/llama-3.1-8b    a folder in object storage
    models:/relevance@champion         a registered model of the MLflow registry (or models:/relevance/7)
    runs:/0a1b2c…/adapter              a folder that a run left at the MLflow server
    meta-llama/Llama-3.1-8B            a repository on the Hugging Face hub (or …@revision)

A job resolves a name once and passes the result on: a name may mean something else an hour later, and what it was
resolved to is no name.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cluster import storage
from cluster.downloads import fetch_once
from cluster.models import artifacts, hub
from cluster.places import Place
from cluster.settings import Settings
from cluster.tracking import tracking_uri

logger = logging.getLogger(__name__)

_PROJECT = Path(__file__).resolve().parents[2]
WEIGHTS_SUFFIX = ".safetensors"
_HASH_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class ModelFiles:
    """Pinned model files: `source` always means the same content, which `digest` names."""

    version: str
    """For people: the name with its resolved version, revision or content digest."""
    digest: str
    source: str
    registry_uri: str | None = None
    """The MLflow server that hands out the files itself; None: `source` is read directly."""
    listing: str | None = None
    """Of files in s3://, which can be overwritten: `storage.listing_digest` when the name was resolved."""
    lasting_name: str | None = None
    """A name that goes on meaning this content when an alias or a branch moves; None where there is none: what lies in
    a folder can be replaced."""


def resolve_model(name: str, *, registry_uri: str | None = None) -> ModelFiles:
    """Pin a model's name to the content that it means now; `registry_uri` as in `tracking.tracking_uri`.

    Raises:
        ValueError: If there is no such model, saying where it was looked for.
        RuntimeError: If the hub does not answer.
    """
    if name.startswith(("models:/", "runs:/")):
        uri = tracking_uri(registry_uri)
        find = artifacts.registered_version if name.startswith("models:/") else artifacts.run_artifacts
        found = find(name, uri)
        listing = storage.listing_digest(_list_s3(name, found.source)) if found.source.startswith("s3://") else None
        lasting = f"models:/{found.name}" if name.startswith("models:/") else name
        return ModelFiles(found.name, artifacts.digest(found.identity), found.source, uri, listing, lasting)
    if name.startswith("s3://"):
        files = _list_s3(name, name)
        digest = storage.listing_digest(files)
        return ModelFiles(f"{name.rstrip('/').rpartition('/')[2]}@{digest[:8]}", digest[:16], name, listing=digest)
    folder = _local_folder(name)
    if folder is not None:
        digest = _hash_folder(folder)
        return ModelFiles(f"{folder.name}@{digest[:8]}", digest, str(folder))
    repository = hub.HubRepository.pin(name)
    commit = repository.commit
    lasting = f"{repository.name}@{commit}"
    return ModelFiles(f"{repository.name}@{commit[:8]}", commit[:16], repository.source, lasting_name=lasting)


def fetch_model(model: ModelFiles, *, cache_dir: str, weights: bool = True) -> Path:
    """Return a local folder with the model's files, copied into the cache first where they are remote.

    Without `weights` the safetensors files of a remote model stay where they are: a driver that only
    needs the tokeniser does not pull sixteen gigabytes. However many processes of a machine ask at once, one downloads.

    Raises:
        ValueError: If the files are no longer those that were pinned, or may not be loaded.
        RuntimeError: If the server does not hand them out.
    """
    source, skipped = model.source, "" if weights else WEIGHTS_SUFFIX
    if source.startswith(hub.SCHEME):
        return hub.HubRepository.of(source).fetch(weights=weights)
    if source.startswith(artifacts.PROXIED):
        whole = Path(cache_dir).expanduser() / "registry" / model.digest
        if weights or whole.is_dir():
            return fetch_once(whole, lambda folder: _fetch_proxied(model, folder))
        light = whole.with_name(f"{whole.name}-without-weights")
        return fetch_once(light, lambda folder: _fetch_proxied(model, folder, skip_suffix=skipped))
    return Path(storage.fetch_folder(source, cache_dir, skip_suffix=skipped, listing=model.listing))


def kept_model(digest: str, *, cache_dir: str) -> Path | None:
    """Give the copy that `keep_model` made of this content; None if there is none, or it is not what it was."""
    kept = _kept_place(digest, cache_dir)
    if _is_whole(kept):
        return kept
    if kept.is_dir():
        logger.warning("%s: harmed, as by a loss of power or a failing disk; the model is fetched again", kept)
    return None


def keep_model(model: ModelFiles, *, cache_dir: str) -> Path:
    """Return a folder of this machine's own with the model's files, which stays as it is when the source is replaced.

    Raises:
        ValueError: If the files are no longer those that were pinned.
        RuntimeError: As `fetch_model`.
    """
    kept = _kept_place(model.digest, cache_dir)

    def copy(staged: Path) -> None:
        # Of remote files no copy from a cache: it may be harmed as well, and nothing would say so.
        with tempfile.TemporaryDirectory(prefix=f"{staged.stem}.", suffix=staged.suffix, dir=staged.parent) as fresh:
            shutil.copytree(fetch_model(model, cache_dir=fresh), staged, dirs_exist_ok=True)
        content = _hash_folder(staged)
        if model.listing is not None:
            storage.write_bytes(str(_content_mark(kept)), content.encode())
        elif content != model.digest:
            raise ValueError(
                f"model {model.source}: expected content {model.digest}, found it changing; deploy it anew"
            )

    return fetch_once(kept, copy, whole=_is_whole)


def _kept_place(digest: str, cache_dir: str) -> Path:
    return Path(cache_dir).expanduser() / "kept" / digest


def _content_mark(kept: Path) -> Path:
    """Where the digest of a copy's content stands where its name is another: that of a listing, of files in s3://."""
    return kept.with_name(f"{kept.name}.content")


def _is_whole(kept: Path) -> bool:
    with suppress(OSError):  # what cannot be read is not there
        content, mark = _hash_folder(kept), _content_mark(kept)
        return content == kept.name or (mark.is_file() and mark.read_text() == content)
    return False


def look_at_model(name: str, job: Settings) -> str:
    """Say what a name means now, without reading weights.

    Raises:
        ValueError: If there is no such model.
        RuntimeError: If the hub does not answer.
    """
    if (folder := _local_folder(name)) is not None:
        return f"the folder {folder.name}"
    return resolve_model(name, registry_uri=getattr(getattr(job, "tracking", None), "uri", None)).version


ModelName = Annotated[str, Place("reads", look_at_model)]
"""A name as the top of this file lists them."""


def _fetch_proxied(model: ModelFiles, folder: Path, *, skip_suffix: str = "") -> None:
    artifacts.fetch_artifacts(model.source, model.registry_uri or "", folder, skip_suffix=skip_suffix)


def _list_s3(name: str, source: str) -> list[storage.StoredFile]:
    files = storage.list_files(source)
    if not files:
        raise ValueError(f"model {name}: no files there")
    return files


def _local_folder(name: str) -> Path | None:
    candidates = [Path(name).expanduser(), _PROJECT / name]
    return next((path.resolve() for path in candidates if path.is_dir()), None)


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".md", ".html"):
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_HASH_CHUNK_BYTES):
                    digest.update(chunk)
    return digest.hexdigest()[:16]
