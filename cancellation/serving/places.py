"""What lies where below `data_dir`, and the mark that takes a machine out of the balancer."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib import resources
from pathlib import Path

from cancellation.serving.http.tokens import AcceptedTokens, TokenStore, make_tokens_file
from cancellation.serving.records.people import make_key_file
from cancellation.serving.settings import ServingSettings
from cluster.storage import create_exclusive, read_bytes

logger = logging.getLogger(__name__)

_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def named_disk_failures(settings: ServingSettings) -> Iterator[None]:
    """Say of a disk that takes nothing which one that is: a write that fails knows no name of its file.

    Raises:
        OSError: In place of one of the operating system's for that reason.
    """
    try:
        yield
    except OSError as error:
        named = error.filename is None or str(error.filename).startswith(settings.data_dir)
        if error.errno not in _DISK_FAILURES or not named:
            raise
        raise OSError(
            f"serving.data_dir {settings.data_dir}: expected a disk that can be written, found: {error.strerror}; free "
            "it, give this user the right to write there, or name another folder"
        ) from None


def policy_path(settings: ServingSettings) -> Path:
    """Give the policy's file; where none is named, a copy of the one that ships, which may then be edited.

    It is made for the first start alone: one that is removed later is a policy that cannot be read, and what was in
    force stays. The shipped one in its place would put markets back to work that somebody had taken off.
    """
    if settings.rollout.policy is not None:
        return Path(settings.rollout.policy)
    path = Path(settings.data_dir) / "policy.toml"
    if not os.path.lexists(path) and not ledger_path(settings).exists():
        create_exclusive(str(path), first_policy(settings))  # whole or not at all: the disk may be full
    return path


def ledger_path(settings: ServingSettings) -> Path:
    """Give the file that tells which policy was in force when."""
    return Path(settings.data_dir) / "policy.ledger.jsonl"


def first_policy(settings: ServingSettings) -> bytes:
    """Give what an endpoint without a policy begins with: the file that is named, or the one that ships."""
    if settings.rollout.policy is not None:
        return read_bytes(settings.rollout.policy)
    return (resources.files("cancellation.decision") / "policy.toml").read_bytes()


def log_folder(settings: ServingSettings) -> Path:
    """Give the folder of what is written ahead."""
    return Path(settings.data_dir) / "log"


def draining_path(settings: ServingSettings) -> Path:
    """Give the file that, while it is there, takes a machine out of the balancer: its gateways answer, not ready."""
    return Path(settings.data_dir) / "draining"


def own_draining_path(settings: ServingSettings) -> Path:
    """Give the same of one service alone: another may share the folder, such as a new one that starts before."""
    return Path(settings.data_dir) / f"draining.{settings.service_name}"


def begin_draining(settings: ServingSettings) -> None:
    """Take this service out of the balancer; a disk that takes no mark must not keep it from ending in order."""
    path = own_draining_path(settings)
    try:
        path.touch()
    except OSError as error:
        logger.error("%s: cannot be made (%s), so /readyz says nothing of this stop", path, error.strerror)


def end_draining(settings: ServingSettings) -> None:
    """Take the mark away; one that the disk keeps goes at the next start."""
    with suppress(OSError):
        own_draining_path(settings).unlink()


def is_draining(settings: ServingSettings) -> bool:
    """Tell whether the machine, or this service of it, is to get nothing new."""
    return draining_path(settings).exists() or own_draining_path(settings).exists()


def tokens_path(settings: ServingSettings) -> Path:
    """Give the tokens' file; it may not be there yet."""
    return Path(settings.tokens_file or Path(settings.data_dir) / "tokens.txt")


def prepare_tokens(settings: ServingSettings) -> Path:
    """Give the tokens' file; where none is named and none is there, one that is made with a token for everything.

    For a service that starts: to a replica one that has gone is one that cannot be read, which puts nobody out.
    """
    path = tokens_path(settings)
    if settings.tokens_file is None:
        with suppress(FileExistsError):
            make_tokens_file(path)
    return path


def open_tokens(settings: ServingSettings) -> TokenStore:
    """Open the tokens of a replica; those who were let in last are kept beside the data.

    Raises:
        ValueError: As `TokenStore.load`.
    """
    path = tokens_path(settings)
    # By file: services that share the folder may have others.
    kept = AcceptedTokens(Path(settings.data_dir) / f"tokens.{sha256(str(path).encode()).hexdigest()[:8]}.accepted")
    return TokenStore.load(prepare_tokens(settings) if kept.read() is None else path, kept)


def person_key_path(settings: ServingSettings) -> Path:
    """Give the file of the key of people's digests; it may not be there yet."""
    return Path(settings.person_key_file or Path(settings.data_dir) / "person.key")


def prepare_person_key(settings: ServingSettings) -> Path:
    """Give the key's file; where none is named, one that is made before anything is written under it.

    For the endpoint alone: whoever looks for people with a key that was made just now finds nobody, whatever is there.

    Raises:
        ValueError: If it has gone, and what was written under it has not.
    """
    path, folder = person_key_path(settings), Path(settings.data_dir)
    # Before the key is looked for: another replica makes it first, and then what is written under it.
    written = [name for name in ("recent.sqlite", "appeals.sqlite") if (folder / name).exists()]
    written += [f"log/{segment.parent.name}" for segment in log_folder(settings).glob("*/*-*")][:1]
    if settings.person_key_file is None and not path.exists():
        if written:
            raise ValueError(
                f"person key {path}: expected the key under which {', '.join(written)} were written, found none; put "
                "it back (without it nobody can appeal or be forgotten there), or begin with another data_dir"
            )
        make_key_file(path)
    return path
