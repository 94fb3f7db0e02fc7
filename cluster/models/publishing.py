"""A folder of model files on its way into the registry: decided on, registered once, then champion or challenger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from cluster.models.files import resolve_model
from cluster.models.registry import ModelRegistry
from cluster.settings import Settings
from cluster.tracking import TrackedRun


class ReleaseSettings(Settings):
    """How the champion is moved by hand."""

    rollback: bool = False
    """Make the champion before the present one champion again, and do nothing else."""

    force: bool = False
    """Make the version champion in spite of every rule; needs a reason."""

    reason: str | None = Field(default=None, min_length=1, max_length=1000)
    """Why it is forced or rolled back; kept with the version."""


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, and why."""

    champion: bool
    why: str
    forced: str | None = None
    """The reason given, where rules were put aside."""


@dataclass(frozen=True)
class Published:
    """What became of a folder."""

    version: str
    """With the registered model's name: `name/3`."""
    decision: Decision | None
    """None: the champion has exactly these files, so nothing was done."""


def roll_back(settings: ReleaseSettings, registry: ModelRegistry, run: TrackedRun) -> str:
    """Move the champion back by one, record it, and say so in a sentence."""
    why = settings.reason or "no reason given"
    before, after = registry.roll_back(why)
    run.tags({"rollback": f"{before} -> {after}", "reason": why})
    return f"champion of {registry.name} is version {after} again, was {before}"


def publish_folder(
    folder: Path,
    registry: ModelRegistry,
    run: TrackedRun,
    *,
    instead_of: str | None,
    decide: Callable[[], Decision],
    register: Callable[[Decision, str, str], str],
) -> Published:
    """Register a folder, unless its files are, and make the version champion or challenger.

    Args:
        folder: What is published; its files name the version.
        registry: Where to.
        run: The MLflow run that keeps the files.
        instead_of: The present champion, read before the version was judged.
        decide: Judges the version; not asked where it is champion already.
        register: Decision, digest of the files and id of the MLflow run -> the new version.

    Raises:
        RuntimeError: If MLflow cannot take the model, or another job moved the champion meanwhile.
    """
    digest = resolve_model(str(folder)).digest
    version = registry.version_with(digest)
    if version is not None and version == instead_of:
        return Published(f"{registry.name}/{version}", None)
    decision = decide()
    if version is None:
        if run.run_id is None:
            raise RuntimeError(f"MLflow is not there ({run.where}): the model is in {folder}, run it again")
        version = register(decision, digest, run.run_id)
    if decision.champion:
        registry.promote(version, decision.why, instead_of=instead_of, forced=decision.forced)
    else:
        registry.challenge(version, decision.why)
    named = f"{registry.name}/{version}"
    run.tags({"version": named, "champion": str(decision.champion), "why": decision.why})
    return Published(named, decision)
