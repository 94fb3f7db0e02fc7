"""Versions of a model in MLflow's registry, and which of them is the champion.

The alias `champion` decides what is run. Beside it the registered model keeps a trail of its champions as a
tag: an alias forgets where it pointed before, and vanishes with a deleted version. The alias is always moved last, so
whoever dies in between leaves the old champion in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from cluster.provenance import hide_credentials
from cluster.tracking import explain_failure, open_client, tracking_uri

CHAMPION, CHALLENGER = "champion", "challenger"
_TRAIL = "champion_trail"
_CONTENT = "content_digest"
_MAX_TRAIL = 50
_MAX_TEXT = 4000
_FOLDER = "model"


class ModelRegistry:
    """The registered model `name` at one MLflow server."""

    def __init__(self, name: str, uri: str | None) -> None:
        self.name = name
        self.uri = tracking_uri(uri)
        self._client = open_client(self.uri)

    def champion(self) -> str | None:
        """Return the version that the alias points to; None where nothing was ever champion.

        Raises:
            ValueError: If there was a champion and it is gone, with the way out.
        """
        trail, aliases = self._state()
        aliased = aliases.get(CHAMPION)
        if aliased is None and trail:
            state = "has lost its alias" if self._exists(trail[-1]) else "was deleted"
            raise ValueError(
                f"the champion {self.name}/{trail[-1]} {state}, so there is nothing to compare with: rollback=true "
                "goes back to the last champion that is left, force=true with a reason publishes without comparing"
            )
        return aliased

    def champion_if_any(self) -> str | None:
        """Return the version that the alias points to; None also where the champion is gone."""
        return self._state()[1].get(CHAMPION)

    def version_with(self, content_digest: str) -> str | None:
        """Find the newest version that has exactly these files."""
        found = [str(one.version) for one in self._versions() if one.tags.get(_CONTENT) == content_digest]
        return max(found, key=int, default=None)

    def register(self, folder: Path, content_digest: str, *, run_id: str, card: str, tags: Mapping[str, str]) -> str:
        """Upload a folder with its card and make a version of it.

        Args:
            folder: Model files.
            content_digest: Names the files; the same files need no second version.
            run_id: The MLflow run that keeps them.
            card: Markdown; the version's description, cut to what MLflow takes (README.md in the folder is whole).
            tags: Where it came from.

        Returns:
            The version's number.

        Raises:
            RuntimeError: If the server refuses or cannot be reached.
        """
        try:
            self._client.log_artifacts(run_id, str(folder), _FOLDER)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/{_FOLDER}"
            if self._model() is None:
                self._client.create_registered_model(self.name)
            version = self._client.create_model_version(
                self.name,
                source,
                run_id,
                tags={name: str(value)[:_MAX_TEXT] for name, value in {**tags, _CONTENT: content_digest}.items()},
                description=card[:_MAX_TEXT],
            )
        except (MlflowException, OSError) as error:
            where, why = hide_credentials(self.uri), explain_failure(error)
            raise RuntimeError(f"MLflow at {where} did not take the model ({why}): run the job again") from None
        return str(version.version)

    def challenge(self, version: str, why: str) -> None:
        """Point the alias `challenger` to a version and write down why it is not champion."""
        self._tag(version, decision=CHALLENGER, why=why)
        self._client.set_registered_model_alias(self.name, CHALLENGER, version)

    def promote(self, version: str, why: str, *, instead_of: str | None, forced: str | None = None) -> None:
        """Make a version champion.

        Args:
            version: Which.
            why: In a sentence.
            instead_of: The champion that it was compared with; another one in its place means a rival job.
            forced: The reason, where it was not compared or did not pass.

        Raises:
            RuntimeError: If the champion has changed meanwhile.
        """
        trail, aliases = self._state()
        present = aliases.get(CHAMPION)
        if present != instead_of:
            raise RuntimeError(
                f"the champion became {self.name}/{present} while {self.name}/{version} was compared with "
                f"{instead_of or 'none'}: run the job again"
            )
        self._tag(version, decision=CHAMPION, why=why, **({"forced": forced} if forced else {}))
        self._move([*trail, version])
        if aliases.get(CHALLENGER) == version:
            self._client.delete_registered_model_alias(self.name, CHALLENGER)

    def roll_back(self, why: str) -> tuple[str, str]:
        """Make the champion before the present one champion again; deleted ones are passed over.

        Returns:
            The version that was champion (or was it last) and the one that is now.

        Raises:
            ValueError: If there is no earlier champion left.
        """
        trail, aliases = self._state()
        existing = {str(one.version) for one in self._versions()}
        earlier = trail[:-1] if CHAMPION in aliases else trail
        kept = [number for number, version in enumerate(earlier) if version in existing]
        if not kept:
            raise ValueError(
                f"no earlier champion of {self.name} is left to go back to (champions so far: "
                f"{', '.join(trail) or 'none'}): publish one"
            )
        before, after = trail[-1], earlier[kept[-1]]
        if before in existing and before != after:
            self._tag(before, rolled_back=why, rolled_back_at=_now())
        self._move(earlier[: kept[-1] + 1])
        return before, after

    def _move(self, trail: list[str]) -> None:
        for name, value in ((_TRAIL, json.dumps(trail[-_MAX_TRAIL:])), ("champion_moved_at", _now())):
            self._client.set_registered_model_tag(self.name, name, value)
        self._client.set_registered_model_alias(self.name, CHAMPION, trail[-1])

    def _state(self) -> tuple[list[str], dict[str, str]]:
        """Champions so far, the present one last, and all aliases.

        Entries behind the present champion are of a job that died before it moved the alias.
        """
        model = self._model()
        if model is None:
            return [], {}
        trail = json.loads(model.tags.get(_TRAIL, "[]"))
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        aliased = aliases.get(CHAMPION)
        if aliased is not None and aliased not in trail:  # moved by hand, in the MLflow UI
            trail.append(aliased)
        elif aliased is not None:
            trail = trail[: len(trail) - trail[::-1].index(aliased)]
        return trail, aliases

    def _model(self) -> RegisteredModel | None:
        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RuntimeError(
                f"MLflow at {hide_credentials(self.uri)} does not answer ({explain_failure(error)}): run the job again"
            ) from None

    def _versions(self) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{self.name}'"))

    def _exists(self, version: str) -> bool:
        return version in {str(one.version) for one in self._versions()}

    def _tag(self, version: str, **tags: Any) -> None:
        for name, value in tags.items():
            self._client.set_model_version_tag(self.name, version, name, str(value)[:_MAX_TEXT])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
