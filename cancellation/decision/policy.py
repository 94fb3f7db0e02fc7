"""The policy: from a score to an action, market by market, with the evidence that a threshold rests on.

It knows nothing of the model but a version's name in the evidence, and the model knows nothing of it: `actions.py`
brings the two together. A policy file is read whole or refused: a threshold that nobody meant must never reach a
seller.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

State = Literal["off", "shadow", "live"]
"""off: the rules answer; shadow: the rules answer and the model is logged; live: the model answers."""

Source = Literal["model", "rules", "fallback"]
Action = Literal["penalty", "investigate", "none"]

INVESTIGATE, MIN_PRECISION = 0.45, 0.90
_STATES = get_args(State)

Basis = Literal["simulation", "written", "backfill"]
"""What evidence rests on: simulated cancellations, ones with chats that were written for the purpose, or labelled
cancellations of the past. Only the last speaks of real sellers."""


class PolicyError(ValueError):
    """A policy file that was refused; the text names the place and what is expected there."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the precision at a market's penalty threshold, or of what a threshold would still need."""

    cases: int
    """Flagged cases with a label: score above the threshold, of data that chose nothing else."""
    correct: int
    lower_bound: float
    """Of precision, one-sided at 95 % confidence."""
    model_version: str
    date: str
    """ISO date of the labels' last use."""
    pooled: tuple[str, ...] = ()
    """Markets whose cases were counted together with this one's; empty: this market's own."""
    cases_missing: int | None = None
    """Further flagged, labelled cases that a proof is expected to need; None: none, or more would not help."""
    events_missing: int | None = None
    """Cancellations to label for that, at the present share of flagged ones."""
    note: str = ""
    source: Basis | None = None
    """None: it does not say, and so allows nothing."""
    period: str = ""
    """Days of the cases, first and last: 2026-08-01/2026-09-30."""
    sellers: int | None = None
    """Different sellers of the flagged cases."""
    sampling: str = ""
    """How the labelled cases were drawn."""
    temperature: float | None = None
    """Of the calibrated scores that it speaks of; None: it does not say."""


@dataclass(frozen=True, slots=True)
class MarketPolicy:
    """What one market does with a score. `penalty` is None where no automatic penalty is allowed."""

    state: State
    classes: Literal[2, 3]
    """Verdicts of this market: with 2, `inconclusive` is not one."""
    language: str
    """BCP 47 tag in which the market's people are addressed."""
    investigate: float = INVESTIGATE
    penalty: float | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of the policy for all markets."""

    version: str
    default: MarketPolicy
    """For markets without an entry; never has a penalty."""
    markets: Mapping[str, MarketPolicy]
    min_precision: float = MIN_PRECISION
    """The promise: lower bound of precision that a penalty threshold must have."""
    demo: bool = False
    """Whether evidence that is not of real sellers allows penalties, for trying things out."""

    @property
    def stamp(self) -> str:
        """The version as verdicts carry it: with `+demo` where that is so, and what the kill switch holds off."""
        version, plus, killed = self.version.partition("+")
        return f"{version}{'+demo' if self.demo else ''}{plus}{killed}"

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
    """Load a policy file; None: the one that ships with the project.

    Raises:
        PolicyError: If it cannot be read or says something that no policy may say.
    """
    if path is None:
        shipped = resources.files("cancellation.decision") / "policy.toml"
        return parse_policy(shipped.read_text(encoding="utf-8"), "policy.toml")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path}: cannot be read ({type(error).__name__})") from None
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str = "policy") -> Policy:
    """Parse and check a policy's TOML; `name` stands in the refusals."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: not TOML ({error})") from None
    top = _Table(table, name)
    top.only("version", "min_precision", "demo", "default", "markets")
    min_precision = top.probability("min_precision", MIN_PRECISION)
    default = _market(top.table("default"), min_precision)
    if default.penalty is not None:
        raise PolicyError(f"{name} [default] penalty: expected none, a market that nobody examined has no penalty")
    markets = top.table("markets")
    for code in markets.values:
        if len(code) != 2 or not (code.isascii() and code.isalpha() and code.isupper()):
            raise PolicyError(f"{name} [markets]: expected names of two capital letters such as TH, found {code!r}")
    entries = {code: _market(markets.table(code), min_precision) for code in markets.values}
    return Policy(top.text("version"), default, entries, min_precision, top.flag("demo"))


def _market(table: _Table, min_precision: float) -> MarketPolicy:
    table.only("state", "classes", "language", "investigate", "penalty", "evidence")
    market = MarketPolicy(
        state=table.choice("state", _STATES),
        classes=table.choice("classes", (2, 3)),
        language=table.text("language"),
        investigate=table.probability("investigate", INVESTIGATE),
        penalty=table.probability("penalty") if "penalty" in table.values else None,
        evidence=_evidence(table.table("evidence")) if "evidence" in table.values else None,
    )
    if market.penalty is None:
        return market
    if market.penalty < market.investigate:
        raise table.error("penalty", f"expected at least investigate = {market.investigate}, found {market.penalty}")
    if market.evidence is None:
        raise table.error("penalty", "expected evidence beside it, found none: a penalty threshold has to be proven")
    if market.evidence.lower_bound < min_precision:
        found = f"found {market.evidence.lower_bound} in its evidence"
        raise table.error("penalty", f"expected a lower bound of precision of at least {min_precision}, {found}")
    return market


def _evidence(table: _Table) -> Evidence:
    table.only(*Evidence.__dataclass_fields__)
    day = table.values.get("date")
    evidence = Evidence(
        cases=table.count("cases"),
        correct=table.count("correct"),
        lower_bound=table.probability("lower_bound"),
        model_version=table.text("model_version"),
        date=day.isoformat() if isinstance(day, date) else table.text("date"),
        pooled=table.names("pooled"),
        cases_missing=table.count("cases_missing") if "cases_missing" in table.values else None,
        events_missing=table.count("events_missing") if "events_missing" in table.values else None,
        note=table.text("note") if "note" in table.values else "",
        source=table.choice("source", get_args(Basis)) if "source" in table.values else None,
        period=table.text("period") if "period" in table.values else "",
        sellers=table.count("sellers") if "sellers" in table.values else None,
        sampling=table.text("sampling") if "sampling" in table.values else "",
        temperature=table.positive("temperature") if "temperature" in table.values else None,
    )
    if evidence.correct > evidence.cases:
        raise table.error("correct", f"expected at most cases = {evidence.cases}, found {evidence.correct}")
    return evidence


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table and where it stands, so that a refusal can say so."""

    values: Mapping[str, Any]
    place: str

    def error(self, key: str, problem: str) -> PolicyError:
        return PolicyError(f"{self.place} {key}: {problem}")

    def only(self, *names: str) -> None:
        if unknown := sorted(self.values.keys() - set(names)):
            raise self.error(unknown[0], f"no such key; expected some of {', '.join(names)}")

    def get(self, key: str, expected: str, fits: Callable[[Any], bool]) -> Any:
        if key not in self.values:
            raise self.error(key, f"expected {expected}, found nothing")
        value = self.values[key]
        if not fits(value):
            raise self.error(key, f"expected {expected}, found {value!r}")
        return value

    def table(self, key: str) -> _Table:
        inner = self.get(key, "a table", lambda value: isinstance(value, dict))
        name = f"{self.place[:-1]}.{key}]" if self.place.endswith("]") else f"{self.place} [{key}]"
        return _Table(inner, name)

    def text(self, key: str) -> str:
        return self.get(key, "a text", lambda value: isinstance(value, str) and bool(value.strip()))

    def names(self, key: str) -> tuple[str, ...]:
        if key not in self.values:
            return ()
        return tuple(self.get(key, "a list of texts", _is_list_of_texts))

    def count(self, key: str) -> int:
        return self.get(key, "a whole number from 0", lambda value: type(value) is int and value >= 0)

    def flag(self, key: str) -> bool:
        return key in self.values and self.get(key, "true or false", lambda value: type(value) is bool)

    def positive(self, key: str) -> float:
        return float(self.get(key, "a number above 0", lambda value: type(value) in (int, float) and value > 0))

    def choice(self, key: str, choices: tuple[Any, ...]) -> Any:
        options = " or ".join(map(str, choices))
        return self.get(key, options, lambda value: type(value) is type(choices[0]) and value in choices)

    def probability(self, key: str, default: float | None = None) -> float:
        if default is not None and key not in self.values:
            return default
        return float(self.get(key, "a number from 0 to 1", _is_probability))


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value) and 0 <= value <= 1


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
