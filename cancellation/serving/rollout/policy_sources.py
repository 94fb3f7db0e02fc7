"""Where policy, kill switch and ledger are kept: files of one machine, or tables of a database that many share."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cancellation.decision.policy import Policy, PolicyError, read_policy
from cancellation.serving.rollout.policy_ledger import InForce, LedgerEntry, LedgerFile, entry_of, ledger_line, says
from cluster.database.interface import Database
from cluster.logs import LastingFault
from cluster.serving.service import regular_file

logger = logging.getLogger(__name__)

Record = Callable[[InForce, float], bool]
"""Keeps the policy, then puts on record what is in force from now on; False if that was the last entry anyway."""

BLIND_SECONDS = 2.5
"""A kill switch that could not be read for so long may have been thrown."""

_LOOKS = 10
"""At files that change meanwhile; what never stands still counts as a kill switch that cannot be read."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is there now; None for what cannot be read."""

    policy: bytes | None
    """In its file's form."""
    kill_switch: str | None
    """A line per market; empty where there is none."""


def checked_policy(seen: Snapshot, place: str) -> Policy:
    """Read the policy that is there.

    Raises:
        PolicyError: If there is none, or it is refused.
    """
    if seen.policy is None:
        raise PolicyError(f"policy {place}: cannot be read; put it back")
    return read_policy(seen.policy, place)


class PolicySource(Protocol):
    """Whatever cannot be written is an OSError."""

    place: str
    """Where the policy is, for errors."""

    def now(self) -> float:
        """Tell the time (epoch seconds) by a clock that all who record share."""
        ...

    def read(self) -> Snapshot:
        """Read policy and kill switch."""
        ...

    def locked(self) -> AbstractContextManager[Record]:
        """Keep others from changing or recording anything for the length of a `with` block."""
        ...

    def accepted(self) -> bytes | None:
        """Give the policy that was accepted last, whatever lies there now; None: none was, or it was not kept."""
        ...

    def kept(self) -> Sequence[str]:
        """Name the policies that were accepted, by their digests."""
        ...

    def content(self, digest: str) -> bytes | None:
        """Give one of them; None: it was not kept."""
        ...

    def at(self, market: str, instant: float) -> LedgerEntry:
        """Find what was in force in a market at an instant (epoch seconds).

        Raises:
            ValueError: If nothing was recorded by then.
        """
        ...


class PolicyFiles:
    """A policy file and its `<policy>.kill`; a ledger file, beside it a folder of what was accepted."""

    def __init__(self, path: Path, ledger: Path) -> None:
        self.path = Path(path)
        self.place = str(self.path)
        self.kill_path = self.path.with_name(f"{self.path.name}.kill")
        self._ledger = LedgerFile(Path(ledger))
        self._kept = Path(ledger).with_name("policies")
        last = self._ledger.last()
        self._thrown: str | None = "\n".join(last["killed"]) if last else ""

    def now(self) -> float:
        """Tell the machine's time."""
        return time.time()

    def read(self) -> Snapshot:
        """Read the files as they are together: of two folders that are swapped, one's policy never goes without its
        kill switch."""
        policy = self._policy()
        for _ in range(_LOOKS):
            thrown, seen = self._kill_switch(beside_policy=policy is not None), policy
            policy = self._policy()
            if policy == seen:
                self._thrown = thrown
                break
        else:
            self._thrown = None
        return Snapshot(policy, self._thrown)

    def _policy(self) -> bytes | None:
        try:
            return _read(self.path)
        except OSError:
            return None

    def _kill_switch(self, *, beside_policy: bool) -> str | None:
        try:
            return _read(self.kill_path).decode("utf-8-sig")
        except FileNotFoundError:
            # A link to nothing is a kill switch that cannot be read, not one that is not there.
            if self.kill_path.is_symlink():
                return None
            # It may have gone with the policy, as with a volume that is away: then it stays as it was.
            return "" if beside_policy else self._thrown
        except (OSError, UnicodeDecodeError):
            return None

    @contextmanager
    def locked(self) -> Iterator[Record]:
        """Keep other replicas of this machine from recording."""

        def record(in_force: InForce, at: float) -> bool:
            self._keep(in_force)
            return self._ledger.record(in_force, at)

        with self._ledger.locked():
            yield record

    def accepted(self) -> bytes | None:
        """Read the file of the ledger's last entry."""
        last = self._ledger.last()
        return None if last is None else self.content(last["digest"])

    def kept(self) -> list[str]:
        """List the folder."""
        return sorted(path.stem for path in self._kept.glob("*.toml"))

    def content(self, digest: str) -> bytes | None:
        """Read a file of the folder."""
        with suppress(FileNotFoundError):
            return self._path_of(digest).read_bytes()
        return None

    def _keep(self, in_force: InForce) -> None:
        path = self._path_of(in_force.digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".writing")
        with temporary.open("wb") as file:
            file.write(in_force.content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _path_of(self, digest: str) -> Path:
        return self._kept / f"{digest}.toml"

    def at(self, market: str, instant: float) -> LedgerEntry:
        """Look it up in the ledger file."""
        return self._ledger.at(market, instant)


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=regular_file) as file:
        return file.read()


LAYOUT = """
CREATE TABLE IF NOT EXISTS rollout (
    name TEXT PRIMARY KEY,
    content {bytes} NOT NULL
);
CREATE TABLE IF NOT EXISTS policy_ledger (
    number {number},
    at DOUBLE PRECISION NOT NULL,
    line TEXT NOT NULL -- JSON
);
CREATE TABLE IF NOT EXISTS policies (
    digest TEXT PRIMARY KEY,
    content {bytes} NOT NULL
);
"""
_ROLLOUT = "rollout"
_POLICY, _KILL_SWITCH = "policy", "kill switch"
_PUT = "INSERT INTO rollout (name, content) VALUES (?, ?) ON CONFLICT (name) DO "
_LAST = "SELECT line FROM policy_ledger WHERE at <= ? ORDER BY number DESC LIMIT 1"
_KEEP = "INSERT INTO policies (digest, content) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING"
_NEVER = 1e300


class PolicyTables:
    """Tables of `LAYOUT`. What is put there once is in force on every gateway within `rollout.poll_seconds`."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.place = database.name
        self._database = database
        self._clock = clock
        self._last, self._read_at = Snapshot(None, None), clock()
        self._fault = LastingFault(logger, f"{database.name} (policy and kill switch)")

    def begin_with(self, policy: bytes) -> None:
        """Put a policy there if there is none yet.

        Raises:
            OSError: If there was one before, and it is gone: what was killed then is not known.
        """
        with self._database.writing(alone=_ROLLOUT) as execute:
            if execute(_PUT + "NOTHING", (_POLICY, policy)).rowcount and execute(_LAST, (_NEVER,)).fetchone():
                raise OSError(
                    f"{self.place}: expected the policy that its ledger tells of in table rollout, found none; let a "
                    "restore come to its end, or kill and publish by jobs.cancellation_rollout 'kill=[\"*\"]' policy=…"
                )

    def publish(self, policy: bytes) -> None:
        """Put a checked policy there in place of the one that is."""
        self._put(_POLICY, lambda _: policy)

    def change_kill_switch(self, *, kill: Sequence[str] = (), revive: Sequence[str] = ()) -> list[str]:
        """Throw it for some markets, * for all, and take it back for others; give what is killed from now on."""

        def change(before: bytes) -> bytes:
            return "\n".join(sorted({*before.decode().split(), *kill} - set(revive))).encode()

        return self._put(_KILL_SWITCH, change).decode().split()

    def now(self) -> float:
        """Tell the server's time."""
        with self._database.reading() as execute:
            return execute(f"SELECT {self._database.now}").fetchone()[0]

    def read(self) -> Snapshot:
        """Read both; a database that is away for a moment has changed neither."""
        try:
            with self._database.reading() as execute:
                found = {
                    name: bytes(content) for name, content in execute("SELECT name, content FROM rollout").fetchall()
                }
        except OSError as error:
            self._fault.failed(str(error))
            blind = self._clock() - self._read_at > BLIND_SECONDS
            return replace(self._last, kill_switch=None) if blind else self._last
        self._fault.works()
        self._read_at = self._clock()
        # A table without a policy is one that is being restored: nobody knows what was killed.
        killed = found.get(_KILL_SWITCH, b"").decode() if _POLICY in found else None
        self._last = Snapshot(found.get(_POLICY), killed)
        return self._last

    @contextmanager
    def locked(self) -> Iterator[Record]:
        """Keep everybody from changing or recording anything."""
        with self._database.writing(alone=_ROLLOUT) as execute:

            def record(in_force: InForce, at: float) -> bool:
                execute(_KEEP, (in_force.digest, in_force.content))
                last = execute(_LAST, (_NEVER,)).fetchone()
                if says(json.loads(last[0]) if last else None, in_force):
                    return False
                line = json.dumps(ledger_line(in_force, at), ensure_ascii=False)
                execute("INSERT INTO policy_ledger (at, line) VALUES (?, ?)", (at, line))
                return True

            yield record

    def accepted(self) -> bytes | None:
        """Read the policy of the ledger's last entry."""
        with self._database.reading() as execute:
            last = execute(_LAST, (_NEVER,)).fetchone()
        return None if last is None else self.content(json.loads(last[0])["digest"])

    def kept(self) -> list[str]:
        """List the table."""
        with self._database.reading() as execute:
            return [digest for (digest,) in execute("SELECT digest FROM policies ORDER BY digest").fetchall()]

    def content(self, digest: str) -> bytes | None:
        """Read a row of the table."""
        with self._database.reading() as execute:
            found = execute("SELECT content FROM policies WHERE digest = ?", (digest,)).fetchone()
        return None if found is None else bytes(found[0])

    def at(self, market: str, instant: float) -> LedgerEntry:
        """Look it up."""
        with self._database.reading() as execute:
            found = execute(_LAST, (instant,)).fetchone()
        if found is None:
            raise ValueError(f"{self.place}: expected an entry up to {instant:.0f}, found none so early")
        return entry_of(json.loads(found[0]), market)

    def _put(self, name: str, change: Callable[[bytes], bytes]) -> bytes:
        with self._database.writing(alone=_ROLLOUT) as execute:
            found = execute("SELECT content FROM rollout WHERE name = ?", (name,)).fetchone()
            content = change(bytes(found[0]) if found else b"")
            execute(_PUT + "UPDATE SET content = excluded.content", (name, content))
        return content
