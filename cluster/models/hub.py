"""A repository of the Hugging Face hub: pinned to a commit, fetched without code and pickled weights, or just listed.

The hub keeps its own cache (`HF_HOME`), which locks, stages and resumes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = "*.safetensors"
_FILES = ["*.json", WEIGHTS, "*.txt", "*.model", "*.jinja"]
"""Never pickled weights, never code."""
SCHEME = "hub:"


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit."""

    name: str
    commit: str

    @staticmethod
    def pin(name: str) -> HubRepository:
        """Find the commit that `owner/name` or `owner/name@revision` means now.

        Raises:
            ValueError: If there is none, or it cannot be seen from here.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

        repository, _, revision = name.partition("@")
        try:
            with _refusals(name):
                try:
                    return HubRepository(repository, HfApi().model_info(repository, revision=revision or None).sha)
                except OfflineModeIsEnabled:
                    return HubRepository(repository, _cached(repository, revision or None).name)
        except HFValidationError as error:
            raise ValueError(f"model {name}: no such folder, and no name of the hub ({_first_line(error)})") from None

    @staticmethod
    def of(source: str) -> HubRepository:
        """Read `source` back."""
        name, _, commit = source.removeprefix(SCHEME).rpartition("@")
        return HubRepository(name, commit)

    @property
    def source(self) -> str:
        """Write it so that it is no other kind of name."""
        return f"{SCHEME}{self.name}@{self.commit}"

    def fetch(self, *, weights: bool) -> Path:
        """Bring the files to this machine's cache; without `weights` only those that are small.

        Raises:
            ValueError: If the hub refuses them.
        """
        from huggingface_hub import snapshot_download

        patterns = [pattern for pattern in _FILES if weights or pattern != WEIGHTS]
        with _refusals(self.name):
            return Path(snapshot_download(self.name, revision=self.commit, allow_patterns=patterns))

    def sizes(self) -> dict[str, int] | None:
        """Bytes of each file; None where the hub is not to be asked (`HF_HUB_OFFLINE`)."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import RepoFile

        if constants.HF_HUB_OFFLINE:
            return None
        with _refusals(self.name):
            tree = HfApi().list_repo_tree(self.name, revision=self.commit, recursive=True)
            return {file.path: file.size for file in tree if isinstance(file, RepoFile)}

    def read(self, path: str, start: int, end: int) -> bytes:
        """Read a range of a file's bytes, without the rest of it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
        with _refusals(self.name):
            answer = http_backoff("GET", hf_hub_url(self.name, path, revision=self.commit), headers=headers)
            hf_raise_for_status(answer)
            return answer.content[: end - start]


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Say what the hub objects to in one sentence.

    Raises:
        ValueError: If there is no such model, or it may not be seen.
        RuntimeError: If the hub cannot be reached.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ValueError(
            f"model {name}: its authors ask for consent before anyone may load it: give it on the model's page of the "
            "hub, and set HF_TOKEN to a token of that account wherever the job runs"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(
            f"model {name}: no such folder, and not found on the hub ({_first_line(error)}): correct the name, or set "
            "HF_TOKEN if it is private"
        ) from None
    except LocalEntryNotFoundError as error:
        raise ValueError(f"model {name}: no such folder, and not found on the hub ({_first_line(error)})") from None
    except (HTTPError, OSError) as error:
        raise RuntimeError(
            f"model {name}: no such folder, and the hub does not answer ({_first_line(error)}): run the job again"
        ) from None


def _cached(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=_FILES))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
