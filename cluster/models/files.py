"""Find a model's files by name, know exactly which content is meant, and bring it to this machine.

A name is one of
    relevance/small_model              a folder, relative to the working directory or the project
    s3://bucket/models/llama-3.1-8b    a folder in object storage
    models:/relevance@champion         a registered model of the MLflow registry (or models:/relevance/7)
    meta-llama/Llama-3.1-8B            a repository on the Hugging Face hub (or …@revision)
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cluster import storage
from cluster.provenance import hide_credentials
from cluster.tracking import open_client, tracking_uri

_PROJECT = Path(__file__).resolve().parents[2]
_WEIGHTS = "*.safetensors"
_HUB_FILES = ["*.json", _WEIGHTS, "*.txt", "*.model", "*.jinja"]
"""Never pickled weights, never code."""
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
    lasting_name: str | None = None
    """A name that goes on meaning this content when an alias or a branch moves; None where there is none: what lies in
    a folder can be replaced."""


def resolve_model(name: str, *, registry_uri: str | None = None) -> ModelFiles:
    """Pin a model's name to the content that it means now; `registry_uri` as in `tracking.tracking_uri`.

    Raises:
        ValueError: If there is no such model, saying where it was looked for.
    """
    if name.startswith("models:/"):
        return _resolve_registered(name, tracking_uri(registry_uri))
    if name.startswith("s3://"):
        listing = [(file.url, file.size_bytes, file.version) for file in storage.list_files(name)]
        if not listing:
            raise ValueError(f"model {name}: no files there")
        digest = hashlib.sha256(repr(listing).encode()).hexdigest()[:16]
        return ModelFiles(f"{name.rstrip('/').rpartition('/')[2]}@{digest[:8]}", digest, name)
    folder = _local_folder(name)
    if folder is not None:
        digest = _hash_folder(folder)
        return ModelFiles(f"{folder.name}@{digest[:8]}", digest, str(folder))
    return _resolve_hub(name)


def fetch_model(model: ModelFiles, *, cache_dir: str, weights: bool = True) -> Path:
    """Return a local folder with the model's files, copied into the cache first where they are remote.

    Without `weights` the safetensors files of a remote model stay where they are: a driver that only
    needs the tokeniser does not pull sixteen gigabytes.
    """
    source = model.source
    if source.startswith("mlflow-artifacts:"):
        import mlflow.artifacts

        target = Path(cache_dir).expanduser() / "registry" / model.digest
        target.mkdir(parents=True, exist_ok=True)
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(target), tracking_uri=model.registry_uri
            )
        )
    if source.startswith("hub:"):
        from huggingface_hub import snapshot_download

        patterns = [pattern for pattern in _HUB_FILES if weights or pattern != _WEIGHTS]
        repository, _, revision = source.removeprefix("hub:").rpartition("@")
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    skip = "" if weights else _WEIGHTS[1:]
    return Path(storage.fetch_folder(source, os.path.expanduser(cache_dir), skip_suffix=skip))  # noqa: PTH111


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


def _resolve_registered(name: str, registry_uri: str) -> ModelFiles:
    from mlflow.exceptions import MlflowException

    client = open_client(registry_uri)
    model, at, alias = name.removeprefix("models:/").partition("@")
    try:
        if at:
            found = client.get_model_version_by_alias(model, alias)
        else:
            found = client.get_model_version(*model.split("/", 1))
        source = client.get_model_version_download_uri(found.name, found.version)
        if source.startswith("models:/"):
            source = client.get_logged_model(source.removeprefix("models:/")).artifact_location
    except (MlflowException, TypeError) as error:
        where = hide_credentials(registry_uri)
        raise ValueError(f"model {name}: not in the MLflow registry at {where} ({error})") from None
    version = f"{found.name}/{found.version}"
    identity = f"{version} {found.source} {found.run_id} {found.creation_timestamp}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return ModelFiles(version, digest, source.removeprefix("file://"), registry_uri, f"models:/{version}")


def _resolve_hub(name: str) -> ModelFiles:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = name.partition("@")
    try:
        try:
            revision = HfApi().model_info(repository, revision=revision or None).sha
        except OfflineModeIsEnabled:
            snapshot = snapshot_download(
                repository, revision=revision or None, local_files_only=True, allow_patterns=_HUB_FILES
            )
            revision = Path(snapshot).name
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"model {name}: no such folder, and not found on the hub ({reason})") from None
    lasting = f"{repository}@{revision}"
    return ModelFiles(f"{repository}@{revision[:8]}", revision[:16], f"hub:{lasting}", lasting_name=lasting)
