"""Commit a job's output so that readers see all of it or none, whatever dies on the way.

An output folder of a job that is cut into units of work (shards):

    _staging/plan.json               what is being made; created exclusively, so runs of two plans never mix
    _staging/<stage>/<unit>.json     a unit's manifest; created exclusively, the first attempt wins
    _staging/data/<unit>-<attempt>   a unit's data under its attempt's own name; a loser's is garbage
    part-<unit>.parquet              the winners' data, published when every unit has a manifest
    _SUCCESS                         the job's manifest (JSON), created exclusively, last
    _REPLACING                       instead of it, while one plan's output takes the place of another's

Object stores have no rename, but creating a key only if it is absent is atomic, so resuming is a
listing of manifests. Names that begin with `_` are passed over by Hive, Spark and Arrow readers.
Publishing copies bytes that the winning manifests fix, so it may be repeated or raced.

A plan may replace what another has committed, which stays until all of the new is staged and checked. No store can swap
many files at once, so for the seconds of it `_SUCCESS` is away, for whoever reads `part-*`, and `_REPLACING` names the
files that count, for whoever reads by manifest: the old ones, then, by one write, the new ones, which have names of
their own. Whoever opens the folder behind a run that was killed in it finishes or takes back what that one began.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster import storage

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
REPLACING = "_REPLACING"
STAGING = "_staging"
AGAIN = "again"
"""In a plan: how often its own output was done anew."""


@dataclass(frozen=True)
class Output:
    """One attempt's view of an output folder. Cheap to send to workers."""

    url: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def open(self, plan: Mapping[str, Any], *, replace: bool = False) -> dict[str, Any] | None:
        """Claim the folder for a plan; return the job manifest if that plan is already committed.

        Args:
            plan: What the output is a function of.
            replace: Take the folder from a run of another plan; what that one has committed stays for readers until
                `commit`. No other run may be at work on it.

        Raises:
            ValueError: If the folder belongs to another plan, naming what differs, or holds what no job here wrote, or
                its storage lets more than one run be the first.
        """
        self._settle()
        committed = self.job_manifest() or self._refuse_foreign_files()
        if committed is not None:
            if not replace:
                self._refuse_other_plan(committed.get("plan", {}), plan)
            if _is_of(plan, committed):
                return committed
        data, begun = _encode({"plan": plan}), storage.join_url(self.url, STAGING, "plan.json")
        if storage.create_exclusive(begun, data):
            self._require_refusal(begun, data)
        else:
            found = json.loads(storage.read_bytes(begun))
            if replace and not _is_of(plan, found):
                if committed is None:  # it may have been killed while it published
                    self._remove_parts()
                self.release()
                storage.create_exclusive(begun, data)
            self._refuse_other_plan(json.loads(storage.read_bytes(begun))["plan"], plan)
            logger.info("%s: going on with an unfinished run", self.url)
        if committed is None and self.job_manifest() is not None:
            # Who held the claim before has committed between our two looks: unseen, its output would be replaced.
            self.release()
            return self.open(plan, replace=replace)
        return None

    def find(self, plan: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give or refuse what `open` does, without a claim: before work that may come to nothing.

        Raises:
            ValueError: As `open`.
        """
        committed = self.job_manifest() or self._refuse_foreign_files()
        if committed is not None:
            self._refuse_other_plan(committed.get("plan", {}), plan)
        elif storage.exists(begun := storage.join_url(self.url, STAGING, "plan.json")):
            self._refuse_other_plan(json.loads(storage.read_bytes(begun))["plan"], plan)
        return committed

    def _require_refusal(self, begun: str, data: bytes) -> None:
        """Stop where the storage writes over the claim that was made just now: of two runs both would be the first."""
        # Blanks behind it change no claim. Once may be written because a rival has committed and cleaned up meanwhile.
        if all(storage.create_exclusive(begun, data + blanks) for blanks in (b"\n", b"\n\n")):
            storage.remove(begun)
            raise ValueError(
                f"{self.url}: the storage writes over what is there although told not to (If-None-Match: * on PUT), so "
                "that of two runs each would take itself for the first: use a storage that honours it"
            )

    def release(self) -> None:
        """Give up what is staged, the claim last: a half of it would be taken for the next plan's own."""
        staged = storage.join_url(self.url, STAGING)
        files = [file.url for file in storage.list_files(staged)]
        manifests = [url for url in files if url.endswith(".json") and not url.endswith(f"/{STAGING}/plan.json")]
        storage.remove_files(manifests)
        storage.remove_files([url for url in files if not url.endswith(".json")])
        storage.remove(staged)

    def _settle(self) -> None:
        """End a swap, or take it back where its run was killed on the way: what `_REPLACING` says is so."""
        try:
            content = storage.read_bytes(storage.join_url(self.url, REPLACING))
        except FileNotFoundError:
            return
        self._remove_parts(but=json.loads(content).get("files", ()))
        storage.write_bytes(storage.join_url(self.url, SUCCESS), content)
        storage.remove(storage.join_url(self.url, REPLACING))

    def _remove_parts(self, *, but: Collection[str] = ()) -> None:
        """Only names that a run makes: whatever else lies in the folder stays."""
        own = f"{storage.absolute_url(self.url)}/"
        found = [file.url for file in storage.list_files(self.url) if file.url.startswith(f"{own}part-")]
        storage.remove_files([url for url in found if url.removeprefix(own) not in but])

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
        expected = _as_read(expected)
        different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        if different := [key for key in different if key != AGAIN] or different:  # a number is no setting
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

    def withdraw_units(self, stage: str, units: Collection[str]) -> None:
        """Remove the manifests of units that a rerun is to do anew; the job must not be committed."""
        storage.remove_files([storage.join_url(self.url, STAGING, stage, f"{unit}.json") for unit in units])

    def write_data(self, unit: str, data: bytes) -> str:
        """Write a unit's data under a name that no other attempt uses; return the name within the folder."""
        name = f"{STAGING}/data/{unit}-{self.attempt}-{uuid.uuid4().hex[:8]}"
        storage.write_bytes(storage.join_url(self.url, name), data)
        return name

    def publish(self, files: Mapping[str, str]) -> None:
        """Copy the winners' data, given as {published name: name from `write_data`}, into the open."""
        sources = [storage.join_url(self.url, name) for name in files.values()]
        storage.copy_files(sources, [storage.join_url(self.url, name) for name in files])

    def make_way(self, plan: Mapping[str, Any]) -> str:
        """Begin to replace what another plan has committed, if one has; give what published names are told apart by."""
        committed = self.job_manifest()
        if committed is None:
            return ""
        storage.create_exclusive(storage.join_url(self.url, REPLACING), _encode(committed))
        storage.remove(storage.join_url(self.url, SUCCESS))
        return f"-{hashlib.sha256(_encode(plan)).hexdigest()[:8]}"

    def commit(self, plan: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Create `_SUCCESS`: from here on the output exists. False if another attempt had done so."""
        content = _encode({"plan": plan, **manifest, "attempt": self.attempt})
        if storage.exists(storage.join_url(self.url, REPLACING)):
            storage.write_bytes(storage.join_url(self.url, REPLACING), content)
            self._settle()
            return True
        return storage.create_exclusive(storage.join_url(self.url, SUCCESS), content)

    def committed(self, plan: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the job manifest if it is this plan's."""
        found = self.job_manifest()
        return found if found is not None and _is_of(plan, found) else None

    def clean_up(self) -> None:
        """Remove the staging area of a committed job."""
        if self.job_manifest() is not None:
            self.release()


def read_job_manifest(url: str) -> dict[str, Any] | None:
    """Read the job manifest of an output folder, or None if nothing is committed there.

    Raises:
        ValueError: If the marker there is another program's: Spark's is empty, Hadoop's committers write their own.
    """
    for name in (SUCCESS, REPLACING, SUCCESS):  # again: a swap may have ended between the two
        try:
            return _decode(storage.read_bytes(storage.join_url(url, name)), url)
        except FileNotFoundError:
            continue
    return None


def _decode(content: bytes, url: str) -> dict[str, Any]:
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


def _is_of(plan: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return found.get("plan", {}) == _as_read(plan)


def _as_read(plan: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(_encode(plan))


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1).encode()
