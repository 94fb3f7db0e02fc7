"""What object storage fails with: told from other errors, and said with the place and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from fsspec import AbstractFileSystem

_REMEDIES = {
    "ProfileNotFound": "AWS_PROFILE has to name a profile of ~/.aws/config or ~/.aws/credentials, or to be unset",
    "ConfigParseError": "mend that file, or name another in AWS_CONFIG_FILE",
    "ConfigNotFound": "name a file that is there in AWS_CONFIG_FILE, or unset it",
    "RequestTimeTooSkewed": "set this machine's clock, such as by chrony",
}
"""What no right changes: how this machine is told to reach the storage. By botocore's names, or S3's own."""


def is_failure(error: Exception) -> bool:
    """Tell a failure of storage, those of the libraries below s3fs too, which are no `OSError`: no keys, no answer."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "aiohttp")


def is_refusal(error: Exception) -> bool:
    """Tell a failure that ends with a right or with credentials."""
    return isinstance(error, PermissionError) or (is_failure(error) and "Credential" in type(error).__name__)


def is_archived(error: Exception) -> bool:
    """Tell that an object is in an archive, from which it has to be restored before it can be read."""
    return _code(error) == "InvalidObjectState"


def is_conflict(error: Exception) -> bool:
    """Tell that S3 asks to come again, as it may where several write one object at once."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 409


def _code(error: Exception) -> str | None:
    return (getattr(error.__cause__, "response", None) or {}).get("Error", {}).get("Code")


def remove_object(filesystem: AbstractFileSystem, path: str) -> None:
    """Remove an object of S3; s3fs passes over the answer, and a proxy's page with a status of 200 removes nothing."""
    bucket, key, _ = filesystem.split_path(path)
    answer = filesystem.call_s3("delete_object", Bucket=bucket, Key=key)
    # 204, as S3 says; of a store that says otherwise the object itself tells.
    if answer["ResponseMetadata"]["HTTPStatusCode"] != 204 and filesystem.exists(path):
        raise OSError("expected it to be removed, found it there; look at what AWS_ENDPOINT_URL leads to")


@contextmanager
def named_failures(url: str) -> Iterator[None]:
    """Say where object storage failed, as an `OSError`: "Access Denied" alone names no place.

    After a refusal the next call reads the credentials anew: those of a file are changed under a process that lives on.
    """
    try:
        yield
    except Exception as error:
        if url.startswith("s3://") and str(error).startswith("Invalid endpoint"):  # botocore's, a bare ValueError
            raise ValueError(f"{url}: {error}: AWS_ENDPOINT_URL has to be an address as https://host:9000") from error
        is_answer = isinstance(error, FileNotFoundError | FileExistsError) and _code(error) != "NoSuchBucket"
        if not url.startswith("s3://") or not is_failure(error) or is_answer or url in str(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{url}: {reason}: create the bucket, or give another place") from error
        if remedy := _REMEDIES.get(_code(error) or type(error).__name__):
            raise PermissionError(f"{url}: the storage cannot be reached ({reason}): {remedy}") from error
        if is_refusal(error):
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            remedy = "give, or renew, credentials with the right to do this there"
            raise PermissionError(f"{url}: the storage refused ({reason}): {remedy}") from error
        raise ConnectionError(f"{url}: the storage failed ({reason}): run it again") from error
