"""Is this day fine? A few rules that an engineer on call would apply first, with where to look if one fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from cluster.settings import Settings
from relevance.scoring.measures import PreviousDay, chance_drift, label_drift

FINITE = "Finite probabilities"
_MIN_ROWS_TO_JUDGE = 100
_CHANCE_FACTOR = 3
"""A drift below this many times what chance alone makes says nothing."""


class CheckSettings(Settings):
    """From where on a committed day deserves a look. Nothing here stops the job: `scoring.max_…` do."""

    max_failed_fraction: float = Field(default=0.005, ge=0, le=1)
    """Share of the rows read that have an error of their own."""

    min_label_mass: float = Field(default=0.9, ge=0, le=1)
    """Mean probability that the model gives to the four labels together."""

    max_label_drift: float = Field(default=0.05, ge=0, le=1)
    """Total variation distance between the label shares of this day and of the one before."""

    max_volume_change: float = Field(default=0.5, ge=0)
    """Rows read against the day before, as a fraction of them, up or down."""


@dataclass(frozen=True)
class Check:
    """One rule and what it found."""

    name: str
    passed: bool | None
    """None: there was nothing to judge by."""
    found: str
    expected: str
    remedy: str
    """Where to look when it has not passed."""


def check_day(
    figures: Mapping[str, Any],
    previous: PreviousDay | None,
    fingerprint: str,
    settings: CheckSettings,
    *,
    label_mass: bool = True,
) -> list[Check]:
    """Apply all rules to a day's figures, gravest first.

    Args:
        figures: `ScoringFigures.as_dict()` of the day.
        previous: The day to compare with, if there is one.
        fingerprint: What gave this day's labels, to tell a new model from new pairs.
        settings: The limits.
        label_mass: The engine was asked for it: that it is not known is then a fault.
    """
    return [
        *_check_any(figures),
        *_check_finite(figures),
        *_check_keys(figures),
        *_check_sharing(figures),
        _check_shards(figures),
        _check_failures(figures, settings.max_failed_fraction),
        _check_mass(figures, settings.min_label_mass, asked=label_mass),
        _check_variety(figures),
        _check_drift(figures, previous, fingerprint, settings.max_label_drift),
        _check_volume(figures, previous, settings.max_volume_change),
    ]


def check_rows(figures: Mapping[str, Any], previous: PreviousDay | None, settings: CheckSettings) -> list[Check]:
    """Apply the rules that are about rows and not about labels: are they there, and did each get a label?"""
    return [
        *_check_any(figures),
        *_check_finite(figures),
        _check_shards(figures),
        _check_failures(figures, settings.max_failed_fraction),
        _check_volume(figures, previous, settings.max_volume_change),
    ]


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Sum the checks up: is the day fine, and one line that says so."""
    judged = [check for check in checks if check.passed is not None]
    failed = [check.name.lower() for check in judged if not check.passed]
    first = "".join(f"{check.found}. " for check in judged if check.name == FINITE)
    if not failed:
        return True, f"This day looks fine: {len(judged)} of {len(judged)} checks passed."
    count = f"{len(failed)} of {len(judged)} checks failed ({', '.join(failed)})"
    return False, f"{first}Look at this day before you use it: {count}."


def _check_any(figures: Mapping[str, Any]) -> list[Check]:
    if figures["counts"]["read"]:
        return []
    remedy = (
        "Nothing was there to label: see whether the day's pairs have been written, then run the day again with "
        "replace=true."
    )
    return [Check("Rows", False, "no row was read", "at least one", remedy)]


def _check_finite(figures: Mapping[str, Any]) -> list[Check]:
    return _none_of(
        figures["counts"].get("not_finite", 0),
        FINITE,
        "rows have no label because their probabilities are not finite",
        "Numbers overflowed or the weights are damaged: set scoring.dtype=bfloat16 or float32, check the model's files "
        "and its quantisation, then run the day again with replace=true.",
    )


def _check_keys(figures: Mapping[str, Any]) -> list[Check]:
    return _none_of(
        figures["counts"].get("conflicting", 0),
        "Ids of one pair",
        "pairs have the ids of another pair",
        "Each row has the label of its own texts, but whoever joins by query_id and product_id gets somebody else's: "
        "make the ids name one pair, with the market in front where each market counts its own.",
    )


def _check_sharing(figures: Mapping[str, Any]) -> list[Check]:
    return _none_of(
        figures.get("unshared_pairs", 0),
        "Shared prefixes",
        "pairs had their whole prompt computed",
        "The labels are right, the day took several times as long as it has to: the model's attention (a window, "
        "recurrent layers, positions of another kind) does not go with the engine's. Use scoring.engine=vllm.",
    )


def _none_of(count: float, name: str, found: str, remedy: str) -> list[Check]:
    """A rule that is told only where it is broken; days from before may not have counted it."""
    return [Check(name, False, f"{count:,.0f} {found}", "none", remedy)] if count else []


def _check_shards(figures: Mapping[str, Any]) -> Check:
    poisoned = figures["counts"]["poisoned"]
    return Check(
        "Shards given up",
        poisoned == 0,
        f"{poisoned:,} rows" if poisoned else "none",
        "none",
        "The engine died on these shards again and again. Their rows are in the output with an error: find the "
        "reason in the actors' logs, mend it and run the day again with replace=true: what is labelled is reused.",
    )


def _check_failures(figures: Mapping[str, Any], limit: float) -> Check:
    counts = figures["counts"]
    fraction = (counts["failed"] - counts["poisoned"]) / max(1, counts["read"])
    return Check(
        "Unusable rows",
        fraction <= limit,
        f"{fraction:.2%}",
        f"at most {limit:.2%}",
        "The reasons are listed under Errors; they come from whoever writes the pairs.",
    )


def _check_mass(figures: Mapping[str, Any], limit: float, *, asked: bool) -> Check:
    mass = figures["mean_label_mass"]
    known = mass is not None and math.isfinite(mass)
    return Check(
        "Label mass",
        known and mass >= limit if asked else None,
        f"{mass:.3f}" if known else "cannot be computed" if asked else "not asked for (scoring.label_mass=false)",
        f"at least {limit:.3f}",
        "The model wants to say something else than a label: the prompt, the label words or the adapter do not fit it.",
    )


def _check_variety(figures: Mapping[str, Any]) -> Check:
    total = sum(figures["labels"].values())
    label, most = max(figures["labels"].items(), key=lambda item: item[1])
    passed = None if 0 < total < _MIN_ROWS_TO_JUDGE else total > 0 and most < total
    found = f"every row is {label}" if total and most == total else f"{most / max(1, total):.1%} {label}"
    return Check(
        "Most frequent label",
        passed,
        found if total else "no row has a label",
        "below 100%",
        "A model that says one thing only is broken: check its weights, its adapter and the quantisation.",
    )


def _check_drift(figures: Mapping[str, Any], previous: PreviousDay | None, fingerprint: str, limit: float) -> Check:
    name, expected = "Label drift", f"at most {limit:.3f}"
    if previous is None:
        return Check(name, None, "no earlier day", expected, "")
    drift, chance = label_drift(figures, previous.figures), chance_drift(figures, previous.figures)
    changed = fingerprint != previous.fingerprint
    return Check(
        name,
        drift <= max(limit, _CHANCE_FACTOR * chance),
        f"{drift:.3f} against {previous.name}" + (", by another model or prompt" if changed else ""),
        expected,
        f"The model or its prompt changed ({previous.model} before): compare the two on the same pairs."
        if changed
        else "The model is the same, so the pairs changed: look for a market or category that came or went.",
    )


def _check_volume(figures: Mapping[str, Any], previous: PreviousDay | None, limit: float) -> Check:
    name, expected = "Rows read", f"within {limit:.0%} of the day before"
    if previous is None:
        return Check(name, None, "no earlier day", expected, "")
    read, before = figures["counts"]["read"], previous.figures["counts"]["read"]
    if not before:
        return Check(name, None, f"{previous.name} has no row", expected, "")
    change = read / before - 1
    return Check(
        name,
        abs(change) <= limit,
        f"{change:+.1%} against {previous.name}",
        expected,
        "An input that is incomplete or doubled looks like this: compare its files with the day before.",
    )
