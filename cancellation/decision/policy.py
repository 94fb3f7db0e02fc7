"""The policy: from a score to an action, market by market, with the evidence that a threshold rests on.

It knows nothing of the model but a version's name in the evidence, and the model knows nothing of it: `actions.py`
brings the two together. A policy file is read whole or refused: a threshold that nobody meant must never reach a
seller.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from datetime import date
from functools import reduce
from importlib import resources
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from cluster.storage import read_bytes

State = Literal["off", "shadow", "live"]
"""off: the rules answer; shadow: the rules answer and the model is logged; live: the model answers."""

Source = Literal["model", "rules", "fallback"]
Action = Literal["penalty", "investigate", "none"]

INVESTIGATE, MIN_PRECISION = 0.45, 0.90

THRESHOLDS = ("induced", "investigate", "penalty")
"""Fields of a market's entry from which a score leads to something, each above it."""

END = "# end of policy"
"""Last line of a policy file: one that was cut off, on its way to a machine or by a full disk, may still be TOML."""

_CONTENT = re.compile(r"-[0-9a-f]{8}$")

# A description says in a refusal what was expected.
_TEXT = Field(strict=True, pattern=r"\S", description="a text")
_COUNT = Field(strict=True, ge=0, description="a whole number from 0")
_PROBABILITY = Field(strict=True, ge=0, le=1, description="a number from 0 to 1")
_TABLE = Field(description="a table")
_CONFIG = ConfigDict(extra="forbid", protected_namespaces=())

Basis = Literal["simulation", "written", "backfill"]
"""What evidence rests on: simulated cancellations, ones with chats that were written for the purpose, or labelled
cancellations of the past. Only the last speaks of real sellers."""


class PolicyError(ValueError):
    """A policy file that was refused; the text names the place and what is expected there."""


def _iso_date(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Evidence:
    """What is known of the precision at a market's penalty threshold, or of what a threshold would still need."""

    cases: Annotated[int, _COUNT]
    """Flagged cases with a label: score above the threshold, of data that chose nothing else."""
    correct: Annotated[int, _COUNT]
    lower_bound: Annotated[float, _PROBABILITY]
    """Of precision, one-sided at 95 % confidence."""
    model_version: Annotated[str, _TEXT]
    date: Annotated[str, _TEXT, BeforeValidator(_iso_date)]
    """ISO date of the labels' last use."""
    pooled: Annotated[tuple[str, ...], Field(description="a list of texts")] = ()
    """Markets whose cases were counted together with this one's; empty: this market's own."""
    cases_missing: Annotated[int | None, _COUNT] = None
    """Further flagged, labelled cases that a proof is expected to need; None: none, or more would not help."""
    events_missing: Annotated[int | None, _COUNT] = None
    """Cancellations to label for that, at the present share of flagged ones."""
    note: Annotated[str, Field(strict=True, description="a text")] = ""
    source: Annotated[Basis | None, Field(description="simulation or written or backfill")] = None
    """None: it does not say, and so allows nothing."""
    period: Annotated[str, Field(strict=True, description="a text")] = ""
    """Days of the cases, first and last: 2026-08-01/2026-09-30."""
    sellers: Annotated[int | None, _COUNT] = None
    """Different sellers of the flagged cases."""
    sampling: Annotated[str, Field(strict=True, description="a text")] = ""
    """How the labelled cases were drawn."""
    temperature: Annotated[float | None, Field(strict=True, gt=0, description="a number above 0")] = None
    """Of the calibrated scores that it speaks of; None: it does not say."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.correct > self.cases:
            raise ValueError(f"correct: expected at most cases = {self.cases}, found {self.correct}")
        return self


@dataclass(frozen=True, slots=True, config=_CONFIG)
class MarketPolicy:
    """What one market does with a score. `penalty` is None where no automatic penalty is allowed."""

    state: Annotated[State, Field(description="off or shadow or live")]
    classes: Annotated[Literal[2, 3], Field(description="2 or 3")]
    """Verdicts of this market: with 2, `inconclusive` is not one."""
    language: Annotated[str, _TEXT]
    """BCP 47 tag in which the market's people are addressed."""
    investigate: Annotated[float, _PROBABILITY] = INVESTIGATE
    penalty: Annotated[float | None, _PROBABILITY] = None
    evidence: Annotated[Evidence | None, _TABLE] = None
    induced: Annotated[float | None, _PROBABILITY] = None
    """A verdict says *induced* above this score alone, though it be the likeliest below; None: where it is that."""

    @property
    def thresholds(self) -> dict[str, float | None]:
        """All of `THRESHOLDS` by name."""
        return {name: getattr(self, name) for name in THRESHOLDS}

    @model_validator(mode="after")
    def _penalty_stands_on_evidence(self) -> Self:
        if self.penalty is None:
            return self
        if self.penalty < self.investigate:
            raise ValueError(f"penalty: expected at least investigate = {self.investigate}, found {self.penalty}")
        if self.induced is not None and self.penalty < self.induced:
            raise ValueError(f"penalty: expected at least induced = {self.induced}, found {self.penalty}")
        if self.evidence is None:
            raise ValueError("penalty: expected evidence beside it, found none: a penalty threshold has to be proven")
        return self


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Policy:
    """One version of the policy for all markets."""

    version: Annotated[str, _TEXT]
    """A label that people chose, and behind it, of a policy that was read, a digest of its content."""
    default: Annotated[MarketPolicy, _TABLE]
    """For markets without an entry; never has a penalty."""
    markets: Annotated[Mapping[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], MarketPolicy], _TABLE]
    min_precision: Annotated[float, _PROBABILITY] = MIN_PRECISION
    """The promise: lower bound of precision that a penalty threshold must have."""
    demo: Annotated[bool, Field(strict=True, description="true or false")] = False
    """Whether evidence that is not of real sellers allows penalties, for trying things out."""

    @property
    def stamp(self) -> str:
        """The version as verdicts carry it: with `+demo` where that is so, and what the kill switch holds off."""
        version, plus, killed = self.version.partition("+")
        return f"{version}{'+demo' if self.demo else ''}{plus}{killed}"

    @model_validator(mode="after")
    def _penalties_are_proven(self) -> Self:
        if self.default.penalty is not None:
            raise ValueError("[default] penalty: expected none, a market that nobody examined has no penalty")
        for code, market in self.markets.items():
            if market.penalty is not None and market.evidence and market.evidence.lower_bound < self.min_precision:
                raise ValueError(
                    f"[markets.{code}] penalty: expected a lower bound of precision of at least {self.min_precision}, "
                    f"found {market.evidence.lower_bound} in its evidence"
                )
        return self

    @property
    def classes(self) -> dict[str, int]:
        """How many verdicts each market knows; of markets without an entry, under an empty code."""
        return {"": self.default.classes, **{code: one.classes for code, one in sorted(self.markets.items())}}

    def market(self, code: str) -> MarketPolicy:
        """Give a market's entry, or the default for one without."""
        return self.markets.get(code, self.default)

    def known_market(self, code: str) -> MarketPolicy:
        """Give a market's own entry.

        Raises:
            PolicyError: If it has none.
        """
        if code not in self.markets:
            known = ", ".join(sorted(self.markets)) or "none"
            raise PolicyError(f"market {code!r}: expected one with an entry in policy {self.version} ({known})")
        return self.markets[code]

    def check_live_markets(self, trained: Collection[str]) -> None:
        """Check that a model was trained on every market in which it is to be live.

        Raises:
            PolicyError: If not; elsewhere a model may guess, in shadow, but not decide.
        """
        if unknown := sorted(code for code, one in self.markets.items() if one.state == "live" and code not in trained):
            raise PolicyError(
                f"policy {self.version} [markets.{unknown[0]}] state: expected off or shadow, found live in a market "
                f"that the model was never trained on (it knows {', '.join(sorted(trained)) or 'none'})"
            )


def load_policy(path: str | Path | None = None) -> Policy:
    """Load a policy file, local or s3://; None: the one that ships with the project.

    Raises:
        PolicyError: If it cannot be read or says something that no policy may say.
    """
    if path is None:
        shipped = resources.files("cancellation.decision") / "policy.toml"
        return parse_policy(shipped.read_text(encoding="utf-8"), "policy.toml")
    try:
        content = read_bytes(str(path))
    except OSError as error:
        raise PolicyError(f"policy {path}: cannot be read ({type(error).__name__})") from None
    return read_policy(content, str(path))


def read_policy(content: bytes, name: str) -> Policy:
    """Read a policy file's content.

    Raises:
        PolicyError: As `load_policy`, and if its end is missing.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(f"policy {name}: expected UTF-8, byte {error.start} is none") from None
    policy = parse_policy(text, name)
    if text.rstrip().rpartition("\n")[2] != END:
        raise PolicyError(f"policy {name}: expected {END!r} as its last line, found none: it may have been cut off")
    return policy


def parse_policy(text: str, name: str = "policy") -> Policy:
    """Parse and check a policy's TOML; `name` stands in the refusals. Its version is made to name its content."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: not TOML ({error})") from None
    try:
        policy = TypeAdapter(Policy).validate_python(table)
    except ValidationError as error:
        raise PolicyError(f"{name} {_problem(error, table)}") from None
    if "+" in policy.version:  # a verdict's policy_version would say what never was: a demo, or a market killed
        raise PolicyError(
            f"{name} version: expected a label without +, behind which verdicts say what else held (+demo, +kill:…), "
            f"found {policy.version!r}"
        )
    return named_by_content(policy, _CONTENT.sub("", policy.version))


def named_by_content(policy: Policy, label: str) -> Policy:
    """Give a policy a version of a label and its own content: two different policies never share one."""
    markets = {code: asdict(market) for code, market in policy.markets.items()}
    content = json.dumps([policy.demo, policy.min_precision, asdict(policy.default), markets], sort_keys=True)
    return replace(policy, version=f"{label}-{hashlib.sha256(content.encode()).hexdigest()[:8]}")


_FIELDS = {model: model.__pydantic_fields__ for model in (Policy, MarketPolicy, Evidence)}
_EXPECTED = {name: field.description for fields in _FIELDS.values() for name, field in fields.items()}


def _problem(error: ValidationError, table: Mapping[str, Any]) -> str:
    """Name the place of what is wrong first, and what is expected there; a misspelt key comes before a missing one."""
    first = min(error.errors(), key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    path = [part for part in first["loc"] if isinstance(part, str)]
    if first["type"] == "value_error":
        return f"{_place(path)}{first['ctx']['error']}"
    *tables, key = path
    if key == "[key]":
        return f"[{tables[0]}]: expected names of two capital letters such as TH, found {tables[1]!r}"
    if first["type"] == "unexpected_keyword_argument":
        known = _FIELDS[Evidence if tables[-1:] == ["evidence"] else MarketPolicy if tables else Policy]
        problem = f"no such key; expected some of {', '.join(known)}"
    else:
        found = "nothing" if first["type"] == "missing" else repr(reduce(getitem, path, table))
        problem = f"expected {_EXPECTED.get(key, 'a table')}, found {found}"
    return f"{_place(tables)}{key}: {problem}"


def _place(tables: list[str]) -> str:
    return f"[{'.'.join(tables)}] " if tables else ""
