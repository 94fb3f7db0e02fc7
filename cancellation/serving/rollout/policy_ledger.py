"""The policy's ledger, append-only: what was in force where, and when. Here its lines, and the file of one machine."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cancellation.decision.policy import MarketPolicy, Policy

_MARKET_POLICY = TypeAdapter(MarketPolicy)


@dataclass(frozen=True, slots=True)
class InForce:
    """A policy as it acts: the file's content, less what is killed."""

    digest: str
    """Of the policy file."""
    killed: tuple[str, ...]
    policy: Policy
    content: bytes
    """The policy file."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What was in force in one market from an instant on."""

    since: float
    """Epoch seconds at which the policy as a whole came into force."""
    policy_version: str
    digest: str
    market: str
    policy: MarketPolicy
    """The market's entry, or the default if it had none."""
    killed: bool
    """Whether it was the kill switch that had turned it off."""


def ledger_line(in_force: InForce, at: float) -> dict[str, Any]:
    """Write what is in force from an instant on as JSON's types."""
    policy = in_force.policy
    return {
        "at": at,
        "policy_version": policy.stamp,
        "digest": in_force.digest,
        "killed": in_force.killed,
        "default": asdict(policy.default),
        "markets": {code: asdict(market) for code, market in sorted(policy.markets.items())},
    }


def says(line: Mapping[str, Any] | None, in_force: InForce) -> bool:
    """Whether a line says that already."""
    return line is not None and (line["digest"], tuple(line["killed"])) == (in_force.digest, in_force.killed)


def entry_of(line: Mapping[str, Any], market: str) -> LedgerEntry:
    """Read what a line says of a market."""
    entry = line["markets"].get(market, line["default"])
    killed = bool({market, "*"} & set(line["killed"]))
    return LedgerEntry(
        line["at"], line["policy_version"], line["digest"], market, _MARKET_POLICY.validate_python(entry), killed
    )


class LedgerFile:
    """One JSON object per line, never changed; shared by the replicas of a machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other replicas from recording; they wait."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def record(self, in_force: InForce, at: float) -> bool:
        """Append what is in force from now on, unless the last line says so already. Only while locked.

        Raises:
            OSError: If it cannot be written.
        """
        if says(self.last(), in_force):
            return False
        self._append(json.dumps(ledger_line(in_force, at), ensure_ascii=False, separators=(",", ":")).encode())
        return True

    def last(self) -> Mapping[str, Any] | None:
        """Give the line of what was put in force last; None: nothing was."""
        lines = self._lines()
        return lines[-1] if lines else None

    def at(self, market: str, instant: float) -> LedgerEntry:
        """Find what was in force in a market at an instant (epoch seconds).

        Raises:
            ValueError: If nothing was recorded by then.
        """
        lines = [line for line in self._lines() if line["at"] <= instant]
        if not lines:
            raise ValueError(f"policy ledger {self.path}: expected an entry up to {instant:.0f}, found none so early")
        return entry_of(lines[-1], market)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        # What a crash left of a line at the end of the file was not in force yet, and a later line follows it.
        lines = (_decoded(line) for line in content.split(b"\n"))
        return [line for line in lines if line is not None]

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + line + b"\n"
            if os.write(descriptor, data) != len(data):
                raise OSError(f"policy ledger {self.path}: expected room for a line, found none; free the disk")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
