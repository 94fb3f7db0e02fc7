"""The 68 features of a day against those that the model learned from, and against the days before.

A feature has drifted when chance does not explain it (Kolmogorov-Smirnov on the values, a test of the missing share,
all of them corrected together by Holm) and when the move is large as well (PSI). With many events everything is
significant and little of it matters; with few, large moves are nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from cancellation.features.profile import FeatureProfile
from cancellation.features.vector import FEATURES, GROUPS
from cancellation.monitoring.counts import MarketCounts, merge
from cluster.settings import Settings
from cluster.statistics.drift import holm, kolmogorov_smirnov, population_stability, share_difference

_GROUP_OF = {feature.name: group for group, features in GROUPS.items() for feature in features}


class DriftSettings(Settings):
    """From where on a feature has drifted."""

    min_psi: float = Field(default=0.2, gt=0)
    """Population stability index; by custom 0.1 is a small move and 0.2 a large one."""

    level: float = Field(default=0.01, gt=0, lt=1)
    """Chance, a day, that chance alone makes even one of the features significant."""

    min_events: int = Field(default=500, ge=30)
    """Events of a day below which nothing is said."""

    missing: float = Field(default=0.98, gt=0.5, le=1)
    """A signal is missing when so large a share of the events lacks it, or has one and the same value."""

    before: float = Field(default=0.8, gt=0, lt=1)
    """… and no larger a share lacked it, or had that value, before."""


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature moved."""

    name: str
    group: str
    psi: float
    """Against training, the missing ones a bin of their own."""
    psi_recent: float | None
    """Against the days before; None without any."""
    distance: float
    """Of the values' distributions (Kolmogorov-Smirnov, at the bins' edges), in [0, 1]."""
    p_value: float
    """Of the more surprising of the two tests, doubled as it is the choice of two."""
    significant: bool
    """After correction for all features."""
    missing: float
    missing_before: float
    drifted: bool


@dataclass(frozen=True)
class MissingSignal:
    """A feature that stopped saying anything, in one market or in all."""

    market: str
    """Empty: in all."""
    feature: str
    how: str
    share: float
    share_before: float
    returned: bool = False
    """It was missing in training and is there now: a model that is trained anew could use it."""


def feature_drift(
    today: MarketCounts, before: Sequence[MarketCounts], profile: FeatureProfile, settings: DriftSettings
) -> list[FeatureDrift]:
    """Compare a day with training, the largest move first; empty with too few events."""
    if today.features is None or sum(today.features[0]) < settings.min_events:
        return []
    now, reference = np.array(today.features), profile.counts
    past = merge(before).features
    recent = None if past is None else np.array(past)
    tests = [_test(counts, known) for counts, known in zip(now, reference, strict=True)]
    significant = holm([p for _, p in tests], level=settings.level)
    found = []
    for place, (feature, (distance, p_value)) in enumerate(zip(FEATURES, tests, strict=True)):
        psi = population_stability(now[place], reference[place])
        found.append(
            FeatureDrift(
                feature.name,
                _GROUP_OF[feature.name],
                psi,
                None if recent is None else population_stability(now[place], recent[place]),
                distance,
                p_value,
                bool(significant[place]),
                _share(now[place], 0),
                _share(reference[place], 0),
                bool(significant[place]) and psi >= settings.min_psi,
            )
        )
    return sorted(found, key=lambda one: (-one.drifted, -one.psi, one.name))


def _test(counts: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    distance, by_value = kolmogorov_smirnov(counts[1:], reference[1:])
    by_missing = share_difference(int(counts[0]), int(counts.sum()), int(reference[0]), int(reference.sum()))
    return distance, min(1.0, 2 * min(by_value, by_missing))


def missing_signals(
    today: Mapping[str, MarketCounts],
    before: Mapping[str, Sequence[MarketCounts]],
    profile: FeatureProfile,
    settings: DriftSettings,
) -> list[MissingSignal]:
    """Find features that fell silent against the days before, or against training where there are none.

    A signal that is missing in all markets is named once. One that training never had and that is there now is given
    with `returned`.
    """
    whole = merge(list(today.values()))
    days = [one for counts in before.values() for one in counts]
    found = _silent("", whole, merge(days), profile, settings) + _returned(whole, profile, settings)
    everywhere = {one.feature for one in found}
    for code in sorted(today):
        own = _silent(code, today[code], merge(before.get(code, [])), profile, settings)
        found += [one for one in own if one.feature not in everywhere]
    return found


def _silent(
    market: str, today: MarketCounts, before: MarketCounts, profile: FeatureProfile, settings: DriftSettings
) -> list[MissingSignal]:
    if today.features is None or sum(today.features[0]) < settings.min_events:
        return []
    enough = before.features is not None and sum(before.features[0]) >= settings.min_events
    known = np.array(before.features) if enough else profile.counts
    found = []
    for feature, counts, past in zip(FEATURES, np.array(today.features), known, strict=True):
        place = int(counts.argmax())
        share, share_before = _share(counts, place), _share(past, place)
        # One bin of several values is no single value: such a bin held a quantile's share of them before.
        if share >= settings.missing and share_before <= settings.before:
            how = "missing" if place == 0 else "always about the same value"
            found.append(MissingSignal(market, feature.name, how, share, share_before))
    return found


def _returned(today: MarketCounts, profile: FeatureProfile, settings: DriftSettings) -> list[MissingSignal]:
    if today.features is None or sum(today.features[0]) < settings.min_events:
        return []
    rows = zip(FEATURES, np.array(today.features), profile.counts, strict=True)
    return [
        MissingSignal("", feature.name, "there again", 1 - _share(counts, 0), 1 - _share(past, 0), returned=True)
        for feature, counts, past in rows
        if _share(past, 0) >= settings.missing and _share(counts, 0) <= settings.before
    ]


def _share(counts: np.ndarray, place: int) -> float:
    return float(counts[place] / max(1, counts.sum()))
