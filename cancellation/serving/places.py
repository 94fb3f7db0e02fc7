"""What lies where below `data_dir`, and the mark that takes a machine out of the balancer."""

from __future__ import annotations

import shutil
from contextlib import suppress
from hashlib import sha256
from importlib import resources
from pathlib import Path

from cancellation.serving.http.tokens import AcceptedTokens, make_tokens_file
from cancellation.serving.records.people import make_key_file
from cancellation.serving.settings import ServingSettings


def policy_path(settings: ServingSettings) -> Path:
    """Give the policy's file; where none is named, a copy of the one that ships, which may then be edited."""
    if settings.rollout.policy is not None:
        return Path(settings.rollout.policy)
    path = Path(settings.data_dir) / "policy.toml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("cancellation.decision") / "policy.toml") as shipped:
            shutil.copyfile(shipped, path)
    return path


def first_policy(settings: ServingSettings) -> bytes:
    """Give what a database without a policy begins with: the file that is named, or the one that ships."""
    if settings.rollout.policy is not None:
        return Path(settings.rollout.policy).read_bytes()
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


def is_draining(settings: ServingSettings) -> bool:
    """Tell whether the machine, or this service of it, is to get nothing new."""
    return draining_path(settings).exists() or own_draining_path(settings).exists()


def tokens_path(settings: ServingSettings) -> Path:
    """Give the tokens' file; where none is named, one that is made once, with a token for everything."""
    if settings.tokens_file is not None:
        return Path(settings.tokens_file)
    path = Path(settings.data_dir) / "tokens.txt"
    with suppress(FileExistsError):
        make_tokens_file(path)
    return path


def accepted_tokens(settings: ServingSettings) -> AcceptedTokens:
    """Give where those are kept whom the tokens' file let in last; services that share the folder may have others."""
    of_file = sha256(str(tokens_path(settings)).encode()).hexdigest()[:8]
    return AcceptedTokens(Path(settings.data_dir) / f"tokens.{of_file}.accepted")


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
