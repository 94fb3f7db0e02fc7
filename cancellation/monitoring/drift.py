"""The 68 features of a day and its texts against those that the model learned from, and against the days before.

A feature, or a direction of the texts, has drifted when chance does not explain it (Kolmogorov-Smirnov on the values, a
test of the missing share, all of them corrected together by Holm) and when the move is large as well (PSI). With many
events everything is significant and little of it matters; with few, large moves are nothing.
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
    """Chance, a day, that chance alone makes even one of the features, or of the texts' directions, significant."""

    min_events: int = Field(default=500, ge=30)
    """Events of a day below which nothing is said."""

    text_sample: int = Field(default=2000, ge=0)
    """Decisions of a day whose texts are compared, chosen by a digest of the event's id, 1 ms each. 0: none."""

    min_texts: int = Field(default=100, ge=30)
    """Texts of a market in it, from which on the market is compared for itself too."""

    missing: float = Field(default=0.98, gt=0.5, le=1)
    """A signal is missing when so large a share of the events lacks it, or has one and the same value."""

    before: float = Field(default=0.8, gt=0, lt=1)
    """… and no larger a share lacked it, or had that value, before."""


TEXT = "text"
"""Group of the texts' directions, beside the features' groups."""


@dataclass(frozen=True)
class Comparison:
    """Counts of a day over bins, and those that they are compared with; in place 0 the missing ones."""

    name: str
    group: str
    counts: np.ndarray
    reference: np.ndarray
    """Of training, over the same bins."""
    recent: np.ndarray | None
    """Of the days before."""
    market: str = ""


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature, or one direction of the texts, moved."""

    name: str
    group: str
    """Of features, or `TEXT`."""
    psi: float
    """Against training, the missing ones a bin of their own."""
    psi_recent: float | None
    """Against the days before; None without any."""
    distance: float
    """Of the values' distributions (Kolmogorov-Smirnov, at the bins' edges), in [0, 1]."""
    p_value: float
    """Of the more surprising of the two tests, doubled as it is the choice of two."""
    significant: bool
    """After correction for everything that is compared on that day."""
    missing: float
    missing_before: float
    drifted: bool
    market: str = ""
    """The only one that is compared; empty: all."""


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
    today: MarketCounts,
    before: Sequence[MarketCounts],
    profile: FeatureProfile,
    settings: DriftSettings,
    *,
    texts: Sequence[Comparison] = (),
) -> list[FeatureDrift]:
    """Compare a day with training, features and `texts` in one correction, the largest move first.

    With too few events no feature is among them.
    """
    compared = [*_features(today, before, profile, settings), *texts]
    tests = [_test(one.counts, one.reference) for one in compared]
    significant = holm([p for _, p in tests], level=settings.level)
    found = []
    for one, (distance, p_value), more_than_chance in zip(compared, tests, significant, strict=True):
        psi = population_stability(one.counts, one.reference)
        found.append(
            FeatureDrift(
                one.name,
                one.group,
                psi,
                None if one.recent is None else population_stability(one.counts, one.recent),
                distance,
                p_value,
                bool(more_than_chance),
                _share(one.counts, 0),
                _share(one.reference, 0),
                bool(more_than_chance) and psi >= settings.min_psi,
                one.market,
            )
        )
    return sorted(found, key=lambda one: (-one.drifted, -one.psi, one.name))


def _features(
    today: MarketCounts, before: Sequence[MarketCounts], profile: FeatureProfile, settings: DriftSettings
) -> list[Comparison]:
    if today.features is None or sum(today.features[0]) < settings.min_events:
        return []
    past = merge(before).features
    recent = [None] * len(FEATURES) if past is None else list(np.array(past))
    return [
        Comparison(feature.name, _GROUP_OF[feature.name], *counts)
        for feature, *counts in zip(FEATURES, np.array(today.features), profile.counts, recent, strict=True)
    ]


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
