"""Commit a job's output so that readers see all of it or none, whatever dies on the way.

An output folder of a job that is cut into units of work (shards):

    _staging/plan.json               what is being made; created exclusively, so runs of two plans never mix
    _staging/<stage>/<unit>.json     a unit's manifest; created exclusively, the first attempt wins
    _staging/data/<unit>-<attempt>   a unit's data under its attempt's own name; a loser's is garbage
    part-<unit>.parquet              the winners' data, published when every unit has a manifest
    _SUCCESS                         the job's manifest (JSON), created exclusively, last

Object stores have no rename, but creating a key only if it is absent is atomic, so resuming is a
listing of manifests. Names that begin with `_` are passed over by Hive, Spark and Arrow readers.
Publishing copies bytes that the winning manifests fix, so it may be repeated or raced.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster import storage

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
STAGING = "_staging"


@dataclass(frozen=True)
class Output:
    """One attempt's view of an output folder. Cheap to send to workers."""

    url: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def open(self, plan: Mapping[str, Any]) -> dict[str, Any] | None:
        """Claim the folder for a plan; return the job manifest if that plan is already committed.

        Raises:
            ValueError: If the folder belongs to another plan, naming what differs, or holds what no job here wrote.
        """
        data = _encode({"plan": plan})
        committed = self.job_manifest() or self._refuse_foreign_files()
        if committed is not None:
            self._refuse_other_plan(committed.get("plan", {}), plan)
            return committed
        if not storage.create_exclusive(storage.join_url(self.url, STAGING, "plan.json"), data):
            found = storage.read_bytes(storage.join_url(self.url, STAGING, "plan.json"))
            self._refuse_other_plan(json.loads(found)["plan"], plan)
            logger.info("%s: going on with an unfinished run", self.url)
        return None

    def clear_other(self, plan: Mapping[str, Any]) -> bool:
        """Remove what a run of another plan has committed or begun here; True if there was one.

        What readers go by goes first, and only names that a run makes: whatever else lies in the folder stays. No other
        run may be at work on it. Until the plan's own run has committed, there is nothing for readers.
        """
        begun = storage.join_url(self.url, STAGING, "plan.json")
        found = self.job_manifest()
        if found is None:
            try:
                found = json.loads(storage.read_bytes(begun))
            except FileNotFoundError:
                return False
        if found.get("plan", {}) == json.loads(_encode(plan)):
            return False
        storage.remove(storage.join_url(self.url, SUCCESS))
        own = f"{storage.absolute_url(self.url)}/part-"
        storage.remove_files([file.url for file in storage.list_files(self.url) if file.url.startswith(own)])
        storage.remove(storage.join_url(self.url, STAGING))
        return True

    def _refuse_foreign_files(self) -> dict[str, Any] | None:
        """Stop before readers would find another's rows among ours; the manifest, if a rival commits just now."""
        names = [file.url.removeprefix(storage.absolute_url(self.url) + "/") for file in storage.list_files(self.url)]
        foreign = [name for name in names if "/" not in name and _is_foreign(name)]
        if not foreign or f"{STAGING}/plan.json" in names:  # an unfinished run of ours publishes before it commits
            return None
        if (committed := self.job_manifest()) is None:
            raise ValueError(
                f"{self.url} holds {foreign[0]} ({len(foreign)} such files), which no run recorded there has written: "
                "choose another output, or remove them"
            )
        return committed

    def _refuse_other_plan(self, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        expected = json.loads(_encode(expected))
        different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        if different:
            raise ValueError(
                f"{self.url} holds a run with different {', '.join(different)}: choose another output, or remove "
                "that folder if its run is to be replaced"
            )

    def job_manifest(self) -> dict[str, Any] | None:
        """Read `_SUCCESS`, or None while the job is not committed."""
        return read_job_manifest(self.url)

    def manifests(self, stage: str) -> dict[str, dict[str, Any]]:
        """Read the manifests of a stage's finished units, by unit name."""
        folder = storage.join_url(self.url, STAGING, stage)
        files = storage.list_files(folder, suffix=".json")
        contents = storage.read_ranges([file.url for file in files], [0] * len(files), [f.size_bytes for f in files])
        names = [file.url.rpartition("/")[2].removesuffix(".json") for file in files]
        return {name: json.loads(content) for name, content in zip(names, contents, strict=True)}

    def commit_unit(self, stage: str, unit: str, manifest: Mapping[str, Any]) -> bool:
        """Create a unit's manifest; False if another attempt's is there, which then stands."""
        url = storage.join_url(self.url, STAGING, stage, f"{unit}.json")
        created = storage.create_exclusive(url, _encode({**manifest, "attempt": self.attempt}))
        logger.debug("%s %s of %s: %s", stage, unit, self.url, "committed" if created else "was there already")
        return created

    def write_data(self, unit: str, data: bytes) -> str:
        """Write a unit's data under a name that no other attempt uses; return the name within the folder."""
        name = f"{STAGING}/data/{unit}-{self.attempt}-{uuid.uuid4().hex[:8]}"
        storage.write_bytes(storage.join_url(self.url, name), data)
        return name

    def publish(self, files: Mapping[str, str]) -> None:
        """Copy the winners' data, given as {published name: name from `write_data`}, into the open."""
        sources = [storage.join_url(self.url, name) for name in files.values()]
        storage.copy_files(sources, [storage.join_url(self.url, name) for name in files])

    def commit(self, plan: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Create `_SUCCESS`: from here on the output exists. False if another attempt had done so."""
        content = _encode({"plan": plan, **manifest, "attempt": self.attempt})
        return storage.create_exclusive(storage.join_url(self.url, SUCCESS), content)

    def clean_up(self) -> None:
        """Remove the staging area of a committed job."""
        if self.job_manifest() is not None:
            storage.remove(storage.join_url(self.url, STAGING))


def read_job_manifest(url: str) -> dict[str, Any] | None:
    """Read the job manifest of an output folder, or None if nothing is committed there.

    Raises:
        ValueError: If the marker there is another program's: Spark's is empty, Hadoop's committers write their own.
    """
    try:
        content = storage.read_bytes(storage.join_url(url, SUCCESS))
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(content)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or ("files" not in manifest and "plan" not in manifest):
        raise ValueError(
            f"{url}: the {SUCCESS} there is none that a job of this project wrote (Spark's is empty): "
            "give another folder, or remove it with what it marks"
        )
    return manifest


def _is_foreign(name: str) -> bool:
    return not name.startswith(("_", ".")) and (name.startswith("part-") or name.lower().endswith(".parquet"))


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1).encode()
