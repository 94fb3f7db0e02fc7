"""Files that an MLflow server keeps: of a registered version or of a run, read directly or through the server."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cluster.provenance import hide_credentials
from cluster.tracking import explain_failure, open_client

_THE_CALLERS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED")
"""What MLflow says of a name or a right that is not there; whatever else it says may be over in a while."""

PROXIED = "mlflow-artifacts:"
"""Only the server itself can read such a location."""


@dataclass(frozen=True)
class StoredArtifacts:
    """A folder of an MLflow server's."""

    name: str
    """For people."""
    identity: str
    """The same for the same files, for ever: neither versions nor finished runs change."""
    source: str
    """Where the files are: a folder, s3://… or `PROXIED`."""


def registered_version(name: str, uri: str) -> StoredArtifacts:
    """Find the version that `models:/name@alias` or `models:/name/7` means now.

    Raises:
        ValueError: If there is none, saying where it was looked for.
        RuntimeError: If the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(uri)
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
        _refuse_silence(error, uri)
        raise ValueError(
            f"model {name}: not in the MLflow registry at {hide_credentials(uri)} ({explain_failure(error)})"
        ) from None
    version = f"{found.name}/{found.version}"
    identity = f"{version} {found.source} {found.run_id} {found.creation_timestamp}"
    return StoredArtifacts(version, identity, _require_seen(_readable(source), name))


def run_artifacts(name: str, uri: str) -> StoredArtifacts:
    """Find what `runs:/run id/folder` means, such as the adapter that a fine-tuning left in its run.

    Raises:
        ValueError: If there is no such run, or nothing in the folder.
        RuntimeError: If the server does not answer.
    """
    from mlflow.exceptions import MlflowException

    run_id, _, path = name.removeprefix("runs:/").strip("/").partition("/")
    try:
        found = open_client(uri).get_run(run_id)
        root = _readable(found.info.artifact_uri)
        source = f"{root.rstrip('/')}/{path}".rstrip("/")
        names = list_artifacts(source, uri)
    except (MlflowException, OSError) as error:
        _refuse_silence(error, uri)
        raise ValueError(
            f"model {name}: no such run at {hide_credentials(uri)} ({explain_failure(error)}): give runs:/RUN_ID/FOLDER"
        ) from None
    if not names:
        _require_seen(root, name)
        raise ValueError(
            f"model {name}: the run has no files there: give runs:/RUN_ID/FOLDER, as the run's page of MLflow shows it"
        )
    return StoredArtifacts(f"{run_id[:8]}/{path}", f"{source} {sorted(names.items())}", source)


def list_artifacts(source: str, uri: str) -> dict[str, int]:
    """Bytes of each file of a folder, by path within it."""
    repository, found, folders = _repository(source, uri), {}, [None]
    while folders:
        for entry in repository.list_artifacts(folders.pop()):
            if entry.is_dir:
                folders.append(entry.path)
            else:
                found[entry.path] = entry.file_size or 0
    return found


def fetch_artifacts(source: str, uri: str, target: Path, *, skip_suffix: str = "") -> None:
    """Download a folder through the server, less the files of one suffix.

    Raises:
        RuntimeError: If the server does not hand them out.
    """
    from mlflow.exceptions import MlflowException

    repository = _repository(source, uri)
    try:
        for path in list_artifacts(source, uri):
            if not (skip_suffix and path.endswith(skip_suffix)):
                repository.download_artifacts(path, str(target))
    except (MlflowException, OSError) as error:
        where = hide_credentials(uri)
        raise RuntimeError(f"MLflow at {where} does not hand out {source} ({explain_failure(error)})") from None


def _readable(source: str) -> str:
    """Turn MLflow's address of a folder, in which blanks and umlauts are encoded, into its path."""
    return url2pathname(urlsplit(source).path) if source.startswith("file:") else source


def _require_seen(source: str, name: str) -> str:
    """Refuse a folder that the server sees and this machine does not."""
    if source.startswith("/") and not Path(source).is_dir():
        raise ValueError(
            f"model {name}: MLflow keeps its files in the folder {source}, which is not there on this machine: have "
            "the server hand them out (mlflow server --serve-artifacts), or mount the folder under the same path"
        )
    return source


def digest(identity: str) -> str:
    """Shorten an identity; hex, 16 digits."""
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _repository(source: str, uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(source, tracking_uri=uri)


def _refuse_silence(error: Exception, uri: str) -> None:
    """Tell a server that is away, which a rerun may find, from a name that is not there, which it will not."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.error_code not in _THE_CALLERS:
        where = hide_credentials(uri)
        raise RuntimeError(f"MLflow at {where} does not answer ({explain_failure(error)}): run the job again") from None
