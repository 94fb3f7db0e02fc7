"""The policy in force: read anew when it changes where it is kept, market by market turned off by a kill switch.

The kill switch has a line per market code, or * for all; it turns markets off (rules answer, no penalty) without
touching the policy. It errs on the safe side: a line that it does not understand, or a kill switch that cannot be
read, turns everything off; an empty one nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from cancellation.decision.policy import MarketPolicy, Policy, PolicyError
from cancellation.serving.rollout.policy_ledger import InForce, LedgerEntry
from cancellation.serving.rollout.policy_sources import PolicySource, Record, Snapshot, checked_policy
from cluster.logs import LastingFault

logger = logging.getLogger(__name__)

ALL_MARKETS = "*"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the policy file that lies there now is not the one in force."""

    at: float
    """Epoch seconds at which it was first refused."""
    digest: str | None
    """Of the file's content; None if it could not be read."""
    problem: str


@dataclass(frozen=True, slots=True)
class _File:
    """A policy file's content, checked."""

    policy: Policy
    digest: str
    content: bytes


class PolicyStore:
    """One policy, its kill switch and its ledger. Any number of replicas may share all three."""

    def __init__(self, source: PolicySource, *, clock: Callable[[], float] | None = None) -> None:
        """Load the policy and record it.

        One that is refused leaves in force what was accepted last, as while a replica runs: the next that dies must
        come back although somebody has made a mistake since.

        Raises:
            PolicyError: If the policy is refused, and no older one was kept.
            OSError: If the ledger cannot be written.
        """
        self.num_refusals = 0
        self.num_changes = 0
        self.last_refusal: Refusal | None = None
        """None while the policy in force is what the file says."""
        self._clock = clock = clock or source.now
        self._ledger_fault = LastingFault(logger, "policy ledger")
        self._source = source
        with source.locked() as record:
            seen = source.read()
            self._file, self._killed = self._first_file(seen), _killed_of(seen)
            record(self._in_force(self._file, self._killed), clock())
        self.unknown_killed: tuple[str, ...] = ()
        """Markets that the kill switch names and the policy does not have: a mistyped name holds nobody else off."""
        self._apply(self._killed)

    @property
    def current(self) -> Policy:
        """The policy in force; killed markets are off in it, and its version says so."""
        return self._current

    @property
    def digest(self) -> str:
        """Of the policy file in force."""
        return self._file.digest

    def market(self, code: str) -> MarketPolicy:
        """Give what is in force for a market."""
        return self._current.market(code)

    @property
    def killed(self) -> frozenset[str]:
        """Markets that the kill switch holds off; * for all."""
        return self._held

    def reload_if_changed(self) -> bool:
        """Take over a changed policy or kill switch; True if what is in force has changed.

        A policy that is refused leaves the old one in force and is kept in `last_refusal`. So does one that
        the ledger cannot record; a kill switch holds all the same, and is recorded as soon as that is possible.
        """
        seen = self._source.read()
        killed, digest = _killed_of(seen), _digest(seen.policy)
        refused = self.last_refusal is not None and self.last_refusal.digest == digest
        if killed == self._killed and (digest == self._file.digest or refused):
            if digest == self._file.digest:
                self.last_refusal = None
                self._ledger_fault.works()  # at least there is nothing left that it lacks
            return self._hold(killed)
        before = self._current
        self._hold(self._held | killed)  # at once: what is killed does not wait until that is on record
        try:
            with self._source.locked() as record:
                file, killed = self._take_over(record)
        except OSError as error:
            said = f"policy ledger: cannot be written ({error.strerror or error}); the policy stays as it is"
            self._ledger_fault.failed(said)
            self._hold(self._killed | killed)
            return self._current != before
        self._ledger_fault.works()
        self._file, self._killed = file, killed
        self._apply(killed)
        if self._current == before:
            return False
        self.num_changes += 1
        logger.info("policy %s is in force", self._current.stamp)
        return True

    def at(self, market: str, instant: float) -> LedgerEntry:
        """Tell what was in force in a market at an instant (epoch seconds), such as when a penalty was appealed.

        Raises:
            ValueError: If nothing was recorded by then.
        """
        return self._source.at(market, instant)

    def _first_file(self, seen: Snapshot) -> _File:
        try:
            return self._policy_of(seen)
        except PolicyError as error:
            accepted = self._source.accepted()
            if accepted is None:
                raise
            file = self._policy_of(Snapshot(accepted, ""))
            self._refuse(error, _digest(seen.policy), file)
            return file

    def _take_over(self, record: Record) -> tuple[_File, frozenset[str]]:
        """With the ledger locked, so that its order is the order in which replicas saw the changes."""
        seen = self._source.read()
        killed = _killed_of(seen)
        try:
            file = self._policy_of(seen)
            self.last_refusal = None
        except PolicyError as error:
            file = self._file
            self._refuse(error, _digest(seen.policy), file)
        if (killed, file.digest) != (self._killed, self._file.digest):
            record(self._in_force(file, killed), self._clock())
        return file, killed

    def _hold(self, killed: frozenset[str]) -> bool:
        """Apply a kill switch to the policy in force; True if that changes it."""
        if killed == self._held:
            return False
        self._apply(killed)
        return True

    def _apply(self, killed: frozenset[str]) -> None:
        policy, before = self._file.policy, self.unknown_killed
        self._held, self._current = killed, _without(policy, killed)
        self.unknown_killed = tuple(sorted(killed - {ALL_MARKETS, *policy.markets}))
        if self.unknown_killed and self.unknown_killed != before:
            # Told and not refused: a kill switch is thrown first, and looked at then.
            logger.error(
                "kill switch of %s: %s is killed, and is no market of the policy; it has %s",
                self._source.place,
                " ".join(self.unknown_killed),
                " ".join(sorted(policy.markets)),
            )

    def _refuse(self, error: PolicyError, digest: str | None, file: _File) -> None:
        if self.last_refusal is not None and self.last_refusal.digest == digest:
            return
        self.num_refusals += 1
        self.last_refusal = Refusal(self._clock(), digest, str(error))
        logger.error("policy refused, %s stays in force: %s", file.policy.version, error)

    def _policy_of(self, seen: Snapshot) -> _File:
        policy = checked_policy(seen, self._source.place)
        return _File(policy, _digest(seen.policy) or "", seen.policy or b"")

    def _in_force(self, file: _File, killed: frozenset[str]) -> InForce:
        return InForce(file.digest, tuple(sorted(killed)), _without(file.policy, killed), file.content)


def _killed_of(seen: Snapshot) -> frozenset[str]:
    if seen.kill_switch is None:
        return frozenset({ALL_MARKETS})
    words = (line.partition("#")[0].strip().upper() for line in seen.kill_switch.splitlines())
    codes = {word if is_code(word) else ALL_MARKETS for word in words if word}
    return frozenset({ALL_MARKETS} if ALL_MARKETS in codes else codes)


def _without(policy: Policy, killed: frozenset[str]) -> Policy:
    if not killed:
        return policy
    version = f"{policy.version}+kill:{','.join(sorted(killed))}"
    default = policy.default
    markets: Mapping[str, MarketPolicy] = policy.markets
    if ALL_MARKETS in killed:
        default = replace(default, state="off")
        killed = frozenset(markets)
    off = {code: replace(policy.market(code), state="off") for code in killed}
    return replace(policy, version=version, default=default, markets={**markets, **off})


def is_code(word: str) -> bool:
    """Whether a word can be a market's code."""
    return len(word) == 2 and word.isascii() and word.isalpha()


def _digest(content: bytes | None) -> str | None:
    return None if content is None else sha256(content).hexdigest()[:16]
